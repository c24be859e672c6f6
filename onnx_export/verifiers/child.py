"""Asks a program questions in a process of its own, which ends at a limit of time or of memory.

Some verifiers ignore their time limit, take all the memory of the machine, or crash.  None of this harms the process
that asks.

The program is a Python file with a function ``answer(question)``.  It is run as a file, not as a module, so that it
starts without the packages of this project, unless it imports them itself.
"""

import contextlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

STARTING = 120.0  # seconds that a program may take to start: it may import large packages
SPARE = 1.0  # seconds after which a process ends by itself if nobody has ended it at its limit
NO_MEMORY = ("bad_alloc", "allocate memory", "MemoryError", "Memory allocation")  # said if memory is refused


class Ended(Exception):
    """A question got no answer.

    reason: "time", "memory", or "crash".  detail: what is known about it, in one line; it may be empty.
    """

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Child:
    """A program in a process of its own.

    It starts with the first question.  It goes on to the next question after an answer, and starts again after
    ``Ended``.

    Args:
        program: the file with ``answer``, from picklable questions to picklable answers.
        memory: bytes of private memory that the process may have, and each process that it starts.  Linux refuses more
            to it; other systems may not.
    """

    def __init__(self, program: str | os.PathLike, memory: int):
        self.program, self.memory = Path(program), memory
        self._process: subprocess.Popen | None = None

    def ask(self, question: object, seconds: float) -> object:
        """Returns the program's answer.

        Raises:
            Ended: there is no answer after so many seconds, the process was refused memory, or it ended; or the
                program raised an exception, which is a "crash" too.
        """
        if self._process is None:
            self._start()
        with contextlib.suppress(OSError):  # of a process that has ended; the reply says so
            self._connection.send_bytes(pickle.dumps((question, seconds + SPARE)))
        return self._reply(seconds)

    def close(self) -> None:
        """Ends the process, and all that it has started."""
        if self._process is not None:
            self._end()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 it is open as long as the process runs
        # -P: the folder of this file must not hide other packages of the same names.
        command = [sys.executable, "-P", __file__, str(theirs.fileno()), str(self.program), str(self.memory)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        with contextlib.suppress(OSError):
            self._connection.send_bytes(pickle.dumps([path or os.getcwd() for path in sys.path]))
        self._reply(STARTING)

    def _reply(self, seconds: float) -> object:
        try:
            if not self._connection.poll(seconds):
                raise Ended("time")
            failed, content = pickle.loads(self._connection.recv_bytes())
            if failed:
                raise Ended(_reason_of(content), content)
            return content
        except (EOFError, OSError):
            code, last = self._end()
            if code == -signal.SIGALRM:
                raise Ended("time") from None
            end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            detail = f"{end}, {last}" if last else end
            raise Ended(_reason_of(detail), detail) from None
        except BaseException:
            self._end()
            raise

    def _end(self) -> tuple[int, str]:
        """Ends the process group.  Returns its exit status, and the last line that it wrote to stderr.

        A process that has ended by itself keeps its own status: it is waited for only here, so its number is its own.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        self._connection.close()
        self._errors.close()
        self._process = None
        return code, lines[-1][:200] if lines else ""


def _reason_of(detail: str) -> str:
    return "memory" if any(word in detail for word in NO_MEMORY) else "crash"


# In the process.


def _main(connection: Connection, program: str, memory: int) -> None:
    """Takes the paths of packages, then answers questions until the other side closes the connection."""
    import resource  # Windows has none

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer: Callable | None = None
    while True:
        try:
            received = connection.recv_bytes()
        except EOFError:
            return
        try:
            if answer is None:
                # Only now: what stands in a folder of the user must not hide modules that Python needs to start.
                sys.path[:] = pickle.loads(received)
                answer, content = _answer_of(program), None
            else:
                question, seconds = pickle.loads(received)
                # The signal ends the process inside compiled code too, also if the process that asks is gone.
                signal.setitimer(signal.ITIMER_REAL, seconds)
                content = answer(question)
            reply = False, content
        except Exception as error:
            reply = True, " ".join(f"{type(error).__name__}: {error}".split())[:500]
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(pickle.dumps(reply))


def _answer_of(program: str) -> Callable:
    spec = importlib.util.spec_from_file_location("program", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answer


if __name__ == "__main__":
    _main(Connection(int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))

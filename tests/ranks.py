"""Two processes of one run, for tests: each is asked to call the same function of a test file."""

import importlib.util
import multiprocessing
import pickle
import sys
import tempfile
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

WORLD = 2


class Ranks:
    """Started once, because importing torch takes longer than a test.  Both are forks of one process that imports it.

    ``Ranks(__file__)(function, *args)`` gives [result of rank 0, of rank 1]: each calls the function of that name in
    that file with its ``parallel.Ranks`` and the arguments.  An exception on a rank is an AssertionError with its
    traceback here.
    """

    def __init__(self, path: str):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "linf_plugin.training.parallel"])
        self.folder = tempfile.TemporaryDirectory()
        self.connections, self.processes = [], []
        for rank in range(WORLD):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, path, rank, self.folder.name), daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)

    def __call__(self, function, *args) -> list:
        for connection in self.connections:
            connection.send_bytes(pickle.dumps((function.__name__, args)))
        answers = [pickle.loads(connection.recv_bytes()) for connection in self.connections]
        for rank, (error, _) in enumerate(answers):
            assert error is None, f"rank {rank}:\n{error}"
        return [result for _, result in answers]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join()
        self.folder.cleanup()


def _serve(connection, path: str, rank: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    from linf_plugin.training.parallel import Ranks as Joined

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(Path(folder) / "store"), WORLD),
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=30),  # a rank that waits in vain is a failure, not a hang
    )
    joined = Joined(rank, WORLD, torch.device("cpu"), dist.group.WORLD, dist.group.WORLD)
    spec = importlib.util.spec_from_file_location("jobs", path)
    jobs = importlib.util.module_from_spec(spec)
    sys.modules["jobs"] = jobs
    spec.loader.exec_module(jobs)
    while True:
        try:
            name, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            answer = None, getattr(jobs, name)(joined, *args)
        except BaseException:
            answer = traceback.format_exc(), None
        connection.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()

"""Reports a run while it goes on: in a file of JSON lines, and in TensorBoard if it is installed."""

import contextlib
import json
import sys
from pathlib import Path

import torch

from ..files import replacing

SCALARS = ("loss", "eps", "lr", "seconds", "images_per_second", "peak_memory_mib", "validation_seconds")


class Log:
    """Writes each dict of ``fit``'s history when its epoch ends, as one JSON line and as TensorBoard's scalars.

    p appears in TensorBoard as 1/p, which is 0 at p = ∞.

    Args:
        path: the file of JSON lines.
        tensorboard: the folder for TensorBoard's files; with None there are none.  If the package ``tensorboard`` is
            missing, a line on stderr says so, and only the JSON lines are written.
    """

    def __init__(self, path: str | Path, tensorboard: str | Path | None = None):
        self.path = Path(path)
        self.folder = None if tensorboard is None else Path(tensorboard)
        self._board = None

    def start(self, history: list[dict]) -> None:
        """Begins with the epochs that are done.  All other reports of an earlier run are removed."""
        self.close()
        with replacing(self.path) as f:
            f.write("".join(map(_line, history)).encode())
        if self.folder is not None:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._board = _summary_writer(self.folder)
        for record in history:
            self._scalars(record)

    def add(self, record: dict) -> None:
        """Writes one more epoch."""
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(_line(record))
        self._scalars(record)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _scalars(self, record: dict) -> None:
        if self._board is None:
            return
        values = {name: record[name] for name in SCALARS if record.get(name) is not None}
        values["1/p"] = 1 / float(record["p"])
        for weights, figures in record.get("validation", {}).items():
            values |= {f"validation {weights}/{name}": value for name, value in figures.items()}
        for name, value in values.items():
            self._board.add_scalar(name, value, record["epoch"], walltime=record["time"])


def _line(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard's files are not written: the package tensorboard is not installed "
            "(pip install 'linf-plugin[tensorboard]')",
            file=sys.stderr,
        )
        return None
    return SummaryWriter(str(folder), flush_secs=10)


def peak_memory_mib(device: torch.device) -> float | None:
    """Returns the most memory in use so far, in MiB.

    On a GPU it is torch's memory since the counter was reset.  On a CPU it is the memory of the process, or None if the
    system does not tell it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return None

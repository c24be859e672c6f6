"""Processes that tests kill, or take the disk from: each function here runs in a process of its own.

They start in moments: a server has imported torch already.
"""

import itertools
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import torch

from linf_plugin import build, checkpoint
from linf_plugin.training import Schedule, adam, clipped_hinge, fit

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["linf_plugin.training", "torch._dynamo"])  # optimisers import the second


def start(function, *arguments) -> multiprocessing.Process:
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def kill(process: multiprocessing.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL  # it had not ended by itself


def save_for_ever(path: Path, first: int) -> None:
    """The file ``path``.first says that the first number was saved.  Ends with the tests."""
    parent = os.getppid()
    for number in itertools.count(first):
        if os.getppid() != parent:
            return
        checkpoint.write(path, {"number": number, "tensor": torch.full((300_000,), number)})
        if number == first:
            Path(f"{path}.{first}").touch()


def save_on_a_full_disk(path: Path, limit: int) -> None:
    """Writes to ``path``.error what saving raised; files cannot grow beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        checkpoint.write(path, {"number": 2, "tensor": torch.rand(300_000)})
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        Path(f"{path}.error").write_text(str(error))


def train(folder: Path, epochs: int, resume: bool, slow: bool) -> None:
    """A run with everything that a state holds; at its end it writes ``done``.  A slow one says in ``steps`` where
    it is."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(96, 1, 4, 4, generator=generator), torch.arange(96) % 2
    x[y == 0, :, :2] *= 0.5
    torch.manual_seed(5)
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=3)

    def loss(model, x, y, step):
        if slow:
            (folder / "steps").write_text(str(step.epoch))
        return clipped_hinge(model(x), y, step.eps, 0.1)

    def validate(model):
        return {"certified": (model(x[64:]).argmax(1) == y[64:]).double().mean().item()}

    fit(
        model,
        loss,
        adam(model, 0.05),
        Schedule(epochs=epochs, eps=0.1, p_end=0.8 * epochs),
        x[:64],
        y[:64],
        batch_size=16,
        seed=2,
        average=0.9,
        validate=validate,
        state_path=folder / "state.pt",
        resume=resume,
        progress=False,
    )
    checkpoint.write(folder / "done", model.state_dict())

"""What does a training step cost: plain, compiled, and with the optimiser in one kernel?"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

import linf_plugin
from linf_plugin.layers.base import set_p
from linf_plugin.progress import hidden
from linf_plugin.training import Schedule, adam

from ..methods.losses import LOSSES
from ..report.words import markdown_rows
from ..running.machine import device_name
from . import shell
from .shell import Save, Study, main, positive

NETS = {  # width, depth, batch, of an ℓ∞-dist net on images of 28×28
    "128 wide, depth 3, batch 64": (128, 3, 64),
    "512 wide, depth 3, batch 512": (512, 3, 512),
    "5120 wide, depth 5, batch 512": (5120, 5, 512),
}
ON_CPU = list(NETS)[:2]  # on a CPU the last one takes minutes
STEP_EXPONENTS = (8.0, 100.5, math.inf)
PAIRED = 15  # rounds; in a round each variant takes one step

DESCRIPTION = f"""\
Times whole training steps (forward, clipped hinge, backward, Adam) of ℓ∞-dist nets: plain, with the net and the loss
compiled by torch.compile, with Adam's updates fused into one kernel, and with both.  Variants take turns in {PAIRED}
rounds.  A ratio is a median over rounds: a variant's time divided by that of the plain step in the same round."""


class Compiled(nn.Module):
    """The loss of a net as one module, for torch.compile."""

    def __init__(self, model: nn.Module, loss: nn.Module, step):
        super().__init__()
        self.model, self.loss, self.step = model, loss, step

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.model, x, y, self.step)


def variants(width: int, depth: int, batch: int, p: float, device: str) -> dict[str, Callable[[], None]]:
    """Returns name → step.  Each step trains its own net; all nets start with the same weights."""
    schedule = Schedule(epochs=2, eps=0.3, p_end=1)
    step = schedule.at(0.5)
    x = torch.rand(batch, 1, 28, 28, device=device)
    y = torch.arange(batch, device=device) % 10

    def make(compiled: bool, fused: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        model = linf_plugin.build("linf-mlp", shape=(1, 28, 28), classes=10, width=width, depth=depth).to(device)
        loss = LOSSES["clipped-hinge"](model.eval(), schedule, ce_first=0.1, ce_last=0.01).to(device)
        set_p(model.train(), p)
        optimizer = adam(model, 0.03, loss, 0.006, fused=fused)
        run = Compiled(model, loss, step)
        run = torch.compile(run) if compiled else run

        def one() -> None:
            optimizer.zero_grad()
            run(x, y).backward()
            optimizer.step()

        return one

    return {
        "plain": make(False, False),
        "torch.compile": make(True, False),
        "fused Adam": make(False, True),
        "both": make(True, True),
    }


def measure(steps: dict[str, Callable[[], None]], device: str, rounds: int) -> dict[str, list[float]]:
    """Returns variant → the seconds of its step in each round."""
    for step in steps.values():  # the first steps compile
        step()
        step()
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shell.add_device(parser)
    parser.add_argument("--rounds", type=int, default=PAIRED, metavar="N", help=f"default: {PAIRED}")
    parser.add_argument("--nets", type=int, metavar="N", help="the first N nets; default: all, on a CPU the first two")


def run(args: argparse.Namespace, save: Save) -> dict:
    """Measures every net at every exponent; saves after each."""
    positive(args, "rounds", "nets")
    where, rounds = shell.device(args), args.rounds
    nets = (list(NETS) if args.device == "cuda" else ON_CPU)[: args.nets]
    results = {"device": device_name(where), "torch": torch.__version__, "rounds": rounds, "rows": []}
    cases = [(net, p) for net in nets for p in STEP_EXPONENTS]
    for net, p in tqdm(cases, desc="steps", unit="case", disable=hidden(not args.quiet)):
        seconds = measure(variants(*NETS[net], p, args.device), args.device, rounds)
        ratios = {
            name: statistics.median(a / b for a, b in zip(taken, seconds["plain"])) for name, taken in seconds.items()
        }
        results["rows"].append(
            {"net": net, "p": repr(p), "plain_seconds": statistics.median(seconds["plain"]), "ratios": ratios}
        )
        save(results)
    return results


def table(results: dict) -> str:
    """Returns Markdown with one row for each net and exponent."""
    names = [name for name in results["rows"][0]["ratios"] if name != "plain"]
    rows = [
        [
            row["net"],
            "∞" if row["p"] == "inf" else row["p"].removesuffix(".0"),
            f"{1e3 * row['plain_seconds']:.1f}",
            *(f"{row['ratios'][name]:.2f}" for name in names),
        ]
        for row in results["rows"]
    ]
    parts = [
        "## A training step",
        f"Milliseconds of a plain step, and the time of other forms as multiples of it: medians of {results['rounds']} "
        f"rounds in which all took turns. {results['device']}, torch {results['torch']}.",
        markdown_rows(["ℓ∞-dist net", "p", "plain, ms", *names], rows),
    ]
    return "\n\n".join(parts) + "\n"


STUDY = Study("steps", DESCRIPTION, add_arguments, run, table)

if __name__ == "__main__":
    sys.exit(main(STUDY))

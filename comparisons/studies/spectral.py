"""How tight and how fast are bounds of spectral norms?  Gram iteration, SVD, LipBound, norm2toep, power iteration."""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linf_plugin.progress import hidden
from linf_plugin.spectral import SPECTRAL_METHODS, Convolution, bound, norm

from ..report.words import markdown_rows
from ..running.machine import device_name
from . import shell
from .shell import Save, Study, main, positive

ROUNDS = 5  # all methods take turns in each


@dataclass(frozen=True)
class Case:
    """A layer to bound: its label, and how it is made."""

    label: str
    make: Callable[[], Tensor | Convolution]


def _dense() -> Tensor:
    return torch.randn(500, 400, dtype=torch.float64)


def _conv(kernel: int, n: int, mode: str, size: bool = True) -> Callable[[], Convolution]:
    def make() -> Convolution:
        weight = torch.randn(64, 64, kernel, kernel, dtype=torch.float64)
        return Convolution(weight, padding=kernel // 2, padding_mode=mode, size=n if size else None)

    return make


CASES = {
    "dense": Case("dense, 500×400", _dense),
    "conv5-circular": Case("64→64, 5×5, n = 12, circular", _conv(5, 12, "circular")),
    "conv5-zeros": Case("64→64, 5×5, n = 12, zeros", _conv(5, 12, "zeros")),
    "conv3-circular": Case("64→64, 3×3, n = 32, circular", _conv(3, 32, "circular")),
    "conv3-zeros": Case("64→64, 3×3, n = 32, zeros", _conv(3, 32, "zeros")),
    "conv3-every": Case("64→64, 3×3, every size", _conv(3, 0, "zeros", size=False)),
}
# label → (method, iterations, whether it is a certificate).  "For training" is a value and its gradient.
NORM_WAYS = {
    "gram, certified": ("gram", None, True),
    "svd, certified": ("svd", None, True),
    "lipbound, certified": ("lipbound", None, True),
    "norm2toep, certified": ("norm2toep", None, True),
    "gram ×6, for training": ("gram", 6, False),
    "svd, for training": ("svd", None, False),
    "lipbound, for training": ("lipbound", None, False),
    "norm2toep ×3, for training": ("norm2toep", 3, False),
    "power ×10, for training": ("power", 10, False),
    "power ×100, for training": ("power", 100, False),
}

DESCRIPTION = f"""\
Bounds the spectral norms of random layers, with weights N(0, 1), by every method.  An excess is the bound minus the
reference, divided by the reference.  The reference is the norm itself: by the SVD of the matrix or of the symbol for
matrices and circular padding; otherwise it is a lower bound, by 1000 power iterations on the images.  The excess of a
lower bound is negative.  Methods take turns in {ROUNDS} rounds; times are medians.  "For training" is a value and its
gradient in the dtype of --dtype, certificates are in float64.

The exit status is 1 if a certificate is below the reference."""


def reference(layer: Tensor | Convolution) -> float:
    """Returns the norm, or for zeros a lower bound of it."""
    if isinstance(layer, Tensor):
        return torch.linalg.svdvals(layer)[0].item()
    if layer.padding_mode == "circular":
        frequencies = torch.fft.fft2(layer.weight, s=layer.size).permute(2, 3, 0, 1)
        return torch.linalg.svdvals(frequencies).max().item()
    return bound(layer, "power", certify=False, iterations=1000).value


def _with_weight(layer: Tensor | Convolution, weight: Tensor) -> Tensor | Convolution:
    if isinstance(layer, Tensor):
        return weight
    return Convolution(
        weight, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode, layer.size
    )


def value_of(layer: Tensor | Convolution, way: str, dtype: torch.dtype) -> float:
    """Returns what one way gives.  A way for training also computes the gradient."""
    method, iterations, certified = NORM_WAYS[way]
    if certified:
        return bound(layer, method, iterations=iterations).value
    weight = nn.Parameter((layer if isinstance(layer, Tensor) else layer.weight).to(dtype))
    found = norm(_with_weight(layer, weight), method, iterations=iterations)
    found.backward()
    return found.item()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shell.add_device(parser)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--cases", metavar="A,B", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="for training; default: float32"
    )


def _cases(given: str | None) -> list[str]:
    names = list(CASES) if given is None else list(filter(None, map(str.strip, given.split(","))))
    if unknown := [name for name in names if name not in CASES]:
        raise ValueError(f"--cases: each must be one of {', '.join(CASES)}, got {unknown[0]!r}")
    if not names:
        raise ValueError("--cases: name at least one")
    return names


def run(args: argparse.Namespace, save: Save) -> dict:
    """Measures every way for every layer; saves after each layer."""
    positive(args, "rounds")
    where, names = shell.device(args), _cases(args.cases)
    results = {
        "device": device_name(where),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "dtype": args.dtype,
        "cases": {},
    }
    dtype = getattr(torch, args.dtype)
    with tqdm(total=len(names) * args.rounds, desc="spectral", unit="round", disable=hidden(not args.quiet)) as bar:
        for name in names:
            torch.manual_seed(0)
            layer = CASES[name].make()
            moved = (layer if isinstance(layer, Tensor) else layer.weight).to(where)
            layer = _with_weight(layer, moved)
            exact = reference(layer)
            seconds: dict[str, list[float]] = {way: [] for way in NORM_WAYS}
            values = {way: value_of(layer, way, dtype) for way in NORM_WAYS}  # the first calls also make tables
            for _ in range(args.rounds):
                for way in NORM_WAYS:
                    seconds[way].append(_timed(layer, way, dtype, where))
                bar.update()
            rows = {way: {"value": values[way], "seconds": statistics.median(seconds[way])} for way in NORM_WAYS}
            results["cases"][name] = {"label": CASES[name].label, "reference": exact, "ways": rows}
            save(results)
    return results


def _timed(layer: Tensor | Convolution, way: str, dtype: torch.dtype, where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    value_of(layer, way, dtype)
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def below(results: dict) -> int:
    """Counts certificates that are below the reference, by more than the reference's own rounding."""
    return sum(
        row["value"] < case["reference"] * (1 - 1e-13)
        for case in results["cases"].values()
        for way, row in case["ways"].items()
        if NORM_WAYS[way][2]
    )


def table(results: dict) -> str:
    """Returns Markdown: a table for each layer, with one row for each way."""
    parts = [
        "## Bounds of spectral norms",
        f"Random weights N(0, 1). Excess: the bound minus the reference, as a part of the reference. Milliseconds: "
        f"medians of {results['rounds']} rounds in which all took turns. For training: a value and its gradient, in "
        f"{results['dtype']}; certificates are in float64. {results['device']}, torch {results['torch']}.",
    ]
    for case in results["cases"].values():
        rows = [
            [
                way,
                SPECTRAL_METHODS[NORM_WAYS[way][0]].kind,
                f"{row['value']:.6g}",
                _excess(row["value"], case["reference"]),
                f"{1e3 * row['seconds']:.2f}",
            ]
            for way, row in case["ways"].items()
        ]
        parts += [
            f"### {case['label']}: reference {case['reference']:.6g}",
            markdown_rows(["way", "bound", "value", "excess", "ms"], rows),
        ]
    wrong = below(results)
    parts.append(
        "No certificate is below the reference."
        if wrong == 0
        else f"**{wrong} certificates are below the reference: a bound is wrong.**"
    )
    return "\n\n".join(parts) + "\n"


def _excess(value: float, exact: float) -> str:
    part = value / exact - 1
    return "0" if part == 0 or not math.isfinite(part) else f"{part:+.1e}"


STUDY = Study("spectral", DESCRIPTION, add_arguments, run, table, wrong=below)

if __name__ == "__main__":
    sys.exit(main(STUDY))

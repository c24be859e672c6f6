"""Which files are made, and what is wrong with what a reader does of them."""

import copy
import functools
import io
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from . import checkpoints, child, onnx_files

MOST_SECONDS = 20  # of processor time
MOST_MB = 1024


@dataclass(frozen=True)
class Case:
    """A file and who reads it: ``kind`` of ``KINDS``; a ``name`` in the table of its kind, or a number."""

    kind: str
    action: str
    name: str | int


def cases(count: int) -> list[Case]:
    """Every known kind of harm, and changes by numbers until there are ``count`` files."""
    found = [Case("ONNX", "import", name) for name in onnx_files.TABLE]
    found += [Case("ONNX", "show", name) for name in list(onnx_files.TABLE)[::8]]
    found += [Case("checkpoint", "load", name) for name in checkpoints.TABLE]
    shares = [("ONNX", "import")] * 5 + [("ONNX", "show")] + [("checkpoint", "load")] * 3 + [("state", "resume")]
    return found + [Case(*shares[i % len(shares)], i) for i in range(max(0, count - len(found)))]


@functools.cache
def _wholes(exports: bool) -> dict[str, onnx.ModelProto]:
    with tempfile.TemporaryDirectory() as folder:
        return onnx_files.whole(Path(folder), exports)


@functools.cache
def _state() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        checkpoints.train(path, resume=False)
        return path.read_bytes()


def make(case: Case, seed: int, folder: Path, exports: bool = True) -> tuple[Path, str]:
    """Writes the file of a case to a folder; its path, and what was done to it."""
    rng = random.Random(f"{seed} {case}")
    path = folder / {"ONNX": "net.onnx", "checkpoint": "net.pt", "state": "state.pt"}[case.kind]
    if isinstance(case.name, str):
        content = onnx_files.written(case.name, folder) if case.kind == "ONNX" else checkpoints.TABLE[case.name]()
        path.write_bytes(content)
        return path, case.name
    if case.kind == "ONNX":
        content, what = _changed_onnx(rng, exports)
    else:
        content, what = _changed_checkpoint(case.kind, rng)
    path.write_bytes(content)
    return path, what


def _changed_onnx(rng: random.Random, exports: bool) -> tuple[bytes, str]:
    name, whole = rng.choice(list(_wholes(exports).items()))
    if rng.random() < 0.3:
        content, what = onnx_files.change_bytes(whole.SerializeToString(), rng)
        return content, f"{name}: {what}"
    for _ in range(10):
        model = copy.deepcopy(whole)
        done = [onnx_files.change_a_field(model, rng) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
        try:
            return model.SerializeToString(), f"{name}: {', '.join(done)}"
        except (ValueError, UnicodeEncodeError):
            continue  # text that no encoding has
    return whole.SerializeToString(), f"{name}: nothing"


def _changed_checkpoint(kind: str, rng: random.Random) -> tuple[bytes, str]:
    net = rng.choice(checkpoints.NETS)
    content = checkpoints.content_of(net) if kind == "checkpoint" else None
    if content is None:
        content = torch.load(io.BytesIO(_state()), weights_only=True)["content"]
    if rng.random() < 0.3:
        content, what = onnx_files.change_bytes(checkpoints.sealed(content), rng)
        return content, f"{kind}: {what}"
    done = [checkpoints.change_a_part(content, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    return checkpoints.sealed(content), f"{kind}: {', '.join(done)}"


def wrong(found: dict) -> list[str]:
    """What is wrong with what a reader did; nothing where it read the file or said one sentence."""
    failures = []
    if found["status"] not in (0, 2):
        failures.append(f"ended with {found['status']}: {found['stderr'].strip().splitlines()[-1:]}")
    elif found["status"] == 2 and len(found["stderr"].strip().splitlines()) != 1:
        failures.append(f"said {len(found['stderr'].splitlines())} lines")
    if found["cpu_seconds"] is not None and found["cpu_seconds"] > MOST_SECONDS:
        failures.append(f"took {found['cpu_seconds']:.0f} s")
    if found["peak_mb"] is not None and found["peak_mb"] > MOST_MB:
        failures.append(f"took {found['peak_mb']:.0f} MB")
    return failures


def run(chosen: list[Case], seed: int, exports: bool = True) -> Iterator[dict]:
    """What became of each case, one after the other."""
    for case in chosen:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            path, what = make(case, seed, Path(folder), exports)
            size = path.stat().st_size
            found = child.give(case.action, path)
        failures = wrong(found)
        said = {key: (found[key] or "").replace(folder, "…")[:400] for key in ("stderr", "remark")}
        yield {
            "kind": case.kind,
            "action": case.action,
            "name": case.name,
            "what": what,
            "bytes": size,
            **found,
            **said,
            "failures": failures,
        }

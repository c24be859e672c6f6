"""``python -m hostile``, from a folder where ``tests`` is on the path."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime
import torch
from tqdm import tqdm

import linf_plugin

from . import campaign, child
from .report import table

DESCRIPTION = """\
Gives hostile files to everything that reads files: ONNX files to linf-export import and show, checkpoints to
linf_plugin.load, states of runs to fit.  All known kinds of harm, and files of which a seed changes fields or bytes.

A file must be read, or refused in one sentence, within limits on time and memory; a net that was read from an ONNX
file must compute what onnxruntime computes of it.

Exit status 1 where that is not so."""


def run(count: int, seed: int, progress: bool, exports: bool = True) -> dict:
    """The first ``count`` files of a seed, and what became of them."""
    chosen = campaign.cases(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt"
        path.write_bytes(b"")
        idle = child.give("load", path)["peak_mb"]
    files, failed = [], 0
    runs = campaign.run(chosen, seed, exports)
    bar = tqdm(runs, total=len(chosen), desc="hostile", unit="file", disable=not progress)
    for found in bar:
        files.append(found)
        failed += bool(found["failures"])
        bar.set_postfix_str(f"{failed} failures")
    versions = {
        "linf-plugin": linf_plugin.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    limits = {"seconds": campaign.MOST_SECONDS, "mb": campaign.MOST_MB}
    return {"count": count, "seed": seed, "limits": limits, "idle_mb": idle, "versions": versions, "files": files}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a file did harm, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m hostile", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=600, metavar="N", help="default: 600")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/hostile"), help="default: results/hostile"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if args.files < 1:
        print(f"{parser.prog}: error: --files must be positive", file=sys.stderr)
        return 2
    results = run(args.files, args.seed, progress=not args.quiet)
    args.out.mkdir(parents=True, exist_ok=True)
    text = table(results)
    (args.out / "hostile.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    for found in results["files"]:
        if found["failures"]:
            print(f"{found['kind']}, {found['what']}: {'; '.join(found['failures'])}", file=sys.stderr)
    return 1 if any(found["failures"] for found in results["files"]) else 0


if __name__ == "__main__":
    sys.exit(main())

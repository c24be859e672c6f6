"""``linf-export verify``."""

import argparse
import sys

from ..files.load import content_of, parsed
from ..files.seal import props_of
from ..files.text import shown
from ..running.verify import Verification, verify_content
from ..writing.metadata import FROM_RUN
from .common import data_of


def run(args: argparse.Namespace) -> int:
    content = content_of(args.onnx)
    props = props_of(parsed(content, args.onnx, weights=False))
    data = data_of(args, args.onnx, props)
    images, labels = data.x_test[: args.limit], data.y_test[: args.limit]
    print(f"{args.onnx} on {len(images)} test {data.things} of {shown(data.name)}")
    found = verify_content(content, args.onnx, images, labels, args.device)
    if found.accuracy is not None:
        print(_report(found, props))
    for failure in found.failures:
        print(f"linf-export: FAILED: {shown(failure)}", file=sys.stderr)
    return 1 if found.failures else 0


def _report(found: Verification, props: dict[str, str]) -> str:
    accuracy = found.accuracy
    lines = [f"clean accuracy        {accuracy.correct / accuracy.images:.4f}"]
    if accuracy.certified is not None:
        lines.append(
            f"certified accuracy    {accuracy.certified / accuracy.images:.4f} at ε = {found.epsilon:g}, by "
            f"{accuracy.certificate}"
        )
    lines += [f"agrees                {check}" for check in found.checks]
    reported = {key: value for key, value in props.items() if key.startswith(FROM_RUN)}
    if reported:
        lines.append("reported by the training run, with its own certificates; these are not recomputed here:")
        lines += [f"  {key.removeprefix(FROM_RUN):<32}{_number(value)}" for key, value in reported.items()]
    return "\n".join(lines)


def _number(text: str) -> str:
    try:
        return f"{float(text):.4f}"
    except ValueError:
        return text

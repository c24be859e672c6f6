"""``linf-export model``."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from linf_plugin.datasets import SOURCES, Dataset, OtherData
from linf_plugin.files import check_absent
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.materialised import materialise
from linf_plugin.models.net import Net
from linf_plugin.norms import NORMS, SYMBOLS

from ..exporting import export, record
from ..files.load import load
from ..files.seal import props_of
from ..files.text import shown
from ..running.accuracy import measure
from ..running.compare import compare
from ..running.session import session
from ..writing.metadata import Accuracy
from ..writing.settings import FLAVOURS
from .common import data_of, given_model, model_of, refusals

COMPARED = (
    16  # samples on which a file is compared with a net of the user: so many random ones, and so many of the data
)


def run(args: argparse.Namespace) -> int:
    check_absent(args.output, args.force)
    source = _source(args)
    data, accuracy = _data(args, source), None  # before a file is written, so an error leaves no file
    metadata, input_shape = source.metadata, source.input_shape or (data and tuple(data.x_test.shape[1:]))
    if data is not None and input_shape is not None and tuple(data.x_test.shape[1:]) != input_shape:
        found = tuple(data.x_test.shape[1:])
        raise ValueError(f"{source.name} takes {data.things} of shape {input_shape}, {data.name} has {found}")
    if data is not None and args.model is not None:
        metadata = metadata | data.identity
    with refusals():
        export(
            source.model,
            args.output,
            metadata,
            source.file,
            input_shape=input_shape,
            flavour=args.flavour,
            certificate=args.certificate,
            epsilon=args.epsilon,
            pixels=args.pixels,
            norm=args.norm,
            force=args.force,
        )
    if args.model is not None and not _computes(args.output, source.model, input_shape, data):
        print(
            f"linf-export: FAILED: onnxruntime computes other logits from {args.output} than PyTorch from the model",
            file=sys.stderr,
        )
        return 1
    props = props_of(load(args.output))
    if data is not None:
        eps = float(props["epsilon"]) if "epsilon" in props else None
        accuracy = measure(args.output, data.x_test, data.y_test, eps)
        record(args.output, accuracy)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes, {_certificates(source.model, props)}")
    if accuracy is not None:
        print(_sentence(accuracy, data.things))
    return 0


def _computes(path: Path, model: nn.Module, input_shape: tuple[int, ...], data: Dataset | None) -> bool:
    """Whether the logits of a file are those of a net of the user, up to rounding, on some samples."""
    generator = torch.Generator().manual_seed(0)
    samples = [torch.rand(COMPARED, *input_shape, generator=generator)]
    if data is not None:
        samples.append(data.x_test[:COMPARED])
    return compare(session(path, "cpu"), model, torch.cat(samples)).right


class _Source(NamedTuple):
    """A net, and where it comes from.

    Attributes:
        model: the net.
        name: what messages call it.
        metadata: what training wrote beside it.
        file: the checkpoint, or the weights of a net of the user; None if there are none.
        input_shape: of a sample; None if it is not known.
    """

    model: nn.Module
    name: str | Path
    metadata: dict
    file: Path | None
    input_shape: tuple[int, ...] | None


def _source(args: argparse.Namespace) -> _Source:
    """The net that the arguments name.  Raises ValueError if they name none, or two."""
    if (args.model is None) == (args.checkpoint is None):
        raise ValueError("give either a CHECKPOINT or --model FILE.py:FUNCTION")
    if args.model is not None:
        if args.input_shape is None and args.data is None:
            raise ValueError("--model does not tell the shape of a sample: give --input-shape, such as 3,32,32")
        return _Source(given_model(args), args.model, {}, args.weights, args.input_shape)
    if args.weights is not None or args.input_shape is not None:
        raise ValueError("--weights and --input-shape are for --model: a CHECKPOINT has its own")
    model, metadata = model_of(args.checkpoint)
    return _Source(model, args.checkpoint, metadata, args.checkpoint, model.input_shape)


def _certificates(model: nn.Module, props: dict[str, str]) -> str:
    """What is proved of a net, in words; of a net of the user, and in other norms than ℓ∞, what the file says."""
    norm = props["norm"]
    if isinstance(model, Net) and norm == "linf":
        return f"Lipschitz bound {lipschitz_bound(materialise(model), norm):g}"
    of = "" if norm == "linf" else f"{SYMBOLS[NORMS[norm]]} "
    found = [f"{of}Lipschitz bound {float(props['lipschitz']):g}"] if "lipschitz" in props else []
    if props.get("certificate", "").endswith("interval"):
        found.append(f"interval bound for ε = {float(props['epsilon']):g}")
    return ", ".join(found) or "no certificate"


def _data(args: argparse.Namespace, source: _Source) -> Dataset | None:
    """The data on which the file is measured.

    None where the file is for verifiers, or the data set is not known, not available, or not that of the checkpoint.
    """
    if FLAVOURS[args.flavour].for_verifiers:
        return None
    if args.data is None and args.data_dir is None:
        name = source.metadata.get("dataset")
        if name not in SOURCES or SOURCES[name].files:
            return None
    try:
        return data_of(args, source.name, source.metadata)
    except OtherData as error:
        print(f"linf-export: the file gets no accuracies: {shown(error.what)}", file=sys.stderr)
        return None


def _sentence(accuracy: Accuracy, things: str) -> str:
    text = f"of {accuracy.images} test {things} {accuracy.correct} are classified correctly"
    if accuracy.certified is not None:
        text += f", {accuracy.certified} of them certified ({accuracy.certificate})"
    return text

"""``linf-export import``."""

import argparse
import math

from linf_plugin import checkpoint
from linf_plugin.datasets import DIGESTS
from linf_plugin.files import check_absent
from linf_plugin.layers.lipschitz import lipschitz_bound

from ..files.load import load
from ..files.seal import props_of
from ..files.text import said
from ..reading.recompute import norm_of, read_back
from ..writing.settings import is_epsilon

MOST_LETTERS = 200  # in a name in the metadata


def run(args: argparse.Namespace) -> int:
    check_absent(args.output, args.force)
    onnx_model = load(args.onnx)
    try:
        model, metadata = read_back(onnx_model), _metadata(props_of(onnx_model))
    except ValueError as error:
        raise ValueError(f"{args.onnx}: {error}") from error
    if args.data not in (None, metadata.get("dataset")):  # the digests are then not those of this data set
        metadata = {key: a for key, a in metadata.items() if key not in DIGESTS} | {"dataset": args.data}
    checkpoint.save(args.output, model, metadata)
    layers = ", ".join(name for name, _ in model.spec["layers"])
    print(f"{args.output}: {layers}; Lipschitz bound {lipschitz_bound(model, math.inf):g}")
    return 0


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > MOST_LETTERS:
        raise ValueError("not a name")
    return text


def _epsilon(text: str, norm: str) -> float:
    if not is_epsilon(float(text), norm):
        raise ValueError(f"not an ε in {norm}")
    return float(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError("not a whole number")
    return int(text)


IMPORTED = {  # key that is taken from a file → function that reads its value, in a file whose radius has a norm
    "method": lambda text, norm: _name(text),
    "dataset": lambda text, norm: _name(text),
    **dict.fromkeys(DIGESTS, lambda text, norm: _name(text)),
    "epsilon": _epsilon,
    "seed": lambda text, norm: _seed(text),
}


def _metadata(props: dict[str, str]) -> dict:
    """The metadata of an ONNX file that go into the checkpoint.  Raises ValueError where a value is wrong."""
    norm = norm_of(props)
    found = {} if norm == "linf" else {"norm": norm}
    for key in IMPORTED.keys() & props.keys():
        try:
            found[key] = IMPORTED[key](props[key], norm)
        except ValueError as error:
            raise ValueError(f"the metadata give {said(props[key])} as {key}") from error
    return {key: found[key] for key in ("norm", *IMPORTED) if key in found}

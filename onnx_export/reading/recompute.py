"""Reads the net in a file, writes the file anew from it, and compares the two: nothing in a file is taken on trust."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto

from linf_plugin import plain
from linf_plugin.models.net import Net

from ..files.seal import DIGEST, FORMAT, broken_seal, claims, content_sha256, props_of
from ..files.text import said
from ..writing import record
from ..writing.compose import check_net, compose
from ..writing.metadata import CLAIMED_CERTIFICATES, MEASURED, claimed, is_told, versions
from ..writing.settings import FLAVOURS, RADIUS_NORMS, Settings, is_epsilon
from ..writing.traced import read as traced_reading
from ..writing.traced.compose import Traced, check
from .net import to_net

VERIFIER_OPERATORS = {"Add", "Conv", "Gemm", "MaxPool", "Relu", "Reshape", "Tanh", "Transpose"}
VERIFIER_PARTS = {"ir_version", "opset_import", "producer_name", "graph", "metadata_props"}
VERIFIER_GRAPH = {"node", "name", "initializer", "input", "output"}
WRITING_PACKAGES = ("linf_plugin", "onnx", "onnxscript")  # the wording of a file depends on these packages
MOST_TOLD = 3  # differences in a message


def settings_of(model: ModelProto) -> Settings:
    """The settings with which a file says that it was written.  Raises ValueError where there are no such settings."""
    props = props_of(model)
    certificate, flavour, norm = props.get("certificate"), props.get("flavour"), norm_of(props)
    if certificate not in CLAIMED_CERTIFICATES:
        raise ValueError(f"its certificate is {certificate!r}, which this version does not know")
    if flavour not in FLAVOURS:
        raise ValueError(f"its flavour is {flavour!r}, which this version does not know")
    try:
        epsilon = float(props["epsilon"]) if "epsilon" in props else None
    except ValueError:
        epsilon = -1.0
    if epsilon is not None and not is_epsilon(epsilon, norm):
        right = "a number in (0, 1]" if norm == "linf" else "a positive number"
        raise ValueError(f"its epsilon is {props['epsilon']!r}, and must be {right}")
    certified, interval = CLAIMED_CERTIFICATES[certificate]
    if interval and epsilon is None:
        raise ValueError("it has an interval bound and no epsilon")
    if norm != "linf" and (interval or not certified):
        raise ValueError(f"its norm is {norm}, which is only for files with a radius and no interval bound")
    (x,) = model.graph.input[:1] or [None]
    pixels = "byte" if x is not None and x.type.tensor_type.elem_type == TensorProto.UINT8 else "float"
    return Settings(flavour, pixels, certified, interval, epsilon, norm)


def norm_of(props: dict[str, str]) -> str:
    """The norm of the radius of a file with these metadata.  Files that name none are older than other norms than ℓ∞.

    Raises:
        ValueError: this version does not know the norm.
    """
    norm = props.get("norm", "linf")
    if norm not in RADIUS_NORMS:
        raise ValueError(f"its norm is {said(norm)}, which this version does not know")
    return norm


def net_of(model: ModelProto) -> Net | Traced:
    """The net that a file with its weights describes.  ``contradictions`` says whether the file computes it.

    Raises:
        ValueError: the file describes no net, or one that cannot be.
    """
    props = props_of(model)
    if "net" in props:
        return record.read(props["net"], _constants(model, record.TENSORS))
    if "graph" in props:
        return Traced(*traced_reading.read(props["graph"], _constants(model, traced_reading.TENSORS)))
    raise ValueError("it does not describe its net")


def _constants(model: ModelProto, names: Collection[str]) -> dict[str, np.ndarray]:
    """The constants of a net, which stand in the file as PLACE.NAME with one of these names."""
    arrays = {}
    for tensor in model.graph.initializer:
        name = tensor.name.rpartition(".")[2]
        if name not in names:
            continue
        kind, bits, numbers = INDICES if name == "index" else REALS
        size = math.prod(tensor.dims) * np.dtype(bits).itemsize
        if tensor.data_type != kind or min(tensor.dims, default=0) < 0 or len(tensor.raw_data) != size:
            raise ValueError(f"{tensor.name} is not stored as {numbers} numbers")
        arrays[tensor.name] = np.frombuffer(tensor.raw_data, bits).reshape(tensor.dims)
    return arrays


INDICES, REALS = (TensorProto.INT64, "<i8", "int64"), (TensorProto.FLOAT, "<f4", "float32")  # how they are stored


def read_back(model: ModelProto) -> Net:
    """The net that a file with its weights computes, as layers.

    If ``export`` wrote the file and nothing in it was changed, it is the net that the file describes.  Otherwise it is
    read from the graph by ``net.to_net``, and the errors are those of that function.
    """
    props = props_of(model)
    if props.get("file_format") == FORMAT and "net" in props and not contradictions(model):
        return record.read(props["net"], _constants(model, record.TENSORS))
    return to_net(model)


Composed = tuple[ModelProto, dict[str, str]]


def contradictions(model: ModelProto, compose: Callable[[Net | Traced, Settings], Composed] = compose) -> list[str]:
    """Everything in a file with its weights that is not as ``export`` writes it, in words; empty where nothing is.

    First the digest is compared.  Then the net is read, and the graph, its constants and bodies, and the metadata that
    a certificate rests on are written anew and compared, every field of every message.  What a file says about its
    accuracies (``metadata.MEASURED``) and its origin (``metadata.TOLD``) is not compared.

    Args:
        model: with its weights.
        compose: the function of this package, or one that returns the same.
    """
    props = props_of(model)
    if props.get("file_format") != FORMAT:
        return [_of_another_version(model, props)]
    wrong = broken_seal(model)
    if wrong is not None:
        return [wrong]
    try:
        settings = settings_of(model)
        if FLAVOURS[settings.flavour].for_verifiers:
            return _of_a_verifier(model, settings, props)
        net = net_of(model)
        check(net) if isinstance(net, Traced) else check_net(net)
        expected, metadata = compose(net, settings)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return [f"it cannot be written anew: {error}"]
    found = _metadata(metadata, props)
    if not found:
        for p in model.metadata_props:
            expected.metadata_props.add(key=p.key, value=p.value)
        if content_sha256(expected) != content_sha256(model):
            found = _differences(expected, model)
    if found and (reason := _versions(props)):
        found.append(reason)
    return found


def _of_another_version(model: ModelProto, props: dict[str, str]) -> str:
    if "file_format" in props:
        return (
            f"its format is {props['file_format']!r}, and that of this version is {FORMAT!r}: write it again from its "
            "checkpoint, with linf-export model"
        )
    if claims([o.name for o in model.graph.output], props) or "norm" in props:
        return (
            "it was written by an earlier version, and does not hold what its certificates can be recomputed from: "
            f"write it again by linf-export model {props.get('checkpoint', 'CHECKPOINT')} -o FILE --force"
        )
    return "linf-export did not write it, and it says nothing that could be verified"


def _versions(props: dict[str, str]) -> str | None:
    """A sentence, if the file was written with other versions of packages; their graphs may differ.  Else None."""
    try:
        then = dict(plain.loads(props.get("versions", "{}")))
    except (TypeError, ValueError):
        return None
    now = versions()
    others = [
        f"{a} {then[a]} (here {now[a]})" for a in WRITING_PACKAGES if a in then and a in now and then[a] != now[a]
    ]
    if not others:
        return None
    return (
        f"it says that it was written with {', '.join(others)}, which may put it in other words: verify it with these, "
        "or write it again from its checkpoint"
    )


def _metadata(expected: dict[str, str], props: dict[str, str]) -> list[str]:
    """The differences between the metadata of a file and those that its net and settings give."""
    found = [
        f"{key} is {_short(props.get(key))} in the metadata, and must be {_short(value)}"
        for key, value in expected.items()
        if props.get(key) != value
    ]
    found += [
        f"its metadata have {key!r}, which such a file does not have"
        for key in props
        if key not in expected and key not in MEASURED and key != DIGEST and not is_told(key)
    ]
    found += [
        f"{key} is {said(value)} in the metadata, and must be a line of text"
        for key, value in props.items()
        if is_told(key) and not value.isprintable()
    ]
    return found[:MOST_TOLD]


def _short(text: str | None) -> str:
    if text is None:
        return "missing"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _differences(expected: ModelProto, found: ModelProto) -> list[str]:
    """The differences between a model and the expected one, in words."""
    different = []
    for a, b, known in ((expected, found, {"graph", "metadata_props"}), (expected.graph, found.graph, set())):
        for field in a.DESCRIPTOR.fields:
            if field.name not in known:
                different += _field(field.name, *(_parts(message, field.name) for message in (a, b)))
    if not different:
        different = ["it has unknown parts"]
    more = len(different) - MOST_TOLD
    return different[:MOST_TOLD] + ([f"and {more} more parts are not as they are written"] if more > 0 else [])


def _parts(message: Message, name: str) -> list[tuple[str, bytes]]:
    """(name, content) of each part that a field holds."""
    value = getattr(message, name)
    if isinstance(value, (str, bytes, int, float, Message)):
        value = [value] if message.HasField(name) else []
    found = []
    for part in value:
        if isinstance(part, Message):
            title = getattr(part, "name", "") or getattr(part, "domain", "")
            title += f" ({part.op_type})" if isinstance(part, NodeProto) else ""
            found.append((title, part.SerializeToString(deterministic=True)))
        else:
            found.append((repr(part), repr(part).encode()))
    return found


def _field(name: str, expected: list, found: list) -> Iterator[str]:
    name = name.replace("_", " ")
    for a, b in itertools.zip_longest(expected, found):
        if b is None:
            yield f"{name} {a[0]} is missing".replace("  ", " ")
        elif a is None:
            yield f"{name} {b[0]} is not expected".replace("  ", " ")
        elif a != b:
            yield f"{name} {b[0]} is not as it is written".replace("  ", " ")


def _of_a_verifier(model: ModelProto, settings: Settings, props: dict[str, str]) -> list[str]:
    """The differences in a file for other verifiers.  It has no certificate and must not look as if it had one."""
    if settings.certified:
        return [f"its flavour is {settings.flavour}, and it claims a certificate, which such a file does not have"]
    flavour, found = settings.flavour, _metadata(claimed(settings), props)
    outputs = [o.name for o in model.graph.output]
    if outputs != ["logits"]:
        found.append(f"its flavour is {flavour}, and its outputs are {', '.join(outputs)}, not only logits")
    operators = {n.domain + "::" + n.op_type if n.domain else n.op_type for n in model.graph.node}
    if others := sorted(operators - VERIFIER_OPERATORS):
        found.append(f"its flavour is {flavour}, and it has nodes {', '.join(others)}")
    for message, known in ((model, VERIFIER_PARTS), (model.graph, VERIFIER_GRAPH)):
        others = [field.name for field, _ in message.ListFields() if field.name not in known]
        found += [f"it has {name.replace('_', ' ')}, which such a file does not have" for name in others]
    return found

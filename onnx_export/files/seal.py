"""The seal of a file: a digest of everything in it, which binds its claims to its content."""

import hashlib

import onnx
from onnx import ModelProto, helper

FORMAT = "linf-export 2"  # the value of the key ``file_format`` in files that this version writes
DIGEST = "content_sha256"
# A file with one of these keys or outputs claims a certificate.  Then it needs a seal.
CLAIMS = (
    DIGEST,
    "certificate",
    "lipschitz",
    "rounding_slack",
    "radius_unit",
    "certified_accuracy",
    "certified_accuracy_by",
)
CLAIMED_OUTPUTS = ("certified_radius", "certified")


def props_of(model: ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {p.key: p.value for p in model.metadata_props}


def claims(outputs: list[str], props: dict[str, str]) -> bool:
    """Whether a file with these outputs and metadata claims a certificate."""
    return not props.keys().isdisjoint(CLAIMS) or not set(outputs).isdisjoint(CLAIMED_OUTPUTS)


def content_sha256(model: ModelProto) -> str:
    """A SHA-256 of everything in a model with its weights, except the digest itself.

    It covers graph, functions, metadata and all other fields.  It does not depend on where the weights were stored.
    """
    rest = ModelProto()
    rest.CopyFrom(model)
    kept = [p for p in rest.metadata_props if p.key != DIGEST]
    rest.ClearField("metadata_props")
    rest.metadata_props.extend(kept)
    for tensor in rest.graph.initializer:
        if tensor.HasField("raw_data"):
            tensor.raw_data = b""
    total = hashlib.sha256()
    parts = [FORMAT.encode(), rest.SerializeToString(deterministic=True)]
    for part in (*parts, *(t.raw_data for t in model.graph.initializer)):
        total.update(f"{len(part)}:".encode())
        total.update(part)
    return total.hexdigest()


def former_sha256(model: ModelProto) -> str:
    """The digest of files that version 0.1.0 wrote.  It does not cover the metadata.

    Raises:
        ValueError: the model has parts that this digest does not cover and that a runtime uses.
    """
    graph = model.graph
    for name, parts in (
        ("sparse initializers", graph.sparse_initializer),
        ("training", model.training_info),
        ("quantization annotations", graph.quantization_annotation),
    ):
        if parts:
            raise ValueError(f"it has {name}, which no file of linf-export has")
    total = hashlib.sha256()

    def feed(kind: str, content: bytes) -> None:
        total.update(f"{kind} {len(content)}:".encode())
        total.update(content)

    for kind, parts in (
        ("opset", model.opset_import),
        ("function", model.functions),
        ("node", graph.node),
        ("input", graph.input),
        ("output", graph.output),
        ("value", graph.value_info),
    ):
        for part in parts:
            feed(kind, part.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        feed("weight", f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        if tensor.HasField("raw_data"):
            feed("raw", tensor.raw_data)
        else:
            feed("typed", tensor.SerializeToString(deterministic=True))
    return total.hexdigest()


def seal(model: ModelProto, props: dict[str, str]) -> None:
    """Replaces the metadata of a model with its weights by these, and adds the digest of everything."""
    helper.set_model_props(model, {key: value for key, value in props.items() if key != DIGEST})
    digest = content_sha256(model)
    model.metadata_props.add(key=DIGEST, value=digest)


def broken_seal(model: ModelProto) -> str | None:
    """What is wrong with the digest of a model with its weights, in words; None where nothing is."""
    props = props_of(model)
    if len(props) != len(model.metadata_props):
        return "its metadata have one key twice"
    if DIGEST not in props:
        return "it claims a certificate and has no digest that binds the claim to its content"
    entry = onnx.StringStringEntryProto(key=DIGEST, value=props[DIGEST]).SerializeToString()
    if entry not in [p.SerializeToString() for p in model.metadata_props]:
        return "the entry of its digest has unknown parts"
    try:
        same = props[DIGEST] == (content_sha256(model) if "file_format" in props else former_sha256(model))
    except ValueError as error:
        return str(error)
    return None if same else "it was changed since it was written: its digest is not that of its content"

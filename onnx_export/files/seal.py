"""The digest of everything in a model, which binds what it claims to its content."""

import hashlib

import onnx
from onnx import ModelProto, helper

FORMAT = "linf-export 2"  # of the files that this version writes, under the key ``file_format``
DIGEST = "content_sha256"
# Metadata and outputs by which a file claims a certificate, which must then be bound to its content.
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
    """Whether a file of these outputs and metadata says that something is certified."""
    return not props.keys().isdisjoint(CLAIMS) or not set(outputs).isdisjoint(CLAIMED_OUTPUTS)


def content_sha256(model: ModelProto) -> str:
    """A SHA-256 of everything in a model with its weights, but for the digest itself: graph, functions, metadata, and
    whatever else a message can hold.  Where its weights were stored does not matter."""
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
    """The digest of files that version 0.1.0 wrote, which leaves out the metadata.

    Raises:
        ValueError: the model has parts that it leaves out and a runtime heeds.
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
    """Gives a model with its weights these metadata, and the digest of it all."""
    helper.set_model_props(model, {key: value for key, value in props.items() if key != DIGEST})
    digest = content_sha256(model)
    model.metadata_props.add(key=DIGEST, value=digest)


def broken_seal(model: ModelProto) -> str | None:
    """None where a model with its weights is as it was written, by its digest; else what is wrong, in words."""
    props = props_of(model)
    if len(props) != len(model.metadata_props):
        return "its metadata have a key twice"
    if DIGEST not in props:
        return "it claims a certificate, and has no digest that binds it to its content"
    alone = onnx.StringStringEntryProto(key=DIGEST, value=props[DIGEST]).SerializeToString()
    if alone not in [p.SerializeToString() for p in model.metadata_props]:
        return "the entry of its digest has parts that are unknown"
    try:
        same = props[DIGEST] == (content_sha256(model) if "file_format" in props else former_sha256(model))
    except ValueError as error:
        return str(error)
    return None if same else "it was changed since it was written: the digest of its content is another"

"""Tensors in a model: how many numbers their sizes state, and whether they hold these."""

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from .text import type_name

# Type of a tensor → field that holds its elements one by one, bits of an element, entries of the field an element.
_INT32 = ("int32_data", 1)
TENSOR_KINDS = {
    TensorProto.FLOAT: ("float_data", 1, 32),
    TensorProto.DOUBLE: ("double_data", 1, 64),
    TensorProto.COMPLEX64: ("float_data", 2, 64),
    TensorProto.COMPLEX128: ("double_data", 2, 128),
    TensorProto.INT64: ("int64_data", 1, 64),
    TensorProto.UINT64: ("uint64_data", 1, 64),
    TensorProto.UINT32: ("uint64_data", 1, 32),
    TensorProto.STRING: ("string_data", 1, 0),
    TensorProto.INT32: (*_INT32, 32),
    TensorProto.INT16: (*_INT32, 16),
    TensorProto.UINT16: (*_INT32, 16),
    TensorProto.INT8: (*_INT32, 8),
    TensorProto.UINT8: (*_INT32, 8),
    TensorProto.BOOL: (*_INT32, 8),
    TensorProto.FLOAT16: (*_INT32, 16),
    TensorProto.BFLOAT16: (*_INT32, 16),
}
TENSOR_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data", "raw_data")


def check_tensor(tensor: TensorProto, what: str) -> None:
    """Checks that a tensor holds as many elements as its sizes state.

    Raises:
        ValueError: it does not, or its type is not supported.  The message begins with ``what``.
    """
    if tensor.data_type not in TENSOR_KINDS:
        raise ValueError(f"{what} is of {type_name(tensor.data_type)}, which is not supported")
    if tensor.HasField("segment"):
        raise ValueError(f"{what} comes in segments, which are not supported")
    if len(tensor.dims) > 64 or any(size < 0 for size in tensor.dims):
        raise ValueError(f"{what} has negative sizes or too many: {list(tensor.dims[:8])}")
    field, entries, _ = TENSOR_KINDS[tensor.data_type]
    given = [name for name in TENSOR_FIELDS if len(getattr(tensor, name))]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        if given or tensor.data_location != TensorProto.EXTERNAL:
            raise ValueError(f"{what} is stored both in the file and beside it")
        if not tensor.external_data:
            raise ValueError(f"{what} does not say where it is stored")
        return
    if given == ["raw_data"] and field != "string_data":
        have, want = len(tensor.raw_data), bytes_of(tensor)
    elif given in ([], [field]):
        have, want = len(getattr(tensor, field)), elements_of(tensor) * entries
    else:
        raise ValueError(f"{what} is stored as {' and '.join(given)}, which does not fit its type")
    if have != want:
        raise ValueError(f"{what} has sizes {list(tensor.dims)} and does not hold as many numbers")


def elements_of(tensor: TensorProto) -> int:
    """How many elements a tensor has by its sizes."""
    total = 1
    for size in tensor.dims:
        total *= size
    return total


def bytes_of(tensor: TensorProto) -> int:
    """How many bytes the elements of a tensor take."""
    return elements_of(tensor) * TENSOR_KINDS[tensor.data_type][2] // 8


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model, also those in attributes."""

    def of_nodes(nodes) -> Iterator[TensorProto]:
        for node in nodes:
            for a in node.attribute:
                if a.type == AttributeProto.TENSOR:
                    yield a.t
                elif a.type == AttributeProto.GRAPH:
                    yield from of_graph(a.g)

    def of_graph(graph: GraphProto) -> Iterator[TensorProto]:
        yield from graph.initializer
        yield from of_nodes(graph.node)

    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)

"""The shapes of the values of a graph, as ONNX infers them from those of its inputs."""

import onnx
from onnx import ModelProto

from ..files.operators import skeleton

SMALL = 64  # numbers in a constant from which shapes may be made


def shapes_of(model: ModelProto, batch: int | None = None) -> dict[str, tuple[int | None, ...]]:
    """Infers the shapes of values.

    Args:
        model: what it states about shapes is believed only of its inputs.
        batch: the first size of each input that is not a weight; by default as the model states it.

    Returns:
        Name of a value → its shape.  A size that depends on the input is None.  Values whose shapes ONNX cannot infer
        are left out.
    """
    bare, weights = skeleton(model, keep=SMALL), {t.name for t in model.graph.initializer}
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")  # the shapes that a file states may be wrong
    for value in bare.graph.input if batch is not None else ():
        if value.name not in weights:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    return {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
        if v.type.tensor_type.HasField("shape")
    }

"""How ``torch.onnx.export`` writes the operators of this package: as ONNX nodes of the domain ``linf``."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import onnx
import torch
from onnx import AttributeProto, TensorProto, helper
from onnx.defs import OpSchema
from onnxscript.values import Op

from linf_plugin import ops  # noqa: F401  registers torch.ops.linf
from linf_plugin.kernels.reference import coefficients
from linf_plugin.tracing import give_functions

from ..functions.domain import LINF, OPSET
from ..functions.library import ATTRIBUTE_TYPES, BODIES, bodies


def _node(name: str) -> Op:
    """An operator without a body.  The exporter would inline a function whose body it knows."""
    body = BODIES[name].to_function_proto()
    return Op(
        LINF,
        name,
        OpSchema(
            name,
            LINF.domain,
            LINF.version,
            inputs=[OpSchema.FormalParameter(i, "T") for i in body.input],
            outputs=[OpSchema.FormalParameter(o, "T") for o in body.output],
            type_constraints=[("T", ["tensor(float)", "tensor(double)"], "")],
            attributes=[
                OpSchema.Attribute(a, OpSchema.AttrType(ATTRIBUTE_TYPES[a]), required=True)  # type: ignore[call-arg]  # a stub lacks it
                for a in body.attribute
            ],
        ),
    )


_OPERATORS = {name: _node(name) for name in BODIES}


def _dist(x, w, p: float):
    if p == math.inf:
        return _OPERATORS["LinfDist"](x, w)
    return _OPERATORS["LpDist"](x, w, p=p)


def _coefficients(w, rho: float, k: int) -> tuple[float, ...]:
    features = w.shape[1]
    if not isinstance(features, int):
        raise ValueError("the weight of a sorted sum needs a fixed number of columns to be exported")
    return coefficients(rho, k, features)


def _sorted_dist(x, w, rho: float, k: int):
    return _OPERATORS["SortDist"](x, w, coefficients=_coefficients(w, rho, k))


def _window(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> dict[str, Sequence[int]]:
    return {"strides": stride, "pads": [*padding, *padding], "dilations": dilation}  # the shapes show the groups


def _dist_conv2d(x, w, p: float, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int):
    conv = _window(stride, padding, dilation)
    if p == math.inf:
        return _OPERATORS["LinfDistConv"](x, w, **conv)
    return _OPERATORS["LpDistConv"](x, w, p=p, **conv)


def _largest_only(p: float) -> None:
    if p != math.inf:
        raise ValueError(f"ranges of distances over boxes are exported at p = ∞ only, got p = {p}")


def _box_dist(lower, upper, w, p: float):
    _largest_only(p)
    return _OPERATORS["LinfBoxDist"](lower, upper, w)


def _box_sorted_dist(lower, upper, w, rho: float, k: int):
    return _OPERATORS["SortBoxDist"](lower, upper, w, coefficients=_coefficients(w, rho, k))


def _box_conv2d(
    lower, upper, w, p: float, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
):
    _largest_only(p)
    return _OPERATORS["LinfBoxDistConv"](lower, upper, w, **_window(stride, padding, dilation))


TRANSLATIONS = {
    torch.ops.linf.dist.default: _dist,
    torch.ops.linf.dist_conv2d.default: _dist_conv2d,
    torch.ops.linf.sorted_dist.default: _sorted_dist,
    torch.ops.linf.box_dist.default: _box_dist,
    torch.ops.linf.box_conv2d.default: _box_conv2d,
    torch.ops.linf.box_sorted_dist.default: _box_sorted_dist,
}


def _of_type(nodes: Iterable[onnx.NodeProto], floating: int) -> None:
    """Turns CastLike of constants into Identity or Cast: onnxruntime warns of each CastLike that it meets.

    Args:
        nodes: of a body of this package, in which whole constants are int64 and all other numbers are of one type.
        floating: that type, a ``TensorProto.DataType``.
    """
    nodes = list(nodes)
    made = {node.output[0]: node for node in nodes if node.op_type == "Constant"}
    for node in nodes:
        if node.op_type == "CastLike":
            (value,) = made[node.input[0]].attribute
            whole = value.type == AttributeProto.TENSOR and value.t.data_type == TensorProto.INT64
            del node.input[1]
            node.op_type = "Identity" if whole or floating == TensorProto.FLOAT else "Cast"
            if node.op_type == "Cast":
                node.attribute.append(helper.make_attribute("to", floating))
        for attribute in node.attribute:
            _of_type(attribute.g.node, floating)


def _with_body(translation: Callable) -> Callable:
    """The same translation, which also gives the body of its node to the exporter."""

    @functools.wraps(translation)
    def translate(*args, **kwargs):
        y = translation(*args, **kwargs)
        node = (y[0] if isinstance(y, Sequence) else y).producer()
        found = list(bodies({node.op_type}).values())
        for body in found:
            _of_type(body.node, int(args[0].dtype))
        give_functions(found)
        return y

    return translate


def linf_onnx_kwargs(inline: bool = True) -> dict:
    """Keyword arguments with which ``torch.onnx.export`` writes any model that has distance layers.

    The file has only standard operators and runs without this package::

        torch.onnx.export(model.eval(), (x,), "net.onnx", **linf_onnx_kwargs())

    With ``inline=False`` distances stay nodes of the domain ``linf``.  The native operators of this package can compute
    them, and ``to_net`` can read them.  They need bodies, which ``attach`` adds::

        program = torch.onnx.export(model.eval(), (x,), **linf_onnx_kwargs(inline=False))
        onnx.save(attach(program.model_proto), "net.onnx")

    The optimiser of the exporter is switched off: it drops factors within 1e-5 of 1 and terms within 1e-8 of 0.

    Args:
        inline: whether distances are written in standard operators.

    Returns:
        A dict of keyword arguments.
    """
    table = {op: _with_body(t) for op, t in TRANSLATIONS.items()} if inline else dict(TRANSLATIONS)
    return {"dynamo": True, "custom_translation_table": table, "opset_version": OPSET, "optimize": False}

"""An ONNX graph with distances in it back to distance nodes, and back to a ``Net`` that can be bounded.

auto_LiRPA has no linear bounds for the decomposed distance: its ReduceMax has interval bounds only.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from linf_plugin.kernels import windows
from linf_plugin.models import Net

from .functions import BODIES, LINF, OPSET, attach

DISTANCES = {name: body for name, body in BODIES.items() if name != "SortDist"}  # a file does not have its ρ and k
ANY_BATCH = 7919  # stands for a batch of any size: a prime that no other size in a model is likely to be


# Patterns.

def _producers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


# Attributes of the distance operators in the inlined body that serves as pattern, told by their values.
_SENTINELS = {"p": 1234567.0, "strides": [901, 902], "pads": [903, 904, 905, 906], "dilations": [907, 908]}


@functools.cache
def _pattern(name: str) -> GraphProto:
    """The body of a distance operator, inlined: x, w → y."""
    attributes = {a: _SENTINELS[a] for a in DISTANCES[name].to_function_proto().attribute}
    value = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=None)
    node = helper.make_node(name, ["x", "w"], ["y"], domain=LINF.domain, **attributes)
    graph = helper.make_graph([node], name, [value("x"), value("w")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return inline_local_functions(attach(model)).graph


class _Match:
    """One attempt to find a pattern in a graph: ``names`` maps its values, ``attributes`` its sentinels."""

    def __init__(self):
        self.names: dict[str, str] = {}
        self.attributes: dict[str, object] = {}

    def value(self, pattern: dict, graph: dict, a: str, b: str) -> bool:
        """Whether the value b of the graph is computed as the value a of the pattern is."""
        if a in self.names or not (a and b):
            return self.names.get(a, a) == b
        self.names[a] = b
        if a not in pattern:
            return True  # x or w
        if b not in graph:
            return False
        here, there = pattern[a], graph[b]
        return (
            (here.op_type, here.domain, len(here.input)) == (there.op_type, there.domain, len(there.input))
            and list(here.output).index(a) == list(there.output).index(b)
            and self._attributes(pattern, graph, here, there)
            and all(self.value(pattern, graph, *pair) for pair in zip(here.input, there.input))
        )

    def _attributes(self, pattern: dict, graph: dict, here: NodeProto, there: NodeProto) -> bool:
        ours, theirs = ({a.name: a for a in node.attribute} for node in (here, there))
        return ours.keys() == theirs.keys() and all(
            self._attribute(pattern, graph, a, theirs[name]) for name, a in ours.items()
        )

    def _attribute(self, pattern: dict, graph: dict, a: AttributeProto, b: AttributeProto) -> bool:
        if a.type != b.type:
            return False
        if a.type == AttributeProto.GRAPH:
            return self._graph(pattern, graph, a.g, b.g)
        ours, theirs = helper.get_attribute_value(a), helper.get_attribute_value(b)
        for name, sentinel in _SENTINELS.items():
            if ours == sentinel:
                return self.attributes.setdefault(name, theirs) == theirs
        if a.type == AttributeProto.TENSOR:
            ours, theirs = numpy_helper.to_array(ours), numpy_helper.to_array(theirs)
            return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        return ours == theirs

    def _graph(self, pattern: dict, graph: dict, a: GraphProto, b: GraphProto) -> bool:
        if len(a.input) != len(b.input) or len(a.output) != len(b.output):
            return False
        self.names |= {i.name: j.name for i, j in zip(a.input, b.input)}
        scopes = pattern | _producers(a), graph | _producers(b)
        return all(self.value(*scopes, i.name, j.name) for i, j in zip(a.output, b.output))


def _body(producers: dict[str, NodeProto], output: str) -> NodeProto | None:
    """The distance node for a value that the inlined body of one computes."""
    for name in DISTANCES:
        pattern, match = _pattern(name), _Match()
        if match.value(_producers(pattern), producers, pattern.output[0].name, output):
            names = [match.names["x"], match.names["w"]]
            return helper.make_node(name, names, [output], output, domain=LINF.domain, **match.attributes)
    return None


def _broadcast(
    producers: dict, constant: Callable, shape: dict, output: str
) -> tuple[NodeProto, np.ndarray] | None:
    """The distance node and its weight (out, in) where a value is ReduceMax(|Unsqueeze(x, 1) − w|, −1)."""
    def producer(name: str, op_type: str) -> NodeProto | None:
        node = producers.get(name)
        return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None

    def axes(node: NodeProto) -> list[int] | None:
        """An attribute before opset 13 (Unsqueeze) and 18 (ReduceMax), an input since."""
        given = constant(node.input[1]) if len(node.input) > 1 else _attribute(node, "axes")
        return None if given is None else [int(a) for a in given]

    reduce = producer(output, "ReduceMax")
    absolute = reduce and producer(reduce.input[0], "Abs")
    sub = absolute and producer(absolute.input[0], "Sub")
    if not sub or _attribute(reduce, "keepdims", 1) or axes(reduce) not in ([2], [-1]):
        return None
    for moving, fixed in (sub.input, reversed(sub.input)):
        unsqueeze, w = producer(moving, "Unsqueeze"), constant(fixed)
        if unsqueeze is None or w is None:
            continue
        w = w[0] if w.ndim == 3 and len(w) == 1 else w
        x = unsqueeze.input[0]
        if w.ndim == 2 and axes(unsqueeze) in ([1], [-2]) and shape.get(x, ())[1:] == w.shape[1:]:
            node = helper.make_node("LinfDist", [x, output + "_weight"], [output], output, domain=LINF.domain)
            return node, w
    return None


# Graphs.

def _attribute(node: NodeProto, name: str, default=None):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _names(nodes) -> set[str]:
    """Every value that nodes read, those that their subgraphs read included."""
    found = set()
    for node in nodes:
        found.update(node.input)
        for graph in _subgraphs(node):
            found |= _names(graph.node) | {o.name for o in graph.output}
    return found


def _live(graph: GraphProto, outputs: list[str]) -> list[NodeProto]:
    """The nodes that outputs need, in order."""
    needed, live = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            live.append(node)
            needed |= _names([node])
    return live[::-1]


def _evaluate(node: NodeProto, inputs: list[np.ndarray], opsets) -> list[np.ndarray]:
    """A node of standard operators on constants.  Raises ValueError where there is no such operator."""
    names = [n for n in node.input if n]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for n, a in zip(names, inputs)]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in node.output]
    graph = helper.make_graph([node], "constant", values, outputs)
    model = helper.make_model(graph, opset_imports=opsets)
    try:
        return ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))
    except Exception as error:  # it raises whatever an operator leads it to
        raise ValueError(f"its value cannot be computed: {error}") from error


def _constants(model: ModelProto) -> Callable[[str], np.ndarray | None]:
    """``constant(name)``: the value, if no input of the model enters into it."""
    producers, known = _producers(model.graph), {}
    initializers = {t.name: t for t in model.graph.initializer}

    def constant(name: str) -> np.ndarray | None:
        if name not in known:
            known[name] = None
            if name in initializers:
                known[name] = numpy_helper.to_array(initializers[name])
            elif name in producers and not producers[name].domain and not any(_subgraphs(producers[name])):
                node = producers[name]
                inputs = [constant(n) for n in node.input if n]
                if all(a is not None for a in inputs):
                    known.update(zip(node.output, _evaluate(node, inputs, model.opset_import)))
        return known[name]

    return constant


def _shapes(model: ModelProto) -> dict[str, tuple]:
    """The shapes that ONNX infers, sizes that depend on the input as None."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output) if v.type.tensor_type.HasField("shape")
    }


def fuse_distance(model: ModelProto) -> ModelProto:
    """The same graph with ``linf::LinfDist``, ``LpDist``, ``LinfDistConv`` or ``LpDistConv`` in the place of

    - ReduceMax(|Unsqueeze(x, 1) − w|, last axis), x (N, in), w constant (out, in), in either order;
    - the body of one of these nodes as ``export`` writes it, inlined.

    Nodes of that kind that are there already stay.  New nodes have no bodies: ``attach`` adds them for a
    runtime.  Shapes that are needed (x has two dimensions) must be inferrable, else the graph stays as it is.

    Returns:
        A new model; what is used no longer is left out.
    """
    fused = ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    producers, constant, shapes = _producers(graph), _constants(model), _shapes(model)
    for place, node in enumerate(graph.node):
        new = _body(producers, node.output[0])
        if new is None:
            found = _broadcast(producers, constant, shapes, node.output[0])
            if found is None:
                continue
            new, w = found
            graph.initializer.append(numpy_helper.from_array(w, new.input[1]))
        graph.node[place].CopyFrom(new)
    live = _live(graph, [o.name for o in graph.output])
    used = _names(live) | {o.name for o in graph.output}
    for field, kept in (
        ("node", live),
        ("initializer", [t for t in graph.initializer if t.name in used]),
        ("value_info", [v for v in graph.value_info if v.name in used]),
    ):
        kept = [type(part).FromString(part.SerializeToString()) for part in kept]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    if any(n.domain == LINF.domain for n in live) and all(o.domain != LINF.domain for o in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid(LINF.domain, LINF.version))
    return fused


# Layers.

class _Chain:
    """The layers read so far, and the one value that runs through them: its ``name`` and its ``shape``."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shapes = name, {name: shape}
        self.shape = shape
        self.layers: list[tuple[str, dict, dict]] = []  # name and arguments for a spec, tensors

    def add(self, layer: str, tensors: dict | None = None, **arguments) -> None:
        self.layers.append((layer, arguments, tensors or {}))

    def advance(self, name: str) -> None:
        self.name, self.shapes[name] = name, self.shape

    def last(self, *layers: str) -> dict | None:
        """The tensors of the last layer if it is one of these."""
        return self.layers[-1][2] if self.layers and self.layers[-1][0] in layers else None

    def per_channel(self, a: np.ndarray) -> np.ndarray:
        """a as (C,), or as (1,) if it is the same number for all."""
        full = (1,) * (len(self.shape) - a.ndim) + a.shape
        if len(full) != len(self.shape) or full[1] not in (1, self.shape[1]) or a.size != full[1]:
            raise ValueError(f"a constant of shape {a.shape} is not one number a channel of {self.shape}")
        return a.reshape(-1)


def _shift(chain: _Chain, mean: np.ndarray) -> None:
    """x − mean."""
    if chain.layers and len(mean) == chain.shape[1]:
        chain.add("mean_shift", {"running_mean": mean}, num_features=len(mean))
    else:
        chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1.0)


def _sub(chain: _Chain, node: NodeProto, x, c) -> None:
    if x is not None:
        raise ValueError("a constant minus a value is not supported")
    _shift(chain, chain.per_channel(c))


def _add(chain: _Chain, node: NodeProto, x, c) -> None:
    c = chain.per_channel(c if x is None else x)
    tensors = chain.last("dist", "dist_conv", "linear", "conv")
    if tensors is not None and "bias" not in tensors and len(c) == chain.shape[1]:
        tensors["bias"] = c
        chain.layers[-1][1]["bias"] = True
    else:
        _shift(chain, -c)


def _mul(chain: _Chain, node: NodeProto, x, c) -> None:
    c = c if x is None else x
    if c.size != 1 or c.ndim > len(chain.shape) or not 0 < c.item() < math.inf:
        raise ValueError("a factor must be one positive number")
    mean = np.zeros(1, c.dtype)
    if (shift := chain.last("mean_shift", "normalize")) is not None and chain.layers[-1][1].get("std", 1.0) == 1:
        (mean,) = shift.values()
        chain.layers.pop()
    chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1 / c.item())


def _flatten(chain: _Chain, node: NodeProto, x, shape=None) -> None:
    size = math.prod(chain.shape[1:])
    if node.op_type == "Flatten":
        right = _attribute(node, "axis", 1) == 1
    else:
        n = chain.shape[0]
        wanted = [int(s) for s in shape] if shape is not None else []
        if not _attribute(node, "allowzero", 0):
            wanted = [s or chain.shape[i] for i, s in enumerate(wanted)]
        right = wanted in ([n, size], [n, -1], [-1, size])
    if not right:
        raise ValueError(f"a change of shape from {chain.shape} other than flattening is not supported")
    chain.add("flatten")
    chain.shape = (chain.shape[0], size)


def _rows(shape: tuple[int, ...], w: np.ndarray) -> tuple[int, ...]:
    """The shape of (N, in) × (out, in) → (N, out)."""
    if len(shape) != 2 or shape[1:] != w.shape[1:]:
        raise ValueError(f"a weight of shape {w.shape} does not fit a value of shape {shape}")
    return shape[0], len(w)


def _linear(chain: _Chain, node: NodeProto, x, w, bias=None) -> None:
    a = {k: _attribute(node, k, d) for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    if (a["alpha"], a["beta"], a["transA"]) != (1, 1, 0) or x is not None or w is None or w.ndim != 2:
        raise ValueError("only x·W + b and x·Wᵀ + b with constant W and b are supported")
    w = w if a["transB"] else np.ascontiguousarray(w.T)
    chain.shape = _rows(chain.shape, w)
    tensors = {"weight": w} if bias is None else {"weight": w, "bias": bias.reshape(-1)}
    if bias is not None and bias.size != len(w):
        raise ValueError(f"a bias of shape {bias.shape} is not one number for each of {len(w)} outputs")
    chain.add("linear", tensors, in_features=w.shape[1], out_features=len(w), bias=bias is not None)


def _window(chain: _Chain, node: NodeProto, w: np.ndarray | None) -> dict:
    """Arguments of a convolution with these kernels; moves the chain's shape on."""
    pads = list(_attribute(node, "pads", [0] * 4))
    if w is None or w.ndim != 4 or pads[:2] != pads[2:] or _attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(
            "only two-dimensional convolutions with constant kernels and the same padding on both sides"
        )
    channels = chain.shape[1]
    conv = {
        "stride": list(_attribute(node, "strides", [1, 1])), "padding": pads[:2],
        "dilation": list(_attribute(node, "dilations", [1, 1])), "groups": channels // w.shape[1],
    }
    chain.shape = windows.output_shape(chain.shape, w.shape, tuple(conv.values()))
    return {"in_channels": channels, "out_channels": len(w), "kernel_size": list(w.shape[2:])} | conv


def _conv(chain: _Chain, node: NodeProto, x, w, bias=None) -> None:
    tensors = {"weight": w} if bias is None else {"weight": w, "bias": bias}
    chain.add("conv", tensors, **_window(chain, node, w), bias=bias is not None)


def _dist(chain: _Chain, node: NodeProto, x, w) -> None:
    p = _attribute(node, "p", math.inf)
    if node.op_type.endswith("Conv"):
        chain.add("dist_conv", {"weight": w}, **_window(chain, node, w), bias=False, p=p)
    else:
        chain.shape = _rows(chain.shape, w)
        chain.add("dist", {"weight": w}, in_features=w.shape[1], out_features=len(w), bias=False, p=p)


def _plain(layer: str) -> Callable:
    return lambda chain, node, x: chain.add(layer)


# (domain, operator) → reads a node; its inputs come as constants, None where the chain enters
READERS = {
    ("", "Sub"): _sub, ("", "Add"): _add, ("", "Mul"): _mul,
    ("", "Reshape"): _flatten, ("", "Flatten"): _flatten,
    ("", "Gemm"): _linear, ("", "MatMul"): _linear, ("", "Conv"): _conv,
    ("", "Neg"): _plain("negate"), ("", "Relu"): _plain("relu"), ("", "Tanh"): _plain("tanh"),
    ("", "Identity"): lambda chain, node, x: None,
} | {(LINF.domain, name): _dist for name in DISTANCES}


def _logits(model: ModelProto) -> str:
    names = [o.name for o in model.graph.output]
    if "logits" in names:
        return "logits"
    if len(names) != 1:
        raise ValueError(f"the model must have one output, or one named logits; it has {', '.join(names)}")
    return names[0]


def _input(model: ModelProto) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of the one input, ``ANY_BATCH`` for a batch of any size."""
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    if len(inputs) != 1:
        raise ValueError(f"the model must have one input, it has {len(inputs)}")
    tensor = inputs[0].type.tensor_type
    batch, *sizes = [d.dim_value for d in tensor.shape.dim] or [0]
    if not sizes or 0 in sizes:
        raise ValueError(f"the input {inputs[0].name} must have sizes that are known, but for the first")
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"the input {inputs[0].name} must be float32")
    return inputs[0].name, (batch or ANY_BATCH, *sizes)


def _read(chain: _Chain, known: dict, node: NodeProto, opsets) -> None:
    """Takes one node in: a layer, a constant, or the shape of a value."""
    moving = [n for n in node.input if n and n not in known]
    if not moving:
        known.update(zip(node.output, _evaluate(node, [known[n] for n in node.input if n], opsets)))
    elif node.op_type == "Shape" and not node.domain and moving[0] in chain.shapes:
        of = np.empty(chain.shapes[node.input[0]], np.bool_)
        known.update(zip(node.output, _evaluate(node, [of], opsets)))
    elif (node.domain, node.op_type) not in READERS:
        raise ValueError("this operator is not supported")
    elif moving != [chain.name]:
        raise ValueError("only a chain of layers is supported, in which each value is used once")
    else:
        READERS[node.domain, node.op_type](chain, node, *(known.get(n) for n in node.input))
        chain.advance(node.output[0])


@torch.no_grad()
def to_net(model: ModelProto) -> Net:
    """A ``Net`` in evaluation mode that computes the logits of an ONNX model, for bounds and for checkpoints.

    Supported is what ``export`` writes, with distances as nodes, as inlined bodies, or in the broadcast form
    (``fuse_distance``): a chain of distances, Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, sums with one
    constant a channel and products with one positive constant.  Distances and sums are the same to the bit.

    Args:
        model: with one float32 input (N, …), and one output or one that is named ``logits``.

    Raises:
        ValueError: something else is in the way from the input to the logits; the message names the node.
    """
    fused = fuse_distance(model)
    output, (name, shape) = _logits(fused), _input(fused)
    chain = _Chain(name, shape)
    known = {t.name: numpy_helper.to_array(t) for t in fused.graph.initializer}
    for node in _live(fused.graph, [output]):
        try:
            _read(chain, known, node, fused.opset_import)
        except ValueError as error:
            raise ValueError(f"node {node.name or node.output[0]!r} ({node.op_type}): {error}") from error
    if chain.name != output:
        raise ValueError(f"the output {output} does not depend on the input")
    return _build(chain, shape)


def _build(chain: _Chain, shape: tuple[int, ...]) -> Net:
    net = Net({
        "input_shape": list(shape[1:]), "layers": [[name, arguments] for name, arguments, _ in chain.layers],
    })
    net.load_state_dict({
        f"{i}.{name}": torch.from_numpy(np.array(a))
        for i, (*_, tensors) in enumerate(chain.layers) for name, a in tensors.items()
    })
    return net.eval()

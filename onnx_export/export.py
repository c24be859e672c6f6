"""A trained net as one ONNX file: logits, prediction, certified radius, and what is known of it as metadata."""

import contextlib
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions
from onnxscript import optimizer

from linf_plugin import state
from linf_plugin.checkpoint import replacing
from linf_plugin.files import check_absent
from linf_plugin.models import Net

from .certificate import PIXELS, Program, RadiusConstants, check_certifiable, radius_constants, wants_interval
from .flavours import verifier_model
from .functions import LINF, attach
from .properties import EPSILON, Accuracy, accuracy_properties, properties, props_of
from .translate import linf_onnx_kwargs

EXTERNAL_BYTES = 1_500_000_000  # of weights; a protobuf message ends at 2 GiB
FLAVOURS = {
    "function": "nodes linf::LinfDist with bodies in standard operators, which a native operator may take over",
    "inlined": "standard operators alone",
    "maxpool": "for verifiers: Conv, Add and MaxPool; batch 1, logits alone",
    "relu": "for verifiers: Conv, Add and Relu; batch 1, logits alone",
}
VERIFIER_FLAVOURS = ("maxpool", "relu")
CERTIFICATES = {
    "auto": "the Lipschitz radius; for nets with linear layers or ReLUs also an interval bound, if ε is known",
    "lipschitz": "the Lipschitz radius",
    "interval": "the Lipschitz radius, and an interval bound for one ε",
    "none": "no certificate",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself and about torchvision, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def check_net(model: Net) -> None:
    """That it is a float32 net that can be exported.  Raises as ``export`` says."""
    if not isinstance(model, Net):
        raise TypeError(f"model must be a linf_plugin.Net, got {type(model).__name__}")
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() first")
    for name, a in state.tensors(model).items():
        if a.dtype != torch.float32:
            raise ValueError(f"{name} of model must be float32, got {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{name} of model contains NaN or infinite values")
    if not 0 < model.lipschitz < math.inf:
        raise ValueError(f"model.lipschitz must be positive and finite, got {model.lipschitz}")
    with torch.no_grad():
        classes = model(torch.zeros(1, *model.input_shape, device=next(model.parameters()).device)).shape[1]
    if classes < 2:
        raise ValueError("model must have at least two classes")


def _strip(graph: onnx.GraphProto) -> None:
    """Removes the exporter's notes, which tell where on this machine the source code lies."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")


def _graph(model: Program, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The program for images of that shape, its distances still without bodies."""
    x = torch.zeros(2, *shape)
    outputs = ["logits"] if model.reach is None else ["logits", "certified"]
    with _quiet():
        program = torch.onnx.export(
            model, (x,), input_names=["x"], output_names=outputs,
            dynamic_shapes=({0: "batch"},), verbose=False, **linf_onnx_kwargs(inline=False),
        )
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    result = program.model_proto
    _strip(result.graph)
    return result


def _take_bytes(graph: onnx.GraphProto, pixels: str) -> None:
    """Makes the input ``x`` uint8; what took x takes ``pixels``, which is x/255."""
    for node in graph.node:
        node.input[:] = ["pixels" if name == "x" else name for name in node.input]
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph.initializer.append(helper.make_tensor("levels", TensorProto.FLOAT, [], [PIXELS[pixels][1]]))
    graph.node.insert(0, helper.make_node("Div", ["x_float", "levels"], ["pixels"], "pixels"))
    graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_float"], "x_float", to=TensorProto.FLOAT))


def _add_prediction(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("ArgMax", ["logits"], ["prediction"], "prediction", axis=1, keepdims=0))
    graph.output.insert(1, helper.make_tensor_value_info("prediction", TensorProto.INT64, ["batch"]))


def _add_radius(graph: onnx.GraphProto, pixels: str, constants: RadiusConstants) -> None:
    """Adds the output ``certified_radius`` to a graph with pixels and logits."""
    inputs, output = [pixels, "logits", "lipschitz", "slack", "most"], "certified_radius"
    for name in inputs[2:]:
        graph.initializer.append(helper.make_tensor(name, TensorProto.DOUBLE, [], [getattr(constants, name)]))
    graph.node.append(helper.make_node("CertifiedRadius", inputs, [output], output, domain=LINF.domain))
    graph.output.insert(2, helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"]))


def fold_means(net: Net) -> Net:
    """The same float32 program with each mean shift as the bias of the distance layer before it, if that has none:
    y − m = y + (−m) to the bit."""
    layers, tensors = [], []
    for (name, arguments), layer in zip(net.spec["layers"], net):
        own = dict(layer.state_dict())
        if name == "mean_shift" and layers and "dist" in layers[-1][0] and not layers[-1][1].get("bias", True):
            layers[-1][1]["bias"] = True
            tensors[-1]["bias"] = -own["running_mean"]
        else:
            layers.append([name, arguments])
            tensors.append(own)
    folded = Net({"input_shape": list(net.input_shape), "layers": layers})
    folded.load_state_dict({f"{i}.{name}": a for i, own in enumerate(tensors) for name, a in own.items()})
    return folded.eval()


def _model(model: Net, flavour: str, pixels: str, constants: RadiusConstants | None, epsilon: float | None):
    """The ONNX model, without metadata."""
    if flavour in VERIFIER_FLAVOURS:
        return verifier_model(model, flavour)
    net = fold_means(model)
    result = _graph(Program(net, epsilon), net.input_shape)
    if pixels == "byte":
        _take_bytes(result.graph, pixels)
    if epsilon is not None:
        result.graph.output[-1].doc_string = EPSILON + repr(float(epsilon))
    _add_prediction(result.graph)
    if constants is not None:
        _add_radius(result.graph, "pixels" if pixels == "byte" else "x", constants)
    attach(result)
    return _inlined(result) if flavour == "inlined" else result


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined; weights, for which the inliner has no room beyond 2 GiB, are kept back."""
    weights = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    model = inline_local_functions(model)
    model.graph.initializer.extend(weights)
    standard = [o for o in model.opset_import if o.domain != LINF.domain]
    model.ClearField("opset_import")
    model.opset_import.extend(standard)
    return model


def _write(model: onnx.ModelProto, path: Path, force: bool) -> None:
    """Writes and checks the file beside its place, then moves it there; large weights become ``<name>.data``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.name + ".data"
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder)
        large = sum(len(t.raw_data) for t in model.graph.initializer) > EXTERNAL_BYTES
        onnx.save_model(model, part / path.name, save_as_external_data=large, location=data)
        onnx.checker.check_model(part / path.name, full_check=True)  # with strict shape inference
        for name in (data, path.name) if large else (path.name,):
            check_absent(path.with_name(name), force)  # a file may have come meanwhile
            os.replace(part / name, path.with_name(name))


def _choose(name: str, value: str, known: dict) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def export(
    model: Net, path: str | os.PathLike, metadata: dict | None = None,
    checkpoint: str | os.PathLike | None = None, *, flavour: str = "function", certificate: str = "auto",
    epsilon: float | None = None, pixels: str = "float", force: bool = False,
) -> None:
    """Writes a net with its certificates as an ONNX file, in one move once it is complete and checked.

    Input ``x`` (batch, C, H, W), raw pixels: float32 in [0, 1], or uint8.  Outputs:

    ``logits``            (batch, classes) float32;
    ``prediction``        (batch,) int64, the class of the largest logit, the first of equals;
    ``certified_radius``  (batch,) float32 in units of x, from the net's Lipschitz bound: the float32 program predicts
                          the same class for every x′ with ‖x′ − x‖∞ < radius (``certificate.radius_constants``);
    ``certified``         (batch,) bool, with an interval bound: it predicts the same class for every x′ with pixels in
                          range and ‖x′ − x‖∞ ≤ ε (``certificate.Program``).

    Rounding is subtracted, as of a program that computes each operation in float32, sums in any order.  Radius 0 and
    not certified: images with a pixel that is out of range, NaN or infinite.  The batch may have any size.

    Args:
        model: in evaluation mode, with at least two classes.
        path: of the file; missing folders are made.  Weights above ``EXTERNAL_BYTES`` go to ``<path>.data``.
        metadata: what ``linf_plugin.load`` returned: dataset, epsilon, results and so on go into the file.
        checkpoint: the file the model came from; its relative path and SHA-256 go into the file.
        flavour: of ``FLAVOURS``; those for verifiers have batch 1 and the output ``logits`` alone.
        certificate: of ``CERTIFICATES``.
        epsilon: ε of the interval bound, in pixel range; by default that of the metadata.
        pixels: of ``certificate.PIXELS``: "float" or "byte"; with bytes, radii are in grey levels.
        force: replace a file that is there.

    Raises:
        TypeError: model is not a ``Net``.
        ValueError: model is in training mode, not float32, not finite, has one class, or its Lipschitz bound
            is not positive and finite; it has finite p and a certificate is wanted; an activation may overflow; an
            argument is none of those known, or they do not fit each other.
        FileNotFoundError: checkpoint does not exist.
        WouldReplace: there is such a file, without ``force``.
    """
    path, metadata = Path(path), metadata or {}
    check_absent(path, force)
    for name, value, known in (
        ("flavour", flavour, FLAVOURS), ("certificate", certificate, CERTIFICATES), ("pixels", pixels, PIXELS)
    ):
        _choose(name, value, known)
    check_net(model)
    epsilon = metadata.get("epsilon") if epsilon is None else epsilon
    if epsilon is not None and not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must lie in (0, 1], in units of the pixel range, got {epsilon}")
    if flavour in VERIFIER_FLAVOURS:
        if certificate not in ("auto", "none") or pixels != "float":
            raise ValueError(f"flavour {flavour} has neither certificates nor bytes: it is for verifiers")
        certificate = "none"
    if certificate != "none":
        check_certifiable(model)
    interval = certificate == "interval" or certificate == "auto" and epsilon is not None and wants_interval(model)
    if interval and epsilon is None:
        raise ValueError("epsilon must be given for an interval bound: model comes without one")
    constants = None if certificate == "none" else radius_constants(model, pixels)
    onnx_model = _model(model, flavour, pixels, constants, epsilon if interval else None)
    props = properties(
        onnx_model, metadata, flavour=flavour, pixels=pixels, constants=constants, interval=interval, epsilon=epsilon,
        checkpoint=checkpoint, folder=path.parent,
    )
    helper.set_model_props(onnx_model, props)
    _write(onnx_model, path, force)


def record(path: str | os.PathLike, accuracy: Accuracy) -> None:
    """Adds the accuracies of a file, as ``verify.measure`` finds them, to its metadata, in one move."""
    model = onnx.load(path, load_external_data=False)
    helper.set_model_props(model, props_of(model) | accuracy_properties(accuracy))
    with replacing(path) as f:
        f.write(model.SerializeToString())

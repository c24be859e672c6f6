"""The constants of a graph.  They are computed within limits on memory and time, and never from the size of a batch."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..files.tensors import elements_of
from ..files.text import said
from .nodes import attribute
from .result_sizes import RESULT_SIZES

# How many numbers (beside 8 times those in the file), products and nodes are computed at most.
MOST_NUMBERS = 2**22
MOST_PRODUCTS = 2**30
MOST_COMPUTED = 4_000
BATCHES = 7919, 7907  # two sizes that stand for any size: what is equal for both does not depend on it


RANDOM_OPERATORS = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
# Operators that only move numbers → how many of their first inputs they move (0: all).
MOVED_INPUTS = {
    "Concat": 0,
    "Flatten": 1,
    "Gather": 1,
    "Identity": 1,
    "Reshape": 1,
    "Slice": 1,
    "Squeeze": 1,
    "Unsqueeze": 1,
}


def _check_agreed(node: NodeProto, values: dict[str, np.ndarray]) -> None:
    """Checks that ONNX's own evaluator computes a node as ONNX defines it and as onnxruntime does."""
    a = values[node.input[0]] if node.input else np.empty(0)
    ends = [n for n in (attribute(node, "start"), attribute(node, "end")) if n is not None]
    axes = attribute(node, "axes") or []
    if node.op_type == "Shape" and any(abs(n) > a.ndim for n in ends):
        raise _NotAgreed(f"it starts or ends beyond the {a.ndim} sizes of its input")
    if node.op_type == "Slice" and len(node.input) > 4 and node.input[4] and (values[node.input[4]] < 0).any():
        raise _NotAgreed("a slice in negative steps is not supported")
    if node.op_type == "Unsqueeze" and len(axes) > 1 and (min(axes) < 0 or axes != sorted(set(axes))):
        raise _NotAgreed(f"its axes must rise from 0 or above, got {axes[:8]}")
    if node.op_type.startswith("Reduce") and a.size == 0:
        raise _NotAgreed(f"it is taken over no numbers: its input has shape {a.shape}")


class _NotAgreed(Exception):
    pass


class Varying:
    """An array in which some numbers are the size of the batch.  ``each``: the array for each of ``BATCHES``."""

    def __init__(self, *each: np.ndarray):
        self.each = each

    @property
    def where(self) -> np.ndarray:
        """Which numbers are the size of the batch."""
        return self.each[0] != self.each[1]


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except UnicodeDecodeError as error:
        raise ValueError(f"the initializer {said(tensor.name)} holds strings that are not UTF-8") from error


class Constants:
    """The values of a graph that do not depend on its inputs.

    Their memory and the time to compute them are limited by the size of the model.

    Attributes:
        known: the values by name.
        varying: values in which the size of the batch stands.
    """

    def __init__(self, model: ModelProto):
        self.opsets = model.opset_import
        tensors = model.graph.initializer
        self.known = {t.name: _array(t) for t in tensors}
        self.varying: dict[str, Varying] = {}
        self.numbers = MOST_NUMBERS + 8 * sum(map(elements_of, tensors))
        self.products, self.nodes = MOST_PRODUCTS, MOST_COMPUTED

    def has(self, name: str) -> bool:
        return name in self.known or name in self.varying

    def get(self, name: str) -> np.ndarray | Varying | None:
        return self.varying[name] if name in self.varying else self.known.get(name)

    def add(self, name: str, value: np.ndarray | Varying) -> None:
        if not name:
            return
        if isinstance(value, Varying) and value.where.any():
            self.varying[name] = value
        else:
            self.known[name] = value.each[0] if isinstance(value, Varying) else value

    def compute(self, node: NodeProto) -> None:
        """Computes a node whose inputs are all known, and adds its outputs.

        Raises:
            ValueError: the node is random, is not one of the operators that are computed, cannot be computed, takes
                more memory or time than is left, or computes with the size of a batch.
        """
        inputs = [self.get(name) for name in node.input if name]
        if not any(isinstance(a, Varying) for a in inputs):
            outputs = self._evaluate(node, inputs)
        else:
            moved = MOVED_INPUTS.get(node.op_type) if not node.domain else None
            if moved is None or any(isinstance(a, Varying) for a in (inputs[moved:] if moved else ())):
                raise ValueError("its value depends on the size of the batch")
            each = [
                self._evaluate(node, [a.each[i] if isinstance(a, Varying) else a for a in inputs])
                for i in range(len(BATCHES))
            ]
            outputs = [Varying(*pair) for pair in zip(*each)]
        for name, a in zip(node.output, outputs):
            self.add(name, a)

    def _evaluate(self, node: NodeProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of a node of a standard operator for constant inputs."""
        if node.op_type in RANDOM_OPERATORS:
            raise ValueError("its value is random")
        if node.domain or node.op_type not in RESULT_SIZES:
            raise ValueError("this operator is not supported on constants")
        self.nodes -= 1
        if self.nodes < 0:
            raise ValueError(f"more than {MOST_COMPUTED:,} constants would have to be computed")
        names = list(dict.fromkeys(n for n in node.input if n))
        values = dict(zip((n for n in node.input if n), inputs))
        types = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape)
            for n in names
        ]
        outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in node.output if n]
        model = helper.make_model(helper.make_graph([node], "constant", types, outputs), opset_imports=self.opsets)
        try:
            self._spend(node, inputs)
            _check_agreed(node, values)
            with np.errstate(all="ignore"):
                found = ReferenceEvaluator(model).run(None, values)
        except (_NotAgreed, _TooMuch) as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # the evaluator may raise anything
            raise ValueError(f"its value cannot be computed: {type(error).__name__}: {error}") from error
        if not all(isinstance(a, np.ndarray) for a in found):
            raise ValueError("its value is not an array")
        computed = iter(found)
        return [next(computed) if name else np.empty(0) for name in node.output]

    def _spend(self, node: NodeProto, inputs: list[np.ndarray]) -> None:
        numbers = RESULT_SIZES[node.op_type](node, *inputs)
        products = numbers * (inputs[0].shape[-1] if node.op_type == "MatMul" else 1)
        if numbers > self.numbers or products > self.products:
            raise _TooMuch(f"its value has up to {numbers:,} numbers, too many for a file of this size")
        self.numbers -= max(0, numbers)
        self.products -= max(0, products)


class _TooMuch(Exception):
    pass


def check_sizes(model: ModelProto) -> None:
    """Checks that no constant of a model takes more memory than its file allows.  A runtime may then compute them.

    Raises:
        ValueError: a constant does.  The message names its node.
    """
    found = Constants(model)
    for node in model.graph.node:
        if all(found.has(name) for name in node.input if name) and not node.domain:
            try:
                found.compute(node)
            except ValueError as error:
                if isinstance(error.__cause__, _TooMuch):
                    raise ValueError(f"node {said(node.name or node.output[0])} ({node.op_type}): {error}") from error


def constants_of(model: ModelProto, nodes: Iterable[NodeProto]) -> Constants:
    """The constants that these nodes of a model compute, as far as they can be computed."""
    found = Constants(model)
    for node in nodes:
        if all(found.has(name) for name in node.input if name):
            try:
                found.compute(node)
            except ValueError:
                continue  # where it is needed, it is computed again, and the error is shown
    return found

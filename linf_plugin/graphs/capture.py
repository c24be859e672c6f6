"""Reads the program of any module, as ``torch.export`` sees it, into a graph."""

import contextlib
import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind

from .. import arguments
from .fusion import note_fusions
from .graph import Graph
from .readers.arithmetic import OF_SIZES
from .readers.table import READERS
from .values import Builder, Size, Unknown, Value, resolve

MOST_SAMPLES = 2**20  # a program that holds only for fewer samples is refused
SAMPLES = 3  # the number of samples with which the program is exported; it must hold for every number
LOGS = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")  # they print such programs
LIBRARIES = tuple(str(Path(file).parent) for file in (torch.__file__, arguments.__file__))  # their lines tell little

# Operators that make constants of whole numbers, or of one number.  Others may round differently on other devices.
MAKES = ("aten.full", "aten.zeros", "aten.ones", "aten.arange", "aten.eye", "aten.scalar_tensor")
IGNORED = (
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_async",
)


def capture(model: nn.Module, x: Tensor) -> Graph:
    """Returns the graph of a module's program on samples like x.

    The program is the sequence of operators that ``torch.export`` sees.  Each becomes operations that have the rules of
    docs/math.md.  Constants of the program are kept as float64 numbers of the same values.

    Args:
        model: in evaluation mode; takes one tensor (N, *) and returns one tensor (N, classes).
        x: (N, *), float32, N ≥ 1.

    Raises:
        TypeError: the module cannot be exported for every number of samples; it returns something else than one
            tensor; or it uses an operator that has no rules, or not in this way.  The message names the operator and
            the line of the user's code.
    """
    program = _export(model, x)
    return _Reading(program, x).graph()


class OneInput(nn.Module):
    """Calls a model with one input, whatever arguments its ``forward`` could take."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor):
        return self.model(x)


def _export(model: nn.Module, x: Tensor):
    example = x[:1].detach().expand(SAMPLES, *x.shape[1:]).clone()
    logs = [logging.getLogger(name) for name in LOGS]
    with warnings.catch_warnings(), torch.no_grad(), _silent(logs):
        warnings.simplefilter("ignore")  # torch.export warns of its own deprecated parts
        try:
            program = torch.export.export(
                OneInput(model), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
            )
            limits = _limits(program)
            if any(_changes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # writes operators that work in place as functions
        except Exception as error:  # torch.export raises errors of many types
            advice = ""
            if "Constraints violated" in str(error):
                advice = " (the program is another one for each number of samples: is there a len(x) for x.shape[0]?)"
            elif "data-dependent" in str(error):
                advice = f" (the code decides by values of a tensor{_place(error)})"
            raise TypeError(
                f"torch.export cannot read the program of {type(model).__name__} for every number of samples, so "
                f"nothing is proved about its rounding: {_first_line(error)}{advice}. sound=False leaves rounding out"
            ) from error
    if limits:
        raise TypeError(
            f"the program of {type(model).__name__} is another one for some numbers of samples, so nothing is proved "
            f"about its rounding: what torch.export reads holds only if {limits}. sound=False leaves rounding out"
        )
    return program


def _limits(program) -> str:
    """Returns the conditions on the number of samples under which an exported program holds; "" if there are none."""
    (name,) = program.graph_signature.user_inputs
    count = next(node for node in program.graph.nodes if node.name == name).meta["val"].shape[0]
    conditions = list(getattr(program, "_guards_code", None) or ())
    numbers = None if isinstance(count, int) else program.range_constraints.get(count.node.expr)
    if not conditions and numbers is not None and (numbers.lower > 2 or numbers.upper < MOST_SAMPLES):
        conditions = [f"x.shape[0] lies in [{numbers.lower}, {numbers.upper}]"]
    return " and ".join(conditions).replace("L['x'].size()[0]", "x.shape[0]")


@contextlib.contextmanager
def _silent(logs: list[logging.Logger]) -> Iterator[None]:
    """Keeps torch.export from printing a program that it cannot read: the error that follows names the reason."""
    disabled = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for log, before in zip(logs, disabled):
            log.disabled = before


def _place(error: Exception) -> str:
    """Returns where torch.export says that the user's code raised an error; empty if it does not say."""
    found = re.search(r'The following call raised this error:\s+File "(.+)", line (\d+)', str(error))
    return "" if found is None else f", at {found[1]}, line {found[2]}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def _changes(node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


class _Reading:
    """Walks through an exported program once."""

    def __init__(self, program, x: Tensor):
        self.program, self.device = program, x.device
        self.builder = Builder(tuple(x.shape[1:]))
        self.known: dict[Any, Any] = {}  # node of the program → value, constant, size, or list of these

    def graph(self) -> Graph:
        self._place_inputs()
        output = None
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.builder.where = where(node)
                self.known[node] = self._call(node)
            elif node.op == "get_attr":  # a part of the program with settings of its own, whose call is refused
                self.known[node] = None
            elif node.op == "output":
                kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
                output = [self._argument(a) for a, kind in zip(node.args[0], kinds) if kind == OutputKind.USER_OUTPUT]
        if isinstance(output, (list, tuple)) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Value):
            count = len(output) if isinstance(output, (list, tuple)) else "no"
            raise TypeError(
                f"the model returns {count} tensors that depend on its input, and a certificate is about one: wrap it "
                "in a module that returns the logits only"
            )
        if output.rows is not None:
            raise TypeError("the model joins rows of each sample with the samples: it must return (N, classes)")
        return note_fusions(self.builder.graph(output)).to(self.device)

    def _place_inputs(self) -> None:
        program = self.program
        signature = program.graph_signature
        tensors = {**program.state_dict, **program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        changed = [name.removeprefix("model.") for name in signature.buffers_to_mutate.values()]
        if changed:
            raise TypeError(
                f"the model changes {changed[0]!r} each time it runs, so its program is not the same function each "
                "time: call model.eval(), or leave that out"
            )
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            name = names.get(node.name)
            if name is None:
                self.known[node] = self.builder.input
            else:
                self.known[node] = tensors[name].detach().cpu()

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.known[argument]
        if isinstance(argument, (list, tuple)):
            return [self._argument(a) for a in argument]
        return argument

    def _call(self, node) -> Any:
        target = node.target
        if target is operator.getitem:
            whole, at = self._argument(node.args[0]), node.args[1]
            if isinstance(whole, list) and at >= len(whole):
                if node.users:
                    raise self._refused(node, "its second result is used, and only its values are known")
                return None
            return whole[at]
        name = _name(target)
        if name.removeprefix("aten.") in IGNORED:
            return None
        args = self._bound(node)
        try:
            if name in ("aten.sym_size", "aten.size"):
                return _size(args["self"], args.get("dim"))
            if not name.startswith(("aten.", "linf.")):
                return _of_sizes(name, list(args.values()))
            if not _any_value(args):
                return self._constant(node, name)
            self._check_float(node)
            if name not in READERS:
                raise Unknown("no rule is known for it")
            return READERS[name](self.builder, args)
        except Unknown as error:
            raise self._refused(node, str(error)) from None
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._refused(node, f"it is called in an unusual way ({_first_line(error)})") from error

    def _bound(self, node) -> dict[str, Any]:
        """Returns the arguments of a call by name, with defaults."""
        args = [self._argument(a) for a in node.args]
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return dict(enumerate(args))
        found = {}
        for i, parameter in enumerate(schema.arguments):
            if parameter.name in node.kwargs:
                found[parameter.name] = self._argument(node.kwargs[parameter.name])
            else:
                found[parameter.name] = args[i] if i < len(args) else parameter.default_value
        return found

    def _check_float(self, node) -> None:
        value = node.meta.get("val")
        values = value if isinstance(value, (list, tuple)) else [value]
        first = values[0] if values else None
        if isinstance(first, Tensor) and first.dtype != torch.float32:
            raise Unknown(f"its result is {first.dtype}: rounding is known for float32")

    def _constant(self, node, name: str) -> Any:
        """Returns the result of an operator on constants.  It must be exact in float32."""
        args = [self._argument(a) for a in node.args]
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items() if k not in ("device", "pin_memory")}
        if _any_size(args) or _any_size(list(kwargs.values())):
            raise Unknown("it makes a tensor with the number of samples: nothing is known of that")
        if not _any_tensor(args) and name not in MAKES:
            raise Unknown("it makes numbers: make them once, and store them as a buffer")
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or "empty" in name:
            raise Unknown("its numbers differ each time: make them once, and store them as a buffer")
        found = node.target(*args, **kwargs)
        if isinstance(found, Tensor) and found.is_floating_point():
            exact = node.target(*map(_double, args), **kwargs).double()
            whole = _any_tensor(args) or found.unique().numel() <= 1 or torch.equal(found, found.round())
            if not whole or not torch.equal(exact, found.double()):
                raise Unknown("it computes with constants and rounds: compute it once, and store it as a buffer")
        return list(found) if isinstance(found, (list, tuple)) else found

    def _refused(self, node, why: str) -> TypeError:
        name = _name(node.target).removeprefix("aten.")
        return TypeError(
            f"no bound of the rounding error is known for {name} at {where(node)}: {why}. sound=False leaves rounding "
            "out"
        )


def _double(a: Any) -> Any:
    if isinstance(a, list):
        return [_double(each) for each in a]
    return a.double() if isinstance(a, Tensor) and a.is_floating_point() else a


def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    if schema is None:
        return getattr(target, "__name__", str(target))
    return schema.name.replace("::", ".")


def _size(value: Any, dim: int | None) -> Any:
    if isinstance(value, Tensor):
        return value.shape[dim] if dim is not None else list(value.shape)
    count = len(value.of(1))
    dims = [dim % count] if dim is not None else range(count)
    sizes = [Size(lambda n, d=d: value.of(n)[d]) if d == 0 else value.of(1)[d] for d in dims]
    return sizes[0] if dim is not None else sizes


def _of_sizes(name: str, args: list) -> Any:
    if name not in OF_SIZES or not all(isinstance(a, (int, Size)) for a in args):
        if name in ("eq", "ne", "ge", "gt", "le", "lt"):  # conditions that torch.export has already checked
            return None
        raise Unknown("nothing is known of it")
    compute = OF_SIZES[name]
    return Size(lambda n: compute(*(resolve(a, n) for a in args)))


def _any_value(argument: Any) -> bool:
    if isinstance(argument, dict):
        return any(map(_any_value, argument.values()))
    if isinstance(argument, (list, tuple)):
        return any(map(_any_value, argument))
    return isinstance(argument, Value)


def _any_tensor(argument: Any) -> bool:
    return any(map(_any_tensor, argument)) if isinstance(argument, (list, tuple)) else isinstance(argument, Tensor)


def _any_size(argument: Any) -> bool:
    return any(map(_any_size, argument)) if isinstance(argument, (list, tuple)) else isinstance(argument, Size)


def where(node) -> str:
    """Returns the place of a call in the user's code: the line outside of torch, and the module of the net."""
    trace = (node.meta.get("stack_trace") or "").strip()
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', trace)
    own = [f for f in frames if not f[0].startswith((*LIBRARIES, "torch/"))]
    modules = [m for m in (node.meta.get("nn_module_stack") or {}).values() if m[0] and not m[0].startswith("_")]
    path, kind = (modules[-1][0].removeprefix("model").lstrip("."), modules[-1][1]) if modules else ("", "")
    module = f"layer {path!r} ({str(kind).rsplit('.', 1)[-1]})" if path else ""
    line = f"{own[-1][0]}, line {own[-1][1]}" if own else ""
    return " of ".join(part for part in (line, module) if part) or "the model"

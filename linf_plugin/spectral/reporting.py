"""What every method says of every linear layer of a model, and of the product of all layers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_forward, check_model
from .bounding import Bound, bound
from .chain import STRETCHES, stretch
from .geometry import READ, Convolution, Pair, describe
from .methods import SPECTRAL_METHODS
from .outward import up
from .told import constant_of, told_of

USUAL = ("gram", "svd", "lipbound", "norm2toep", "power")


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: in the model.
        kind: its type.
        shape: of its weight.
        bounds: method → ``Bound`` of the norm of the weight, or a refusal.
        constant: the certified Lipschitz constant of the layer in ℓ2, if the layer is more than its linear map, such
            as x − Wᵀ·relu(W·x + b); None for a linear layer, or if no constant is known.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bounds: dict[str, Bound | str]
    constant: float | None = None

    @property
    def best(self) -> Bound | None:
        """The smallest certificate, or None."""
        certified = [one for one in self.bounds.values() if isinstance(one, Bound) and one.certified]
        return min(certified, key=lambda one: one.value, default=None)

    @property
    def factor(self) -> float | None:
        """What the layer multiplies the product by: its constant, or its smallest certificate.  None if unknown."""
        if self.constant is not None:
            return self.constant
        return None if self.best is None else self.best.value


@dataclass(frozen=True)
class Report:
    """The bounds of a model.  ``str(report)`` is a Markdown table.

    Attributes:
        rows: one for each layer with a weight.
        methods: the columns.
        product: a certified Lipschitz bound of the whole model in ℓ2, made of the factor of each row and of the
            constants of layers without a row; None if there is none.
        reason: why there is no product, or what it consists of.
    """

    rows: tuple[LayerRow, ...]
    methods: tuple[str, ...]
    product: float | None
    reason: str

    def __str__(self) -> str:
        constants = ["constant"] if any(row.constant is not None for row in self.rows) else []
        columns = [*self.methods, *constants]
        header = ["layer", "type", "weight", *columns, "holds for"]
        lines = [header, ["---", "---", "---", *["---:"] * len(columns), "---"]]
        refused: dict[str, list[str]] = {}
        for row in self.rows:
            cells = [_cell(row.bounds[method]) for method in self.methods]
            cells += ["–" if row.factor is None else _number(row.factor) for _ in constants]
            for reason in dict.fromkeys(one for one in row.bounds.values() if isinstance(one, str)):
                refused.setdefault(reason, []).append(row.name or "the model")
            held = dict.fromkeys(one.holds_for for one in row.bounds.values() if isinstance(one, Bound))
            shape = "×".join(map(str, row.shape))
            lines.append([row.name or "the model", row.kind, shape, *cells, "; ".join(held)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        certificates = [m for m in self.methods if SPECTRAL_METHODS[m].upper is not None]
        lower = [m for m in self.methods if m not in certificates]
        said = f"Certificates: {', '.join(certificates) or 'none'}."
        said += f" Lower bounds, which certify nothing: {', '.join(lower)}." if lower else ""
        said += " They bound the norm of the weight; the constant is that of the layer in ℓ2." if constants else ""
        notes = [f"{', '.join(names)}: {reason}." for reason, names in refused.items()]
        product = (
            f"Product: {_number(self.product)}, {self.reason}"
            if self.product is not None
            else (f"No product: {self.reason}")
        )
        return "\n\n".join([table, said, *notes, f"{product}."])


def _number(value: float) -> str:
    """Returns a number with six digits, rounded up."""
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    text = f"{value:.6g}"
    while float(text) < value:
        value = math.nextafter(value * (1 + 1e-6), math.inf)
        text = f"{value:.6g}"
    return text


def _cell(one: Bound | str) -> str:
    if isinstance(one, str):
        return "–"
    return _number(one.value) if one.certified else f"≥ {one.value:.6g}"


def report(model: nn.Module, *, methods: Iterable[str] = USUAL, shape: tuple[int, ...] | None = None) -> Report:
    """Returns the bounds of all weights of linear layers in a model, by every method, and the product of its layers.

    These layers are ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, ``PotentialLinear`` and ``PotentialConv2d``.  A layer
    that cannot be bounded has its refusal.  So has a form for training, whose weight is not stored: call
    ``linf_plugin.materialise(model)`` first.  The product is given only for a chain of layers: an ``nn.Sequential``,
    also nested, of such layers and of layers with a known constant (``chain.STRETCHES``, or ``lipschitz_bound`` in ℓ2).

    Args:
        model: any module, in evaluation mode.
        methods: keys of ``SPECTRAL_METHODS``.
        shape: of one input, such as (3, 32, 32).  One input of zeros is then put through the model, and each
            convolution is bounded for the size of its images.  Without it, bounds hold for every size.

    Raises:
        TypeError, ValueError: an argument is not as described, the model is in training mode, or a weight is not
            finite.
        RuntimeError: the process does not compute as the proofs assume, or the model cannot run on such an input.
    """
    check_model(model)
    methods = tuple(methods)
    for method in methods:
        if method not in SPECTRAL_METHODS:
            raise ValueError(f"methods must be among {', '.join(SPECTRAL_METHODS)}, got {method!r}")
    layers: dict[str, nn.Module] = {
        name: layer
        for name, layer in model.named_modules()
        if told_of(layer) is not None or isinstance(layer, tuple(READ))
    }
    sizes = {} if shape is None else _sizes(model, layers, shape)
    rows = [_row(name, layer, methods, sizes.get(name)) for name, layer in layers.items()]
    product, reason = _product(model, {id(layers[row.name]): row for row in rows})
    return Report(tuple(rows), methods, product, reason)


def _row(name: str, layer: nn.Module, methods: tuple[str, ...], size: int | Pair | None) -> LayerRow:
    if not all(a.detach().isfinite().all() for key, a in layer.named_parameters() if key != "bias"):
        raise ValueError("model has NaN or infinite weights")
    kind, found = type(layer).__name__, told_of(layer)
    if found is None:
        bounds = {method: _bound(layer, method, size) for method in methods}
        return LayerRow(name, kind, tuple(layer.weight.shape), bounds)
    told, room = found
    if isinstance(told.map_, str):
        return LayerRow(name, kind, told.shape, dict.fromkeys(methods, told.map_))
    try:
        constant = room.constant(layer)
    except (TypeError, RuntimeError) as error:
        return LayerRow(name, kind, told.shape, dict.fromkeys(methods, str(error)))
    return LayerRow(name, kind, told.shape, {method: _bound(told.map_, method, size) for method in methods}, constant)


def _bound(map_: nn.Module | Tensor | Convolution, method: str, size: int | Pair | None) -> Bound | str:
    try:
        describe(map_, size)
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    try:
        return bound(map_, method, size=size, certify=SPECTRAL_METHODS[method].upper is not None)
    except ValueError as error:  # the method does not fit the layer
        return str(error)


def _sizes(model: nn.Module, layers: dict[str, nn.Module], shape: tuple[int, ...]) -> dict[str, int | Pair]:
    """Returns name → size of the images that reach a convolution; those that see several sizes are left out."""
    seen: dict[str, set] = {}

    def watch(name: str, dimensions: int):
        def hook(layer, inputs):
            seen.setdefault(name, set()).add(tuple(inputs[0].shape[-dimensions:]))

        return hook

    hooks = []
    for name, layer in layers.items():
        found = told_of(layer)
        map_ = layer if found is None else found[0].map_
        kernel = getattr(map_, "weight", None)  # dense weights are tensors, and forms for training have no map
        if kernel is not None and kernel.dim() > 2:
            hooks.append(layer.register_forward_pre_hook(watch(name, kernel.dim() - 2)))
    like = next(iter([*model.parameters(), *model.buffers()]), torch.zeros(()))
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise RuntimeError(f"shape={tuple(shape)}: the model cannot run on such an input: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    single = {name: next(iter(sizes)) for name, sizes in seen.items() if len(sizes) == 1}
    return {name: size[0] if len(size) == 1 else size for name, size in single.items()}


def _product(model: nn.Module, rows: dict[int, LayerRow]) -> tuple[float | None, str]:
    """Returns a Lipschitz bound of the model in ℓ2 and what it consists of, or None and the reason."""
    try:
        chain = _chain(model)
        factors = [_factor(layer, rows) for layer in chain]
    except (TypeError, RuntimeError) as error:
        return None, str(error)
    if not rows:
        return None, "the model has no linear layer"
    product = 1.0
    for factor in factors:
        product = up(product * factor, 1) if factor != 1 else product
    stated = sum(row.constant is not None for row in rows.values())
    parts = [f"the smallest certificate of each of {len(rows) - stated} layers"] if len(rows) > stated else []
    parts += [f"the constant of each of {stated} residual layers"] if stated else []
    parts += ["the constants of the other layers"] if len(factors) != len(rows) else []
    *before, last = parts
    said = f"{', '.join(before)}, and {last}" if before else last
    return product, f"a Lipschitz bound of the model in ℓ2: {said}"


def _chain(model: nn.Module) -> list[nn.Module]:
    check_forward(f"the {type(model).__name__}", model)
    if not isinstance(model, nn.Sequential):
        return [model]
    if getattr(model.forward, "__func__", None) is not nn.Sequential.forward:
        raise TypeError(f"{type(model).__name__} has a forward of its own: it need not apply its layers in order")
    return [layer for child in model for layer in _chain(child)]


def _factor(layer: nn.Module, rows: dict[int, LayerRow]) -> float:
    row = rows.get(id(layer))
    if row is None and any(True for _ in layer.children()):
        raise TypeError(f"{type(layer).__name__} may apply its layers in any order, or add what they return")
    if row is None:
        return stretch(layer) if type(layer) in STRETCHES else constant_of(layer)
    if row.factor is None:
        raise TypeError(f"layer {row.name!r} ({row.kind}) has no certificate")
    return row.factor

"""What every method says of every linear layer of a model, and of the product of all layers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..arguments import check_forward, check_model
from .bounding import Bound, bound
from .chain import stretch
from .geometry import READ, Pair, describe
from .methods import SPECTRAL_METHODS
from .outward import up

USUAL = ("gram", "svd", "lipbound", "norm2toep", "power")


@dataclass(frozen=True)
class LayerRow:
    """One layer: its name in the model, its type, the shape of its weight, and method → ``Bound`` or a refusal."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bounds: dict[str, Bound | str]

    @property
    def best(self) -> Bound | None:
        """The smallest certificate, or None."""
        certified = [one for one in self.bounds.values() if isinstance(one, Bound) and one.certified]
        return min(certified, key=lambda one: one.value, default=None)


@dataclass(frozen=True)
class Report:
    """The bounds of a model.  ``str(report)`` is a Markdown table.

    Attributes:
        rows: one for each layer with a weight.
        methods: the columns.
        product: a certified Lipschitz bound of the whole model in ℓ2, made of the smallest certificate of each layer;
            None if there is none.
        reason: why there is no product, or what it consists of.
    """

    rows: tuple[LayerRow, ...]
    methods: tuple[str, ...]
    product: float | None
    reason: str

    def __str__(self) -> str:
        header = ["layer", "type", "weight", *self.methods, "holds for"]
        lines = [header, ["---", "---", "---", *["---:"] * len(self.methods), "---"]]
        notes: list[str] = []
        for row in self.rows:
            cells = [_cell(row.bounds[method]) for method in self.methods]
            refused = dict.fromkeys(one for one in row.bounds.values() if isinstance(one, str))
            notes += [f"{row.name or 'the model'}: {reason}." for reason in refused]
            held = dict.fromkeys(one.holds_for for one in row.bounds.values() if isinstance(one, Bound))
            shape = "×".join(map(str, row.shape))
            lines.append([row.name or "the model", row.kind, shape, *cells, "; ".join(held)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        certificates = [m for m in self.methods if SPECTRAL_METHODS[m].upper is not None]
        lower = [m for m in self.methods if m not in certificates]
        said = f"Certificates: {', '.join(certificates) or 'none'}."
        said += f" Lower bounds, which certify nothing: {', '.join(lower)}." if lower else ""
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


def report(
    model: nn.Module,
    *,
    methods: Iterable[str] = USUAL,
    shape: tuple[int, ...] | None = None,
    constant: Callable[[nn.Module], float] = stretch,
) -> Report:
    """Returns the bounds of all ``nn.Linear``, ``nn.Conv1d`` and ``nn.Conv2d`` in a model, by every method.

    A layer that cannot be bounded has its refusal.  The product is given only for a chain of layers: an
    ``nn.Sequential``, also nested, of such layers and of layers with a known constant (``chain.STRETCHES``).

    Args:
        model: any module, in evaluation mode.
        methods: keys of ``SPECTRAL_METHODS``.
        shape: of one input, such as (3, 32, 32).  One input of zeros is then put through the model, and each
            convolution is bounded for the size of its images.  Without it, bounds hold for every size.
        constant: layer → Lipschitz constant in ℓ2 of a layer without such a weight; raises TypeError if it knows none.

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
        name: layer for name, layer in model.named_modules() if isinstance(layer, tuple(READ))
    }
    sizes = {} if shape is None else _sizes(model, layers, shape)
    rows = []
    for name, layer in layers.items():
        weight = layer.weight
        bounds = {method: _bound(layer, method, sizes.get(name)) for method in methods}
        rows.append(LayerRow(name, type(layer).__name__, tuple(weight.shape), bounds))
    product, reason = _product(model, {id(layers[row.name]): row for row in rows}, constant)
    return Report(tuple(rows), methods, product, reason)


def _bound(layer: nn.Module, method: str, size: int | Pair | None) -> Bound | str:
    if not layer.weight.detach().isfinite().all():
        raise ValueError("model has NaN or infinite weights")
    try:
        describe(layer, size)
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    try:
        return bound(layer, method, size=size, certify=SPECTRAL_METHODS[method].upper is not None)
    except ValueError as error:  # the method does not fit the layer
        return str(error)


def _sizes(model: nn.Module, layers: dict[str, nn.Module], shape: tuple[int, ...]) -> dict[str, int | Pair]:
    """Returns name → size of the images that reach a convolution; those that see several sizes are left out."""
    seen: dict[str, set] = {}

    def watch(name: str, dimensions: int):
        def hook(layer, inputs):
            seen.setdefault(name, set()).add(tuple(inputs[0].shape[-dimensions:]))

        return hook

    dimensions = {nn.Conv1d: 1, nn.Conv2d: 2}
    hooks = [
        layer.register_forward_pre_hook(watch(name, dimensions[type(layer)]))
        for name, layer in layers.items()
        if type(layer) in dimensions
    ]
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


def _product(
    model: nn.Module, rows: dict[int, LayerRow], constant: Callable[[nn.Module], float]
) -> tuple[float | None, str]:
    """Returns a Lipschitz bound of the model in ℓ2 and what it consists of, or None and the reason."""
    try:
        chain = _chain(model)
        factors = [_factor(layer, rows, constant) for layer in chain]
    except (TypeError, RuntimeError) as error:
        return None, str(error)
    if not rows:
        return None, "the model has no linear layer"
    product = 1.0
    for factor in factors:
        product = up(product * factor, 1) if factor != 1 else product
    others = "" if len(factors) == len(rows) else ", and the constants of the other layers"
    return (
        product,
        f"a Lipschitz bound of the model in ℓ2: the smallest certificate of each of {len(rows)} layers{others}",
    )


def _chain(model: nn.Module) -> list[nn.Module]:
    check_forward(f"the {type(model).__name__}", model)
    if not isinstance(model, nn.Sequential):
        return [model]
    if getattr(model.forward, "__func__", None) is not nn.Sequential.forward:
        raise TypeError(f"{type(model).__name__} has a forward of its own: it need not apply its layers in order")
    return [layer for child in model for layer in _chain(child)]


def _factor(layer: nn.Module, rows: dict[int, LayerRow], constant: Callable[[nn.Module], float]) -> float:
    row = rows.get(id(layer))
    if row is None and any(True for _ in layer.children()):
        raise TypeError(f"{type(layer).__name__} may apply its layers in any order, or add what they return")
    if row is None:
        return constant(layer)
    if row.best is None:
        raise TypeError(f"layer {row.name!r} ({row.kind}) has no certificate")
    return row.best.value

"""Random small graphs: an operator of the catalog, with layers of ours or stock ones before and behind it, or none."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, Normalize, SortDistLinear

from .catalog import CATALOG
from .steps import Builder, Graph

EXPONENTS = (math.inf, math.inf, 1.0, 2.0, 8.0)
RADII = (0.01, 0.1, 0.1, 0.3, 1.0)
SIZES = (*[1.0] * 8, 30.0, 1000.0)  # of inputs: tables and clamps of auto_LiRPA end somewhere
MOST_OUTPUTS = 24
MOST_NEURONS = 400  # of one step: linear bounds keep a coefficient for each pair of neurons
# How often a second operand comes from where.
KINDS = {
    "plain": ("buffer", "parameter"),
    "computed": ("computed",),
    "branch": ("branch", "itself"),
    "input": ("input",),
    "any": ("buffer", "parameter", "computed", "branch", "itself", "input"),
}
OPTIONS = (  # of auto_LiRPA, which users set; each version ignores what it does not know
    {"activation_bound_option": "same-slope"},
    {"relu": "same-slope"},
    {"relu": "zero-lb"},
    {"relu": "one-lb"},
    {"relu": "reversed-adaptive"},
    {"activation_bound_option": "zero-lb"},
    {"forward_refinement": True},
    {"sparse_intermediate_bounds": True, "sparse_spec_alpha": True, "sparse_features_alpha": True},
    {"sparse_intermediate_bounds": False, "sparse_conv_intermediate_bounds": False},
    {"minimum_sparsity": 0.0},
    {"softmax": "simple"},
    {"matmul": "economic"},
    {"crown_batch_size": 3},
    {"compare_crown_with_ibp": True},
    {"bound_every_node": True},
    {"use_full_conv_alpha": False},
    {"mul": {"middle": True}},
    {"tanh": "same-slope"},
    {"enable_opt_interm_bounds": True},
    {"optimize_bound_args": {"iteration": 3, "use_shared_alpha": True}},
    {"optimize_bound_args": {"iteration": 3, "fix_intermediate_layer_bounds": False, "fix_interm_bounds": False}},
)


def _image(b: Builder) -> str:
    r, channels, p = b.r, b.shape[0], b.p
    layer = r.choice(("dist", "dist", "conv", "relu", "mean", "normalize", "pool", "batch norm", "flatten"))
    if layer == "dist":
        groups = r.choice((1, 1, channels))
        b.layer(
            _near(
                b,
                LinfDistConv2d(
                    channels,
                    groups * r.randint(1, 2),
                    r.choice((1, 2, 3)),
                    stride=r.choice((1, 1, 2)),
                    padding=r.choice((0, 1)),
                    dilation=r.choice((1, 1, 2)),
                    groups=groups,
                    bias=r.random() < 0.5,
                    p=p,
                ),
            )
        )
    elif layer == "pool":
        CATALOG[r.choice(("avg_pool2d", "max_pool2d"))][1](b)
    elif layer == "conv":
        CATALOG["conv2d"][1](b)
    elif layer == "batch norm":
        CATALOG["batch norm"][1](b)
    elif layer == "flatten":
        b.flatten()
    else:
        _anywhere(b, layer)


def _vector(b: Builder) -> str:
    r, features = b.r, b.shape[0]
    layer = r.choice(("dist", "dist", "sorted", "linear", "linear", "relu", "mean", "normalize", "tanh"))
    out = r.randint(1, 6)
    if layer == "dist":
        b.layer(_near(b, LinfDistLinear(features, out, bias=r.random() < 0.5, p=b.p)))
    elif layer == "sorted":
        b.layer(_near(b, SortDistLinear(features, out, rho=r.choice((0.3, 0.7, 1.0)), k=r.choice((1, 3, 10)))))
    elif layer == "linear":
        b.layer(nn.Linear(features, out, bias=r.random() < 0.7))
    else:
        _anywhere(b, layer)


def _sequence(b: Builder) -> str:
    if b.r.random() < 0.5:
        b.layer(nn.Linear(b.shape[-1], b.r.randint(1, 4), bias=b.r.random() < 0.7))
    else:
        _anywhere(b, b.r.choice(("relu", "flatten", "mean")))


def _anywhere(b: Builder, layer: str) -> None:
    if layer == "relu":
        b.layer(nn.ReLU())
    elif layer == "tanh":
        b.layer(nn.Tanh())
    elif layer == "flatten":
        b.flatten()
    elif layer == "mean":
        shift = MeanShift(b.shape[0])
        shift.running_mean.normal_()
        b.layer(shift)
    elif layer == "normalize":
        means = [b.r.uniform(-1, 1) for _ in range(b.r.choice((1, b.shape[0])))]
        b.layer(Normalize(means, b.r.choice((1.0, 0.3, 2.0))))


@torch.no_grad()
def _near(b: Builder, layer):
    """Weights among what the layer meets, so that its bounds are not those of |x − w| far away."""
    layer.weight.normal_().mul_(b.h.std() if b.h.numel() > 1 else 1.0).add_(b.h.mean())
    if layer.bias is not None:
        layer.bias.normal_()
    return layer


def _layer(b: Builder) -> None:
    {1: _vector, 2: _sequence, 3: _image}.get(len(b.shape), lambda b: b.flatten())(b)


def _coerce(b: Builder, of: str) -> None:
    """Makes h what the operator is asked of."""
    wanted = {"vector": 1, "sequence": 2, "image": 3}.get(of)
    if wanted is None or len(b.shape) == wanted:
        return
    b.flatten()
    if wanted == 1:
        return
    shape = {2: (2, 3), 3: (2, 3, 3)}[wanted]
    b.layer(nn.Linear(b.shape[0], math.prod(shape)))
    b.add(f"unflatten(1, {shape})", lambda h: h.unflatten(1, shape))


def _shape(r: random.Random, of: str) -> tuple[int, ...]:
    kind = r.choice(("vector", "image", "image", "sequence")) if of == "any" else of
    return {
        "vector": (r.randint(1, 6),),
        "sequence": (r.randint(1, 4), r.randint(1, 4)),
        "image": (r.randint(1, 3), r.randint(2, 5), r.randint(2, 5)),
    }[kind]


def _try(b: Builder, add) -> None:
    """Adds what torch accepts of h, and leaves out the rest."""
    before = b.h, list(b.steps), list(b.inputs)
    try:
        add(b)
        if not b.h.isfinite().all() or b.h[0].numel() > MOST_NEURONS:
            raise ValueError("not finite, or too many neurons")
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, ZeroDivisionError, AttributeError):
        b.h, b.steps, b.inputs = before


@dataclass
class Case:
    """A graph, the ends of its inputs' boxes, and how it is bounded."""

    index: int
    operator: str
    graph: Graph
    inputs: list[Tensor]  # (2, *) each; they lie in
    boxes: list[tuple[Tensor, Tensor] | None]  # (lower, upper), None where an input is a point
    traced: int  # samples that the graph is traced with
    options: dict  # of auto_LiRPA, beside conv_mode
    C: Tensor | None

    @property
    def modes(self) -> tuple[str, ...]:
        return ("patches", "matrix") if self.has_images else ("patches",)

    @property
    def has_images(self) -> bool:
        h, rest = self.inputs[0], tuple(self.inputs[1:])
        with torch.no_grad():
            for step in self.graph.steps:
                if h.dim() == 4:
                    return True
                h = step(h, rest)
        return False


def draw(seed: int, index: int) -> Case:
    """The case number ``index`` of this seed, whatever was drawn before it.  Seeds torch's generator as well."""
    names = list(CATALOG)
    name = names[index % len(names)]
    for attempt in range(100):
        r = random.Random(f"{seed}/{index}/{attempt}")
        torch.manual_seed(r.randrange(2**62))
        case = _attempt(r, index, name)
        if case is not None:
            return case
    raise RuntimeError(f"operator {name!r} of the catalog fits no tensor that was drawn")


def _attempt(r: random.Random, index: int, name: str) -> Case | None:
    of, add = CATALOG[name]
    shape, kinds = _shape(r, of if r.random() < 0.6 else "any"), KINDS[r.choice(list(KINDS))]
    b = Builder(r, shape, kinds, r.choice(EXPONENTS), r.choice(SIZES))
    for _ in range(r.choice((0, 0, 1, 1, 2))):
        _try(b, _layer)
    _coerce(b, of)
    before = len(b.steps)
    _try(b, add)
    if len(b.steps) == before:
        return None
    if r.random() < 0.1:
        other_of, other = CATALOG[r.choice(list(CATALOG))]
        if other_of in ("any", {1: "vector", 2: "sequence", 3: "image"}.get(len(b.shape))):
            _try(b, other)
    for _ in range(r.choice((0, 0, 1, 2, 3))):
        _try(b, _layer)
    b.flatten()
    if b.h.shape[1] > MOST_OUTPUTS or r.random() < 0.3:
        out = r.randint(2, 4)
        b.layer(_near(b, LinfDistLinear(b.shape[0], out, p=b.p)) if r.random() < 0.5 else nn.Linear(b.shape[0], out))
    return _case(r, index, name, b)


@torch.no_grad()
def _works(graph: Graph, inputs: list[Tensor]) -> bool:
    """Whether the outputs are finite, and each of its sample alone, whatever the batch."""
    y = graph(*inputs)
    try:
        more = graph(*(torch.cat([x, x, x]) for x in inputs))
    except (RuntimeError, ValueError, IndexError):
        return False
    return y.isfinite().all() and more.shape[0] == 6 and torch.allclose(more, torch.cat([y, y, y]))


def _case(r: random.Random, index: int, name: str, b: Builder) -> Case | None:
    graph = Graph(b.steps).double().eval().requires_grad_(False)
    boxes, radius = [], r.choice(RADII)
    for i, x in enumerate(b.inputs):
        if i and r.random() < 0.3:
            boxes.append(None)
            continue
        reach = torch.full_like(x, radius * (1 if i else b.size))
        if r.random() < 0.15:
            reach[torch.rand_like(x) < 0.2] = 0
        boxes.append((x - reach, x + reach))
    if not _works(graph, [x if box is None else box[1] for x, box in zip(b.inputs, boxes)]):
        return None
    C = torch.randn(2, r.randint(1, 3), b.h.shape[1]) if r.random() < 0.3 else None
    options = b.options or (r.choice(OPTIONS) if r.random() < 0.35 else {})
    return Case(index, name, graph, b.inputs, boxes, r.choice((1, 2)), options, C)

"""The exact radius: against grids, against every certificate, whatever the solver says, and clear about wrong
requests."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from brute import __main__ as command
from brute import nets as random_nets
from brute import rational
from torch import nn

from linf_plugin import (
    LinfDistConv2d,
    LinfDistLinear,
    MaxMin,
    MeanShift,
    Negate,
    Normalize,
    ParamRamp,
    PotentialConv2d,
    PotentialLinear,
    build,
    certified_radius,
    lipschitz_bound,
    margin,
)
from linf_plugin.certificates import margin_bound
from linf_plugin.certificates.exact import relaxation
from linf_plugin.certificates.exact.radius import ExactRadius, exact_radius
from linf_plugin.certificates.exact.search import Search
from linf_plugin.certificates.exact.steps import evaluate, steps_of
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.layers.shifts import CenterCrop

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

ROUNDING = 1e-12  # of logits and bounds computed in float64

NETS = {  # of one or two inputs: name → (input shape, layers)
    "one-input": ((1,), lambda: [LinfDistLinear(1, 5), LinfDistLinear(5, 3), Negate()]),
    "distance": (
        (2,),
        lambda: [Normalize((0.4,), 0.3), LinfDistLinear(2, 6), MeanShift(6), LinfDistLinear(6, 3), Negate()],
    ),
    "deep": (
        (1, 1, 2),
        lambda: [
            nn.Flatten(),
            LinfDistLinear(2, 4, bias=False),
            MeanShift(4),
            LinfDistLinear(4, 4),
            MeanShift(4),
            LinfDistLinear(4, 3),
        ],
    ),
    "relu": ((2,), lambda: [nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]),
    "residual": ((2,), lambda: [PotentialLinear(2, 3), PotentialLinear(2, 4, bias=False), nn.Linear(2, 3)]),
    "residual convolution": ((1, 1, 2), lambda: [PotentialConv2d(1, 2, (1, 3)), nn.Flatten(), nn.Linear(2, 3)]),
    "ramp": ((2,), lambda: [nn.Linear(2, 8), ParamRamp(8, 0.3), nn.Linear(8, 6), ParamRamp(6, 0.2), nn.Linear(6, 3)]),
    "max-min": ((2,), lambda: [nn.Linear(2, 8), MaxMin(), nn.Linear(8, 6), MaxMin(), nn.Linear(6, 3)]),
    "images": (
        (2, 1, 1),
        lambda: [nn.Conv2d(2, 4, 1), MaxMin(), nn.Conv2d(4, 4, 1), ParamRamp(4, 0.3), nn.Flatten(), nn.Linear(4, 3)],
    ),
    "distance-linear": ((2,), lambda: [LinfDistLinear(2, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)]),
    "linear-distance": ((2,), lambda: [nn.Linear(2, 4), LinfDistLinear(4, 4), nn.ReLU(), LinfDistLinear(4, 2)]),
    "convolution": (
        (1, 1, 2),
        lambda: [
            LinfDistConv2d(1, 3, (1, 2), padding=(1, 1)),
            MeanShift(3),
            nn.Flatten(),
            LinfDistLinear(27, 3),
            Negate(),
        ],
    ),
    "groups": (
        (2, 1, 1),
        lambda: [
            Normalize((0.2, 0.5), 0.4),
            LinfDistConv2d(2, 4, 1, groups=2),
            nn.Sequential(nn.Identity(), nn.Flatten()),
            nn.Linear(4, 3),
        ],
    ),
}


def random_net(layers):
    """With means, weights that are near the inputs, and biases that do not leave everything to one class."""
    net = nn.Sequential(*layers)
    for m in net.modules():
        if isinstance(m, MeanShift):
            m.running_mean.copy_(torch.randn_like(m.running_mean))
        if isinstance(m, (LinfDistLinear, LinfDistConv2d)) and m.bias is not None:
            nn.init.normal_(m.bias, std=0.2)
    return net.eval()


def cases(name, count):
    """Net and input, drawn until ``count`` inputs have a margin."""
    shape, layers = NETS[name]
    while count:
        net, x = random_net(layers()), torch.rand(shape)
        with torch.no_grad():
            if margin(net(x[None])) > 1e-3:
                count -= 1
                yield net, x


def grid(dims):
    """All inputs of [0, 1]^dims at distance h, and h."""
    n = 20_001 if dims == 1 else 401
    line = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.cartesian_prod(*[line] * dims).reshape(-1, dims), 1 / (n - 1)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_grids_enclose_the_radius(name):
    """A grid point of another class is an adversarial input; conversely the grid point next to one, at most h/2
    away, has a margin of at most 2·Lipschitz·h/2."""
    narrow = 0
    for net, x in cases(name, 4):
        found = exact_radius(net, x)
        double = net.double()
        points, h = grid(x.numel())
        label = double(x.double()[None]).argmax(1)
        z = double(points.reshape(-1, *x.shape))
        margins = margin(z, label.expand(len(z)))
        distance = (points - x.double().flatten()).abs().amax(1)
        above = distance[margins <= 0].min().item() if (margins <= 0).any() else math.inf
        near = margins <= lipschitz_bound(net, math.inf) * h
        below = distance[near].min().item() - h / 2 if near.any() else math.inf
        assert found.status in ("optimal", "robust")
        assert below <= found.upper and found.lower <= above
        narrow += above - below < 0.02 if above < math.inf else below == math.inf
        if found.status == "optimal":
            assert found.upper - found.lower < 1e-5
    assert narrow >= 2


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_adversarial_input_has_the_radius_and_changes_the_class(name):
    for net, x in cases(name, 4):
        found = exact_radius(net, x)
        if found.adversarial is None:
            assert found.lower == found.upper == math.inf
            continue
        assert found.adversarial.shape == x.shape and found.adversarial.dtype == torch.float64
        assert 0 <= found.adversarial.min() and found.adversarial.max() <= 1
        assert (found.adversarial - x.double()).abs().max() == pytest.approx(found.upper, rel=1e-15)
        label = net(x[None]).argmax(1)
        assert margin(net.double()(found.adversarial[None]), label) <= ROUNDING
        inside = x + found.lower * (2 * torch.rand(2000, *x.shape, dtype=torch.float64) - 1)
        assert (net(inside.clamp(0, 1)).argmax(1) == label).all()


@pytest.mark.parametrize("name", NETS)
def test_the_side_of_a_distance_on_which_the_radius_lies(name):
    for net, x in cases(name, 2):
        radius = exact_radius(net, x)
        for part in (0.9, 1.001, 3.0):
            distance = part * radius.upper if radius.upper < math.inf else part
            found = exact_radius(net, x, decide=distance)
            assert found.lower <= radius.upper and radius.lower <= found.upper
            if radius.upper < math.inf and part > 1:
                assert found.upper <= distance and found.adversarial is not None
            else:
                assert found.lower > distance
            assert found.status in ("decided", "optimal", "robust")


def test_a_decision_takes_less_work_than_the_radius(monkeypatch):
    """By the number of parts that are bounded."""
    torch.manual_seed(7)
    net, x = random_net(SOUND["relu"][1]()), torch.rand(1, 2, 3)
    work, bound = [], Search._bound
    monkeypatch.setattr(Search, "_bound", lambda *args: work.append(1) or bound(*args))
    radius = exact_radius(net, x)
    whole = len(work)
    for part in (0.5, 2.0):
        work.clear()
        found = exact_radius(net, x, decide=part * radius.upper)
        assert found.status == "decided" and len(work) < whole


SOUND = {  # larger nets: name → (input shape, layers)
    "distance": (
        (1, 2, 3),
        lambda: [
            Normalize((0.4,), 0.3),
            nn.Flatten(),
            LinfDistLinear(6, 8),
            MeanShift(8),
            LinfDistLinear(8, 4),
            Negate(),
        ],
    ),
    "distance-linear": (
        (1, 2, 3),
        lambda: [nn.Flatten(), LinfDistLinear(6, 8), MeanShift(8), LinfDistLinear(8, 6), nn.Linear(6, 4)],
    ),
    "convolution": (
        (1, 3, 3),
        lambda: [
            LinfDistConv2d(1, 2, 2, stride=2, padding=1),
            MeanShift(2),
            nn.Flatten(),
            nn.Linear(8, 5),
            nn.ReLU(),
            nn.Linear(5, 4),
        ],
    ),
    "relu": (
        (1, 2, 3),
        lambda: [nn.Flatten(), nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)],
    ),
}


@pytest.mark.parametrize("name", SOUND)
@torch.no_grad()
def test_no_certificate_reaches_beyond_the_exact_radius(name):
    """At the distance of a point that provably has another class, every bound of the margin is at most the
    margin there."""
    shape, layers = SOUND[name]
    certified = dict.fromkeys(LIRPA_METHODS, 0)
    for _ in range(4):
        net, x = random_net(layers()).double(), torch.rand(1, *shape, dtype=torch.float64)
        label = net(x).argmax(1)
        found = exact_radius(net, x[0])
        assert certified_radius(net(x), label, lipschitz_bound(net, math.inf)).item() <= found.upper + ROUNDING
        eps = min(found.upper, 1.0)
        there = 0.0 if found.adversarial is None else margin(net(found.adversarial[None]), label).item()
        for method in LIRPA_METHODS:
            if found.adversarial is not None:
                assert margin_bound(net, x, label, eps, method, sound=False).item() <= there + ROUNDING
            certified[method] += margin_bound(net, x, label, 0.1 * eps, method, sound=False).item() > 0
    assert min(certified.values()) > 0  # the bounds say something


def line(*layers):
    return nn.Sequential(*layers).eval()


def two_points(a, b):
    """One input; class 0 around a, class 1 around b: the nearer one wins."""
    net = line(LinfDistLinear(1, 2), Negate())
    net[0].weight.data[:] = torch.tensor([[a], [b]])
    return net


def test_known_radii():
    found = exact_radius(two_points(0.25, 0.75), torch.tensor([0.375]))
    assert found.lower <= 0.125 <= found.upper and found.upper - found.lower < 1e-5
    assert exact_radius(two_points(0.25, 0.75), torch.tensor([0.375]), high=0.4375).status == "robust"


@pytest.mark.parametrize("x, radius", [(0.875, 0.75), (0.0, 0.125)])
def test_known_radii_where_relus_are_far_from_their_kinks(x, radius):
    """z = (relu(x − 1/2) + 1/8, relu(1/4 − x)): they meet at x = 1/8."""
    net = line(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    values = ([[1.0], [-1.0]], [-0.5, 0.25]), ([[1.0, 0.0], [0.0, 1.0]], [0.125, 0.0])
    for layer, (weight, bias) in zip((net[0], net[2]), values):
        layer.weight.data[:], layer.bias.data[:] = torch.tensor(weight), torch.tensor(bias)
    found = exact_radius(net, torch.tensor([x]))
    assert found.lower <= radius <= found.upper and found.upper - found.lower < 1e-5


def test_a_wrong_or_tied_class_has_radius_zero():
    net = two_points(0.25, 0.75)
    for x, label in ((0.375, 1), (0.5, 0), (0.5, None)):
        found = exact_radius(net, torch.tensor([x]), label)
        assert (found.lower, found.upper, found.status) == (0.0, 0.0, "optimal")
        assert found.adversarial.item() == x


def test_a_class_that_always_wins_is_robust():
    net = line(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net[2].bias.data[:] = torch.tensor([100.0, -100.0])
    found = exact_radius(net, torch.rand(2))
    assert (found.lower, found.upper, found.status, found.adversarial) == (math.inf, math.inf, "robust", None)


def test_a_time_limit_leaves_a_gap():
    net = build("linf-mlp", shape=(1, 4, 4), classes=10, width=16, depth=3).eval()
    x = torch.rand(1, 4, 4)
    found = exact_radius(net, x, time_limit=1e-9)
    assert found.status == "time limit" and found.lower < found.upper == math.inf and found.adversarial is None
    assert found.lower <= exact_radius(net, x).lower


def test_edges_that_highs_denies_are_found():
    """HiGHS's mixed-integer solver calls the program of this net infeasible, and all of the edge x_2 = 1 is of the
    other class."""
    net = line(LinfDistLinear(2, 4, bias=False), LinfDistLinear(4, 2, bias=False), LinfDistLinear(2, 2))
    weights = (
        [
            [0.6888886094093323, 0.37905123829841614],
            [0.52995365858078, 0.11122875660657883],
            [0.8402954936027527, 0.07830194383859634],
            [0.5544712543487549, 0.8607507348060608],
        ],
        [
            [0.0733122006058693, 0.8528485894203186, 0.0810156762599945, 0.2770048677921295],
            [0.17841577529907227, 0.4783151149749756, 0.15435215830802917, 0.30767858028411865],
        ],
        [[0.2699721157550812, 1.3216242790222168], [1.0074610710144043, 1.7271403074264526]],
    )
    for layer, weight in zip(net, weights):
        layer.weight.data[:] = torch.tensor(weight)
    net[2].bias.data[:] = torch.tensor([0.0, -0.38948965072631836])
    x = torch.tensor([0.8731890441701332, 0.20669016934616102])
    exact = rational.radius(net, x, int(net(x[None]).argmax()), 0.0, 1.0)
    found = exact_radius(net, x)
    assert found.status == "optimal" and found.lower <= exact <= found.upper < 0.7932


# What a solver says: nothing but time may depend on it.


def solver(monkeypatch, change):
    """HiGHS's answers to linear programs, changed where there are any."""
    solve = relaxation.linprog

    def changed(*arguments, **options):
        result = solve(*arguments, **options)
        return result if result.x is None else change(result)

    monkeypatch.setattr(relaxation, "linprog", changed)


def fails(result):
    result.status = 4
    return result


def without_duals(result):
    result.ineqlin.marginals, result.eqlin.marginals = 0 * result.ineqlin.marginals, 0 * result.eqlin.marginals
    return result


def wrong_duals(result):
    for rows in (result.ineqlin, result.eqlin):
        rows.marginals = 1e3 * np.random.default_rng(0).standard_normal(len(rows.marginals))
    return result


def duals_that_are_no_numbers(result):
    result.ineqlin.marginals = np.full_like(result.ineqlin.marginals, math.nan)
    return result


def wrong_points(result):
    result.x[:-1] = -1  # every variable at its lower end
    return result


def points_that_leave_rows(result):
    result.x[-1] = 1.0
    return result


LIES = (fails, without_duals, wrong_duals, duals_that_are_no_numbers, wrong_points, points_that_leave_rows)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_solver_that_errs_proves_and_finds_nothing_wrong(monkeypatch, lie):
    solver(monkeypatch, lie)
    for i, (radius, high) in enumerate(((0.125, 1.0), (math.inf, 0.4375))):
        found = exact_radius(two_points(0.25, 0.75), torch.tensor([0.375]), high=high)
        assert found.lower <= radius <= found.upper
        assert 0.06 < found.lower  # by intervals
        assert found.status != "robust" or i == 1
    net, x = corner_net()
    exact = rational.radius(net, x, int(net(x[None]).argmax()), 0.0, 1.0)
    found = exact_radius(net, x, time_limit=0.5)
    assert found.lower <= exact <= found.upper and found.status != "robust"


def test_a_solver_that_fails_leaves_what_intervals_prove(monkeypatch):
    solver(monkeypatch, fails)
    found = exact_radius(two_points(0.25, 0.75), torch.tensor([0.375]))
    assert found.status == "unsettled" and found.upper == math.inf and found.adversarial is None
    assert 0.06 < found.lower <= 0.125


def test_what_is_neither_found_nor_excluded_is_unsettled():
    """Two logits that touch at x = 1/3 alone, which is no float64: no point can be confirmed, and none excluded."""
    net = line(nn.Linear(1, 1), LinfDistLinear(1, 1, bias=False), nn.Linear(1, 2)).double()
    values = ([[3.0]], [-1.0]), ([[0.0]], None), ([[1.0], [-1.0]], [0.0, 0.0])
    for layer, (weight, bias) in zip(net, values):
        layer.weight.data[:] = torch.tensor(weight)
        if bias is not None:
            layer.bias.data[:] = torch.tensor(bias)
    found = exact_radius(net, torch.tensor([0.5], dtype=torch.float64))
    assert found.status == "unsettled" and found.upper == math.inf
    assert found.lower == pytest.approx(1 / 6, abs=1e-6) and found.lower <= Fraction(1, 6)


def test_random_nets_agree_with_a_search_through_all_their_pieces():
    """A few of what ``python -m brute`` puts to it."""
    results = command.run(seed=1, first=0, count=2 * len(random_nets.KINDS), time_limit=30.0, progress=False)
    assert results["wrong"] == []
    counts = [{s: of[s] for s in ("optimal", "robust")} for of in results["kinds"].values()]
    assert min(sum(of[s] for of in counts) for s in ("optimal", "robust")) >= 8
    assert len(results["open"]) <= 2
    assert "Nothing is wrong." in command.table(results)


@pytest.mark.parametrize(
    "change",
    (
        lambda found: ExactRadius(found.lower * 1.01, found.upper, found.status, None),
        lambda found: ExactRadius(found.lower, found.upper * 0.99, found.status, None),
        lambda found: ExactRadius(math.inf, math.inf, "robust", None),
        lambda found: ExactRadius(0.0, found.upper, "optimal", None),
    ),
    ids=("lower", "upper", "robust", "optimal"),
)
def test_the_search_through_all_pieces_finds_what_is_wrong(monkeypatch, change):
    monkeypatch.setattr(command, "exact_radius", lambda *a, **o: change(exact_radius(*a, **o)))
    results = command.run(seed=1, first=1, count=1, time_limit=30.0, progress=False)  # has a radius
    assert len(results["wrong"]) == 1 and "**1 radii are wrong.**" in command.table(results)


def corner_net():
    """Two distance layers and an input for which HiGHS calls feasible mixed-integer programs infeasible."""
    net = line(LinfDistLinear(2, 4, bias=False), LinfDistLinear(4, 3, bias=False), Negate())
    net[0].weight.data[:] = torch.tensor(
        [[0.967552960, 0.235329866], [0.049577355, 0.683502614], [0.096499383, 0.309843242], [0.154712141, 0.112251461]]
    )
    net[1].weight.data[:] = torch.tensor(
        [
            [0.186913013, 0.375931203, 0.799230933, 0.858222365],
            [0.294917881, 0.125276327, 0.725280881, 0.137371540],
            [0.124211967, 0.858955741, 0.555977225, 0.283033788],
        ]
    )
    return net, torch.tensor([0.323132217, 0.296883762])


def scaled_net(seed):
    """Of two inputs and three classes, layer by layer of another magnitude, 1e-9 to 1e9."""
    torch.manual_seed(seed)
    scales = 10.0 ** torch.randint(-9, 10, (3,)).double()
    layers = [
        lambda: [LinfDistLinear(2, 4, bias=False), LinfDistLinear(4, 3, bias=False), Negate()],
        lambda: [nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)],
        lambda: [LinfDistLinear(2, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)],
    ][seed % 3]()
    weighted = [m for m in layers if hasattr(m, "weight")]
    if seed % 3 == 0:
        for m in weighted:
            m.weight.data = torch.rand_like(m.weight) * scales[0].item()
        return line(Normalize([0.0], 1 / scales[0].item()), *layers), torch.rand(2)
    for i, m in enumerate(weighted):
        m.weight.data *= scales[i].item()
        m.bias.data *= scales[: i + 1].prod().item() if seed % 3 == 1 else scales[i].item()
    return line(*layers), torch.rand(2)


@pytest.mark.parametrize("net", ["presolve", 142, 298, 358, 390, 404, 453, 457, 531])
def test_no_exact_counterexample_is_nearer_than_lower(net):
    """Nets for whose mixed-integer programs HiGHS was seen to err, against a grid.  float64 says which points to look
    at, rational arithmetic which of them have another class."""
    net, x = corner_net() if net == "presolve" else scaled_net(net)
    found = exact_radius(net, x)
    steps = steps_of(net, (2,))
    z = evaluate(steps, x.double().numpy())
    label = z.index(max(z))
    points, _ = grid(2)
    distance = (points - x.double()).abs().amax(1)
    with torch.no_grad():
        near = (margin(net.double()(points), torch.full((len(points),), label)) <= 0) & (distance < found.lower)
    for point in points[near][:20]:
        logits = evaluate(steps, point.numpy())
        assert max(z for j, z in enumerate(logits) if j != label) < logits[label]
    if found.adversarial is not None:
        logits = evaluate(steps, found.adversarial.numpy())
        assert max(z for j, z in enumerate(logits) if j != label) >= logits[label]


def test_logits_are_compared_as_they_are():
    """z_1 − z_0 = x − 3/4 − 2^-70: the difference of the biases is not a float64."""
    net = line(nn.Linear(1, 2))
    net[0].weight.data[:] = torch.tensor([[0.0], [1.0]])
    net[0].bias.data[:] = torch.tensor([2.0**-70, -0.75])
    found = exact_radius(net, torch.tensor([0.5]))
    assert found.status == "optimal" and found.upper == pytest.approx(0.25, abs=1e-5)
    assert Fraction(found.adversarial.item()) >= Fraction(3, 4) + Fraction(1, 2**70)
    net[0].bias.data[1] = -1.0  # now no x in [0, 1] reaches class 1, by 2^-70
    found = exact_radius(net, torch.tensor([0.5]))
    assert found.upper == math.inf and found.adversarial is None


def test_bounds_beyond_float64_are_unsettled():
    net = line(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data[:], net[2].weight.data[:] = 1e200, 1e200
    net[2].weight.data[0, 0] = 2e200
    found = exact_radius(net, torch.tensor([0.5]))
    assert found.status == "unsettled"
    if found.adversarial is not None:
        logits, others = (
            evaluate(steps_of(net, (1,)), x.double().numpy()) for x in (torch.tensor([0.5]), found.adversarial)
        )
        label = logits.index(max(logits))
        assert others[1 - label] >= others[label]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_a_forward_of_its_own_is_refused():
    for net in (Residual(nn.Linear(2, 2)), nn.Sequential(Residual(nn.Linear(2, 2)), Negate())):
        with pytest.raises(TypeError, match="Residual has a forward of its own"):
            exact_radius(net.eval(), torch.rand(2))
    net = line(nn.Linear(2, 2))
    net.forward = lambda x: x
    with pytest.raises(TypeError, match="forward of its own"):
        exact_radius(net, torch.rand(2))


def test_the_model_is_left_alone():
    net = build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    exact_radius(net, torch.rand(1, 2, 2))
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 2)], ids=str)
@torch.no_grad()
def test_ramps_and_pairs_are_encoded_in_their_places(shape):
    """Their steps at points, also beyond the kinks, compared with the layers."""
    ramp = ParamRamp(shape[0])
    ramp.top.copy_(torch.linspace(-0.5, 1, shape[0]))
    net = nn.Sequential(MaxMin(), ramp, MaxMin(), nn.Flatten()).eval()
    steps = steps_of(net, shape)
    for x in 2 * torch.randn(5, *shape):
        found = evaluate(steps, x.double().flatten().numpy())
        assert [float(a) for a in found] == net(x[None])[0].tolist()


def test_batch_normalisation_is_to_be_folded_first():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    with pytest.raises(TypeError, match="no encoding as exact steps for BatchNorm1d: .*fold_batch_norm"):
        exact_radius(net, torch.rand(2))


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Dropout, nn.MaxPool2d], ids=lambda kind: kind.__name__)
def test_a_layer_that_cannot_be_encoded_is_named(kind):
    net = line(kind(1) if kind is nn.MaxPool2d else kind(), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TypeError, match=f"there is no encoding as exact steps for {kind.__name__}"):
        exact_radius(net, torch.rand(1, 2, 2))


def hooked(net):
    net[0].register_forward_hook(lambda layer, x, y: 3 * y)
    return net


def with_a_forward(net):
    net[0].forward = abs
    return net


WRONG_MODELS = {
    "training mode": (lambda: line(nn.Linear(2, 2)).train(), "training mode"),
    "a shift in training mode": (lambda: line(LinfDistLinear(2, 2), MeanShift(2)), "training mode"),
    "hooked": (lambda: hooked(line(LinfDistLinear(2, 2))), "layer '0' .* has forward hooks"),
    "a forward of its own": (lambda: with_a_forward(line(nn.ReLU())), "layer '0' .* has a forward of its own"),
    "finite p": (lambda: line(LinfDistLinear(2, 2, p=8)), "p=8"),
    "not finite": (lambda: line(LinfDistLinear(2, 2)), "not finite"),
    "one class": (lambda: line(nn.Linear(2, 1)), "classes"),
    "no logits": (lambda: line(nn.ReLU(), nn.Identity(), Negate(), nn.Unflatten(1, (1, 2))), "Unflatten"),
    "batch flattened": (lambda: line(nn.Flatten(0), nn.Linear(2, 2)), "Flatten"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_wrong_models_are_refused(name):
    make, message = WRONG_MODELS[name]
    net = make()
    if name == "a shift in training mode":
        net[1].train()
    if name == "not finite":
        net[0].weight.data[0, 0] = math.nan
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        exact_radius(net, torch.rand(2))


FITS = {
    "linear": (nn.Linear(3, 2), (2,)),
    "distance": (LinfDistLinear(3, 2), (2,)),
    "not flattened": (LinfDistLinear(2, 2), (1, 2)),
    "shift": (MeanShift(3), (2,)),
    "normalise": (Normalize((0.1, 0.2, 0.3), 1.0), (2,)),
    "channels": (LinfDistConv2d(2, 2, 1), (1, 2, 2)),
    "small image": (LinfDistConv2d(1, 2, 3), (1, 2, 2)),
}


@pytest.mark.parametrize("name", FITS)
def test_inputs_that_do_not_fit_are_refused(name):
    layer, shape = FITS[name]
    with pytest.raises(ValueError, match=f"x does not fit the model: {type(layer).__name__}"):
        exact_radius(line(layer), torch.rand(shape))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"x": [0.5, 0.5]}, TypeError, "x must"),
        ({"x": torch.ones(2, dtype=torch.long)}, TypeError, "x must"),
        ({"x": torch.tensor([0.5, 1.5])}, ValueError, "x must"),
        ({"x": torch.tensor([0.5, math.nan])}, ValueError, "x must"),
        ({"x": torch.zeros(0)}, ValueError, "x must"),
        ({"label": 2}, ValueError, "label"),
        ({"label": -1}, ValueError, "label"),
        ({"label": 0.0}, TypeError, "label"),
        ({"low": 1.0}, ValueError, "low=1"),
        ({"high": math.inf}, ValueError, "high=inf"),
        ({"time_limit": 0.0}, ValueError, "time_limit"),
        ({"time_limit": math.nan}, ValueError, "time_limit"),
        ({"decide": -0.1}, ValueError, "decide"),
        ({"decide": math.inf}, ValueError, "decide"),
        ({"decide": "0.1"}, TypeError, "decide"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_named(arguments, error, message):
    arguments = {"x": torch.full((2,), 0.5), **arguments}
    with pytest.raises(error, match=message):
        exact_radius(line(nn.Linear(2, 2)), **arguments)


def test_the_label_may_be_a_tensor():
    net, x = two_points(0.25, 0.75), torch.tensor([0.375])
    assert exact_radius(net, x, torch.tensor(0)).upper == exact_radius(net, x, 0).upper


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_a_convolution_and_a_crop_have_the_radius_of_the_dense_layers_that_they_are(seed):
    torch.manual_seed(seed)
    crop, conv = CenterCrop(3), nn.Conv2d(1, 2, 2, stride=(1, 2), padding=(0, 1), dilation=(1, 1))
    net = nn.Sequential(crop, conv, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double().eval()
    units = torch.cat([torch.zeros(1, 25), torch.eye(25)]).view(26, 1, 5, 5).double()
    columns = conv(crop(units)).flatten(1)
    dense = nn.Linear(25, 8).double()
    dense.weight.copy_((columns[1:] - columns[:1]).T), dense.bias.copy_(columns[0])
    dense.weight[dense.weight.abs() < 1e-12] = 0.0
    flat = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), net[-1]).eval()
    x = torch.rand(1, 5, 5, dtype=torch.float64)
    one, other = exact_radius(net, x), exact_radius(flat, x)
    assert one.status == other.status
    if one.status == "optimal":
        assert one.lower <= other.upper * (1 + 1e-9) and other.lower <= one.upper * (1 + 1e-9)
        assert one.upper == pytest.approx(other.upper, abs=2e-5)

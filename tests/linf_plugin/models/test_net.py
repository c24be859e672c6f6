"""Architectures: built from data and back, their Lipschitz bounds, their cost."""

import copy
import json
import math

import pytest
import torch
from cases import INF, few_p
from torch import nn

from linf_plugin import ARCHITECTURES, LinfDistLinear, Net, SortDistLinear, build, materialise, set_p
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.facts import TRAINED
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.state import constants, tensors

SMALL = dict(shape=(3, 8, 8), classes=4, convs=1, dense=1, width=3, inner=2, hidden=4)
NETS = {
    "linf-mlp": dict(shape=(1, 4, 4), classes=3, width=8, depth=3, mean=(0.5,), std=0.25),
    "linf-mlp-head": dict(shape=(2, 2, 2), classes=4, width=6, depth=2, hidden=5, mean=(0.1, 0.2), std=0.5),
    "linf-conv": dict(shape=(3, 6, 5), classes=3, channels=(4, 5), strides=(1, 2), width=7, mean=(0.1, 0.2, 0.3)),
    "sortnet-mlp": dict(shape=(1, 4, 4), classes=3, width=8, depth=3, rho=0.6, k=4, mean=(0.5,), std=0.25),
    "relu-mlp": dict(shape=(1, 3, 3), classes=2, width=5, depth=3),
    "relu-conv": dict(shape=(1, 8, 8), classes=3, channels=(2, 3), strides=(1, 2), width=6),
    "dm-small": dict(shape=(1, 16, 16), classes=3, width=2, hidden=(5,)),
    "dm-large": dict(shape=(1, 16, 16), classes=3, width=2, hidden=(6,), activation="max-min", batch_norm=True),
    "cnn3": dict(shape=(2, 8, 8), classes=3, width=2, mean=(0.1, 0.2), std=0.5),
    "cnn5": dict(shape=(1, 8, 8), classes=3, width=2, hidden=(5,), activation="ramp"),
    "cnn7": dict(shape=(3, 8, 8), classes=3, width=2, hidden=(5, 4), batch_norm=False),
    "sll-mlp": dict(shape=(1, 3, 3), classes=3, depth=3, hidden=5),
    "cpl-mlp": dict(shape=(1, 3, 3), classes=3, depth=2, hidden=5, method="norm2toep"),
    "aol-mlp": dict(shape=(1, 3, 3), classes=3, depth=3, width=6),
    "sll-conv": dict(shape=(1, 8, 8), classes=3, convs=1, dense=1, width=3, inner=2, hidden=4, mean=(0.4,)),
    "cpl-conv": dict(shape=(2, 6, 6), classes=3, convs=1, dense=1, width=3, inner=2, hidden=4, pool=2),
    "circulant-mlp": dict(shape=(1, 4, 4), classes=3, depth=3, activation="max-min", mean=(0.4,), std=0.5),
    "aol-conv": dict(shape=(1, 6, 6), classes=3, channels=(4, 6), strides=(1, 2), width=8),
    **{f"sll-{size}": dict(SMALL) for size in ("s", "m", "l", "xl")},
}
each_net = pytest.mark.parametrize("name", NETS)


def _net(name) -> Net:
    """Built, in evaluation mode, with means and biases that are not 0."""
    net = build(name, **NETS[name]).eval()
    for key, a in net.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            nn.init.normal_(a)
    return net


def test_every_architecture_is_tested():
    assert set(NETS) == set(ARCHITECTURES)


@each_net
def test_maps_images_to_logits(name):
    net, arguments = _net(name), NETS[name]
    assert net.input_shape == arguments["shape"]
    for n in (0, 3):
        assert net(torch.rand(n, *net.input_shape)).shape == (n, arguments["classes"])


@each_net
def test_spec_rebuilds_the_net(name):
    net = _net(name)
    set_p(net, 8)
    x = torch.rand(3, *net.input_shape)
    for spec in (net.spec, json.loads(json.dumps(net.spec))):  # plain data
        twin = Net(spec).eval()
        twin.load_state_dict(net.state_dict())
        assert torch.equal(twin(x), net(x))
        norm = 2 if any(isinstance(layer, TRAINED) for layer in net) else math.inf
        assert lipschitz_bound(twin, norm) == lipschitz_bound(net, norm)


@pytest.mark.parametrize("hidden", (None, 5), ids=("distances", "head"))
@pytest.mark.parametrize("depth", (1, 2, 4))
def test_sortnet_is_the_distance_net_with_sorted_sums_after_the_first_layer(depth, hidden):
    common = dict(shape=(1, 4, 4), classes=3, width=8, depth=depth)
    plain = build("linf-mlp", **common) if hidden is None else build("linf-mlp-head", **common, hidden=hidden)
    sort = build("sortnet-mlp", **common, hidden=hidden, rho=0.6, k=4, group=16)
    assert [type(layer) for layer in distance_layers(sort)] == [LinfDistLinear] + [SortDistLinear] * (depth - 1)
    assert {(m.rho, m.k, m.group) for m in sort.modules() if isinstance(m, SortDistLinear)} <= {(0.6, 4, 16)}
    names = [[name.replace("sort_dist", "dist") for name, _ in net.spec["layers"]] for net in (sort, plain)]
    assert names[0] == names[1] and sort.pairs_per_sample() == plain.pairs_per_sample()
    plain.load_state_dict(constants(plain) | tensors(sort))
    for identity, expected in ((False, [True, False, False]), (True, [True, True, True])):
        net = build("sortnet-mlp", **common, rho=0.6, identity_init=identity)
        copies = [a["identity_init"] for _, a in net.spec["layers"] if "identity_init" in a]
        assert copies == expected[: depth - 1]
    if depth == 1:
        x = torch.rand(3, 1, 4, 4)
        assert torch.equal(sort.eval()(x), plain.eval()(x))


def test_spec_has_the_current_p_and_belongs_to_the_caller():
    spec = build("linf-mlp", **NETS["linf-mlp"]).spec
    untouched = copy.deepcopy(spec)
    net = Net(spec)
    set_p(net, 100.5)
    assert {a["p"] for name, a in net.spec["layers"] if name == "dist"} == {100.5}
    assert [layer.p for layer in distance_layers(Net(net.spec))] == [100.5] * 3
    assert spec == untouched
    net.spec["layers"].clear()
    spec["layers"].clear()
    assert len(net.spec["layers"]) == len(untouched["layers"])


@each_net
@few_p
def test_lipschitz_is_never_exceeded(name, p):
    net = materialise(_net(name)).double()
    set_p(net, p)
    x = torch.rand(100, *net.input_shape, dtype=torch.float64)
    for step in (torch.randn_like(x).sign(), torch.ones_like(x)):
        for size in (1e-3, 0.1, 1.0):
            change = (net(x + size * step) - net(x)).abs().max().item()
            assert change <= lipschitz_bound(net, math.inf) * size + 1e-12  # logits up to 100 are rounded to 1e-14


def test_lipschitz_is_the_product_head_included():
    net = _net("linf-mlp-head")
    first, second = (layer.weight.abs().sum(1).max().item() for layer in net if isinstance(layer, nn.Linear))
    assert lipschitz_bound(net, math.inf) == pytest.approx(
        2 * first * second, rel=1e-6
    )  # 1/std = 2; sums above are float32
    set_p(net, 2)
    assert lipschitz_bound(net, math.inf) == pytest.approx(2 * math.sqrt(8) * math.sqrt(6) * first * second, rel=1e-6)


def test_lipschitz_of_a_distance_net_is_the_scale():
    assert lipschitz_bound(build("linf-mlp", **NETS["linf-mlp"]), math.inf) == 4.0
    assert lipschitz_bound(build("linf-conv", **NETS["linf-conv"]), math.inf) == 1.0
    sortnet = build("sortnet-mlp", **NETS["sortnet-mlp"])
    assert lipschitz_bound(sortnet, math.inf) == lipschitz_bound(sortnet.eval(), math.inf) == 4.0


def test_split_head():
    x = torch.rand(3, 2, 2, 2)
    net = _net("linf-mlp-head")
    features, head = net.split_head()
    assert torch.equal(head(features(x)), net(x))
    assert [type(layer) for layer in head] == [nn.Linear, nn.Tanh, nn.Linear]
    features, head = _net("linf-mlp").split_head()
    assert len(head) == 0 and len(distance_layers(features)) == 3


CUSTOM = {  # arguments of a distance convolution on (4, 6, 7)
    "square": dict(kernel_size=3),
    "pair": dict(kernel_size=[3, 2]),
    "stride": dict(kernel_size=2, stride=[2, 1]),
    "padding": dict(kernel_size=3, padding=[2, 0]),
    "dilation": dict(kernel_size=2, dilation=3),
    "groups": dict(kernel_size=3, groups=2),
}


def _pairs(net: Net) -> int:
    """Counted: what each layer returned times the length of a row of its weight.  A residual layer multiplies twice."""
    counted = []
    for layer in net:
        if hasattr(layer, "inner"):
            each = 2 * math.prod(layer.weight.shape) / layer.weight.shape[1]
            layer.register_forward_hook(lambda layer, _, y, each=each: counted.append(int(y.numel() * each)))
        elif hasattr(layer, "column"):
            layer.register_forward_hook(lambda layer, _, y: counted.append(y.numel() * len(layer.column)))
        elif hasattr(layer, "weight") and layer.weight.dim() > 1:
            layer.register_forward_hook(lambda layer, _, y: counted.append(y.numel() * layer.weight[0].numel()))
    net(torch.rand(1, *net.input_shape))
    return sum(counted)


@each_net
def test_pairs_per_sample(name):
    net = _net(name)
    assert net.pairs_per_sample() == _pairs(net) > 0


@pytest.mark.parametrize("layer", ("dist_conv", "conv"))
@pytest.mark.parametrize("arguments", CUSTOM.values(), ids=CUSTOM)
def test_pairs_per_sample_of_any_convolution(arguments, layer):
    net = Net({"input_shape": [4, 6, 7], "layers": [[layer, dict(in_channels=4, out_channels=2, **arguments)]]})
    assert net.pairs_per_sample() == _pairs(net)


def test_pairs_per_sample_by_hand():
    assert build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2).pairs_per_sample() == 16 * 8 + 8 * 3


@each_net
def test_deepcopy(name):
    net = _net(name)
    twin = copy.deepcopy(net)
    x = torch.rand(2, *net.input_shape)
    before = net(x)
    assert torch.equal(twin(x), before) and twin.spec == net.spec
    for a in twin.parameters():
        nn.init.constant_(a, 0.5)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("clip", [0.0, 0.1, 0.45])
def test_clip_is_the_net_on_clipped_and_stretched_pixels(clip):
    arguments = dict(shape=(2, 3, 3), classes=3, width=5, depth=2, mean=(0.1, 0.3), std=0.5)
    plain, net = (build("linf-mlp", **arguments, **more).eval() for more in ({}, {"clip": clip}))
    skipped = len(net) - len(plain)
    for (_, old), (_, new) in zip(plain[1:].named_parameters(), net[1 + skipped :].named_parameters(), strict=True):
        new.data = old.data
    x = torch.rand(50, 2, 3, 3)
    expected = plain(((x - clip) / (1 - 2 * clip)).clamp(0, 1))
    torch.testing.assert_close(net(x), expected)
    assert lipschitz_bound(net, math.inf) == pytest.approx(lipschitz_bound(plain, math.inf) / (1 - 2 * clip))


@pytest.mark.parametrize("clip", [-0.1, 0.5])
def test_clip_outside_its_range_is_named(clip):
    with pytest.raises(ValueError, match="clip must lie in"):
        build("linf-mlp", shape=(1, 3, 3), classes=3, width=5, depth=2, clip=clip)


CROPPED = NETS | {"linf-conv": NETS["linf-conv"] | {"shape": (3, 6, 6)}}  # a crop is square


@each_net
def test_crop_is_the_net_on_the_middle_of_the_image(name):
    arguments = CROPPED[name]
    channels, height, width = arguments["shape"]
    plain = build(name, **arguments).eval()
    net = build(name, **arguments | {"shape": (channels, height + 4, width + 5)}, crop=height).eval()
    assert net.input_shape == (channels, height + 4, width + 5)
    assert net.pairs_per_sample() == plain.pairs_per_sample()
    plain.load_state_dict(
        constants(plain)
        | {  # the crop stands behind the normalisation
            ".".join((str(int(at) - (int(at) > 0)), rest)): value
            for (at, _, rest), value in ((key.partition("."), value) for key, value in tensors(net).items())
        }
    )
    x = torch.rand(3, *net.input_shape)
    assert torch.equal(net(x), plain(x[:, :, 2:-2, 2:-3]))
    norm = 2 if any(isinstance(layer, TRAINED) for layer in net) else math.inf
    assert lipschitz_bound(net, norm) == lipschitz_bound(plain, norm)


@pytest.mark.parametrize(
    "name, more",
    (
        ("linf-mlp-head", dict(width=300, depth=1, hidden=400)),
        ("sortnet-mlp", dict(width=300, depth=1, hidden=400, rho=0.5)),
        ("linf-conv", dict(channels=(3,), strides=(1,), width=300, hidden=400)),
    ),
    ids=("mlp", "sortnet", "conv"),
)
def test_a_normal_head_starts_with_the_variance_of_a_scaled_one(name, more):
    torch.manual_seed(0)
    net = build(name, shape=(1, 4, 4), classes=10, normal_head=True, **more)
    assert Net(net.spec).spec == net.spec
    for layer in net.split_head()[1]:
        if isinstance(layer, nn.Linear):
            assert (layer.bias == 0).all()
            assert layer.weight.std().item() == pytest.approx(layer.in_features**-0.5, rel=0.06)  # of ≥ 4,000
            assert layer.weight.mean().abs() < 5 * layer.weight.std() / layer.weight.numel() ** 0.5
    first, _, last = build(name, shape=(1, 4, 4), classes=10, **more).split_head()[1]
    assert first.weight.std().item() == pytest.approx((3 * first.in_features) ** -0.5, rel=0.06)
    assert (last.bias != 0).all()


def test_no_layer_of_a_sortnet_need_start_as_a_copy():
    net = build("sortnet-mlp", shape=(1, 2, 2), classes=3, width=8, depth=3, rho=0.6, identity_first=False)
    assert all((layer.weight > -8).all() for layer in distance_layers(net))  # a copy has a weight of −10


def test_kernels_of_the_convolutional_baseline():
    shape = dict(shape=(1, 8, 8), classes=3, channels=(2, 2), strides=(1, 2), width=4)
    nets = [build("relu-conv", **shape, kernel=kernel) for kernel in (None, 3)]
    sizes = [[layer.kernel_size for layer in net if isinstance(layer, nn.Conv2d)] for net in nets]
    assert sizes == [[(3, 3), (4, 4)], [(3, 3), (3, 3)]]


def test_logits_are_negated_distances():
    net = Net(
        {
            "input_shape": [1, 1, 2],
            "layers": [["flatten", {}], ["dist", {"in_features": 2, "out_features": 2}], ["negate", {}]],
        }
    )
    net[1].weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert net(torch.tensor([[[[0.25, 0.5]]]])).tolist() == [[-0.5, -0.75]]
    assert isinstance(net[1], LinfDistLinear) and net[1].p == INF


@pytest.mark.parametrize(
    "call, error, names",
    (
        (lambda: build("resnet", shape=(1, 4, 4)), ValueError, "name must be one of linf-mlp.*'resnet'"),
        (lambda: build("linf-mlp", shape=(1, 4, 4), classes=3, width=8), TypeError, "depth"),
        (lambda: build("linf-mlp", **NETS["linf-mlp"], dropout=0.5), TypeError, "dropout"),
        (lambda: build("linf-conv", shape=(1, 8, 8), classes=3, channels=(2,), strides=(1, 2)), ValueError, "strides"),
        (lambda: Net({"input_shape": [1], "layers": [["pool", {}]]}), ValueError, "unknown layer 'pool'"),
        (
            lambda: Net({"input_shape": [1], "layers": [["dist", {"in_features": 0, "out_features": 1}]]}),
            ValueError,
            "in_features",
        ),
    ),
    ids=("name", "missing", "unknown", "strides", "layer", "layer-argument"),
)
def test_bad_input_is_named(call, error, names):
    with pytest.raises(error, match=names):
        call()

"""Bounds and their gradients on each device, by every method."""

import pytest
import torch
from cases import DEVICES
from spectral_layers import draw, largest, operator

from linf_plugin.spectral import SPECTRAL_METHODS, bound, norm


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("device", DEVICES)
def test_bounds_hold_on_every_device(device):
    for seed in range(600, 630):
        layer, size = draw(seed)
        exact = largest(operator(layer, layer.in_channels, *size))
        layer = layer.to(device)
        assert bound(layer).method == ("gram" if device == "cuda" else "svd")
        for name, row in SPECTRAL_METHODS.items():
            found = bound(layer, name, size=size, certify=row.upper is not None).value
            if row.upper is None:
                assert found <= exact * (1 + 1e-12)
            else:
                assert found >= exact * (1 - 1e-14), (seed, name)
            if name != "matrix":
                layer.weight.grad = None
                value = norm(layer, name, size=size)
                value.backward()
                assert value.device == layer.weight.device and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_the_default_device_and_autocast_change_nothing(device):
    torch.manual_seed(0)
    weight = torch.randn(6, 5)
    expected = {name: norm(weight, name).item() for name in SPECTRAL_METHODS}
    certified = bound(weight, "svd").value
    with torch.device(device), torch.autocast(device, dtype=torch.bfloat16):
        for name, value in expected.items():
            assert norm(weight.to(device), name).item() == pytest.approx(value, rel=1e-5)
        assert bound(weight.to(device), "svd").value == pytest.approx(certified, rel=1e-12)

"""Small untrained nets; one of them with its checkpoint and its ONNX file."""

import copy
import functools
import importlib
import math
from collections.abc import Callable
from types import SimpleNamespace

import graphs
import onnx
import pytest
import torch

import linf_plugin
from linf_plugin.datasets import DIGESTS, SOURCES
from linf_plugin.layers.shifts import MeanShift
from onnx_export.exporting import export

METADATA = {
    "dataset": "digits",
    **dict(zip(DIGESTS, SOURCES["digits"].published)),
    "method": "linf-dist",
    "recipe": "digits",
    "epsilon": 0.1,
    "seed": 3,
    "results": {
        "clean": 0.25,
        "pgd": {"0.1": 0.125},
        "certified": {"lipschitz": {"0.05": 0.5, "0.1": 0.0625}, "best": {"0.1": 0.09375}, "ibp": {"0.2": 0.0}},
    },
    "versions": {"torch": "0.0"},
}


@pytest.fixture
def metadata() -> dict:
    """What training writes beside a net."""
    return copy.deepcopy(METADATA)


@pytest.fixture(scope="session")
def small_net() -> Callable[..., linf_plugin.Net]:
    """``small_net(name, **arguments)``: in evaluation mode, with running means that are not 0."""

    def build(name: str = "linf-mlp", **arguments) -> linf_plugin.Net:
        torch.manual_seed(0)
        usual = {"shape": (1, 8, 8), "classes": 10, "mean": (0.3,), "std": 0.4}
        net = linf_plugin.build(name, **usual | arguments)
        for layer in net:
            if isinstance(layer, MeanShift):
                layer.running_mean.normal_()
        return net.eval()

    return build


@pytest.fixture(scope="session")
def made(small_net, tmp_path_factory) -> SimpleNamespace:
    """``net``, ``checkpoint`` and ``onnx``; the files in two folders beside each other.  Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    net, checkpoint, onnx = small_net(width=16, depth=3), folder / "run" / "net.pt", folder / "out" / "net.onnx"
    linf_plugin.save(checkpoint, net, METADATA)
    export(net, onnx, METADATA, checkpoint)
    return SimpleNamespace(net=net, checkpoint=checkpoint, onnx=onnx)


@pytest.fixture(scope="session")
def exported(small_net, tmp_path_factory):
    """``exported(name, p)``: a net of ``graphs.NETS`` and the file that ``export`` writes, parsed; not to be
    changed."""

    @functools.cache
    def make(name: str, p: float = math.inf):
        architecture, arguments = graphs.NETS[name]
        net, path = small_net(architecture, **arguments), tmp_path_factory.mktemp("fuse") / "net.onnx"
        linf_plugin.set_p(net, p)
        export(net, path, certificate="none" if p < math.inf else "auto")
        return net, onnx.load(path)

    return make


@pytest.fixture
def beside(small_net, tmp_path, monkeypatch):
    """(a file whose weights lie beside it, theirs), and in another folder those of another net of that shape."""
    monkeypatch.setattr(importlib.import_module("onnx_export.exporting"), "EXTERNAL_BYTES", 0)
    net = small_net(width=6, depth=2)
    export(net, tmp_path / "a.onnx", {"epsilon": 0.1}, certificate="interval")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / 3)
    export(net, tmp_path / "other" / "a.onnx", {"epsilon": 0.1}, certificate="interval")
    (data,), (others,) = tmp_path.glob("*.data"), (tmp_path / "other").glob("*.data")
    return tmp_path / "a.onnx", data, others

"""Every layer type has a row in every table that speaks of layers: a rule, or a refusal that says why."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from torch import nn

from linf_plugin.layers.facts import FACTS
from linf_plugin.refusal import Refusal, rule_of

DOC = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
TABLES = {  # what a row is → module and table
    "facts": ("linf_plugin.layers.facts", "FACTS"),
    "interval": ("linf_plugin.intervals", "INTERVALS"),
    "rounding": ("linf_plugin.float32.rules", "ROUNDING"),
    "tracing": ("linf_plugin.bounds.traced", "TRACED"),
    "exact steps": ("linf_plugin.certificates.exact.steps", "STEPS"),
    "description in ONNX files": ("onnx_export.writing.record", "DESCRIBED"),
    "ONNX nodes": ("onnx_export.writing.graph", "NODES"),
    "ONNX nodes of intervals": ("onnx_export.writing.interval_graph", "INTERVAL_NODES"),
    "verifier nodes": ("onnx_export.writing.plain", "VERIFIER_NODES"),
}


def table(what):
    module, name = TABLES[what]
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize("layer", FACTS, ids=lambda kind: kind.__name__)
def test_a_layer_has_a_row(layer, what):
    module, name = TABLES[what]
    place = f"{module.replace('.', '/')}.py"
    assert layer in table(what), f"{layer.__name__} has no {what}: add a row to {name} in {place}, a rule or a Refusal"
    row = table(what)[layer]
    if isinstance(row, Refusal):
        assert len(row.reason) > 10 and not row.reason.endswith("."), f"the reason must be a clause: {row.reason!r}"


@pytest.mark.parametrize("what", TABLES)
def test_a_table_has_no_layer_without_facts(what):
    extra = {kind.__name__ for kind in table(what).keys() - FACTS.keys()}
    assert not extra, f"{extra}: add a row to FACTS in linf_plugin/layers/facts.py"


def test_every_layer_class_of_the_package_has_facts():
    """Every public class in a file of ``linf_plugin/layers``, except those that several layers share."""
    package = importlib.import_module("linf_plugin.layers")
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    shared = {
        "Distance",
        "DistanceLinear",
        "Noise",
        "Potential",
        "Reparametrised",
        "Steps",
        "StepsConv2d",
        "StepsLinear",
    }
    ours = {
        a
        for module in modules
        for name, a in vars(module).items()
        if inspect.isclass(a)
        and issubclass(a, nn.Module)
        and a.__module__ == module.__name__
        and name not in shared
        and name[0] != "_"
    }
    missing = {kind.__name__ for kind in ours - FACTS.keys()}
    assert {"LinfDistLinear", "MeanShift"} <= {kind.__name__ for kind in ours}
    assert not missing, f"{missing}: add a row to FACTS in linf_plugin/layers/facts.py"


@pytest.mark.parametrize("what", TABLES)
def test_the_page_for_contributors_names_the_table(what):
    module, name = TABLES[what]
    assert f"`{name}`" in DOC and f"`{module.replace('.', '/')}.py`" in DOC


def test_a_refusal_gives_its_reason():
    rules = {nn.ReLU: len, nn.Tanh: Refusal("nobody has thought about it")}
    assert rule_of(rules, nn.ReLU(), "rule") is len
    with pytest.raises(TypeError, match="there is no rule for Tanh: nobody has thought about it"):
        rule_of(rules, nn.Tanh(), "rule")
    with pytest.raises(TypeError, match="there is no rule for GELU, only for ReLU"):
        rule_of(rules, nn.GELU(), "rule")

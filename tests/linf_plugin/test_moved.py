"""Names that have moved still work in the old place, and warn once with the new place."""

import importlib
import subprocess
import sys
import warnings

import pytest

from linf_plugin import moved


@pytest.mark.parametrize("old, name", moved.NAMES, ids=lambda a: a)
def test_a_name_that_moved_is_the_new_one(old, name, monkeypatch):
    monkeypatch.setattr(moved, "_told", set())
    module = importlib.import_module(old)
    new, now = moved.NAMES[old, name]
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} is deprecated: use {new}.{now}"):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(new), now)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(module, name) is found


@pytest.mark.parametrize("old", moved.MODULES)
def test_a_module_that_moved_gives_what_the_new_one_has(old, monkeypatch):
    monkeypatch.setattr(moved, "_told", set())
    new = importlib.import_module(moved.MODULES[old])
    module = importlib.import_module(old)
    names = [n for n in vars(new) if not n.startswith("_") and (old, n) not in moved.NAMES]
    with pytest.warns(DeprecationWarning, match=f"{old}.{names[-1]} is deprecated: use {moved.MODULES[old]}"):
        assert getattr(module, names[-1]) is getattr(new, names[-1])
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018  (it raises)


def test_a_module_and_a_function_of_one_name_both_work():
    """In whatever order they are imported."""
    program = (
        "import torch, linf_plugin as lp\n"
        "from linf_plugin.bounds.certify import margin_bound\n"
        "from linf_plugin.bounds import certify\n"
        "net = lp.build('linf-mlp', shape=(1, 2, 2), classes=3, width=4, depth=2).eval()\n"
        "x = torch.rand(2, 1, 2, 2)\n"
        "print(certify(net, x, net(x).argmax(1), 0.0, ['lipschitz']).certified.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True]\n"


def test_the_export_of_onnx_files_works_after_an_import_of_its_old_module():
    """Which puts that module where the function is."""
    program = (
        "import warnings\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "import onnx_export.export, linf_plugin as lp, sys, tempfile\n"
        "net = lp.build('linf-mlp', shape=(1, 2, 2), classes=3, width=4, depth=2).eval()\n"
        "with tempfile.TemporaryDirectory() as folder: onnx_export.export(net, f'{folder}/net.onnx')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_never_was_is_missing():
    import linf_plugin.bounds

    with pytest.raises(AttributeError, match="'linf_plugin.bounds' has no attribute 'certificates_'"):
        linf_plugin.bounds.certificates_  # noqa: B018  (it raises)
    with pytest.raises(ImportError):
        importlib.import_module("comparisons.nothing")


def test_an_old_module_runs_as_a_program():
    run = subprocess.run(
        [sys.executable, "-W", "always", "-m", "comparisons.widths", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in run.stdout
    assert "comparisons.widths is deprecated: use comparisons.studies.widths" in run.stderr

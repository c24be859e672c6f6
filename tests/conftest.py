"""Settings of the whole suite."""

import builtins
import os

# Threads that spin at a barrier turn microseconds into 15 ms where another process holds a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from alpha import few_steps


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory(request):
    """Fresh memory holds NaN, so that a result nobody wrote shows.  CPU only: the switch that does it also
    forbids some CUDA operators."""
    torch.use_deterministic_algorithms(request.node.get_closest_marker("gpu") is None)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def few_alpha_steps():
    with few_steps():
        yield


@pytest.fixture
def without_marabou(monkeypatch):
    """As where Marabou is not installed."""
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("maraboupy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)

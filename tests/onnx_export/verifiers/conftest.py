"""Verdicts of Marabou as plain data, and a machine without it."""

import builtins

import pytest


@pytest.fixture
def without_marabou(monkeypatch):
    """As where it is not installed."""
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("maraboupy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)

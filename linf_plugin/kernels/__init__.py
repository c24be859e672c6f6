"""Implementations of the distance operators; ``reference`` is their specification."""

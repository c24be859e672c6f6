"""Measures what the ways to run an exported distance cost.  Imports ``export.py``, ``running`` and below."""

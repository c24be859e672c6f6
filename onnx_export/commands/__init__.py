"""The commands of ``linf-export``, a module each.  Imports everything else; only ``cli.py`` imports it."""

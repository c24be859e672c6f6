"""The commands of ``linf-export``, one in each module.  Imports all rooms; only ``cli.py`` imports it."""

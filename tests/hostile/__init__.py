"""Files that were changed on purpose, given to every reader: ``python -m hostile --help``."""

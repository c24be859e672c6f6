"""Random nets, inputs and attacks that try to break certificates of the float32 program: ``python -m fuzz --help``."""

"""The operators of the domain ``linf`` as ONNX functions, and whether those in a file are these.  Imports ``files``."""

"""The operators of the domain ``linf`` as ONNX functions, and checks of those in a file.  Imports ``files``."""

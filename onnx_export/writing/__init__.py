"""A net as an ONNX model: nodes, certificates, metadata, flavours.  Imports ``files`` and ``functions``."""

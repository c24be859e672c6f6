"""An ONNX model back to a net, and what a file says about itself.  Imports ``files``, ``functions`` and ``writing``."""

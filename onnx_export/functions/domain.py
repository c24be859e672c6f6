"""The domain ``linf`` of this package's operators, and the opset in which their bodies are written."""

from onnxscript.values import Opset

OPSET = 20
LINF = Opset("linf", 1)

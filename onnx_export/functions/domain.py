"""The domain ``linf`` of this package's operators, and the opset that their bodies are written in."""

from onnxscript.values import Opset

OPSET = 20
LINF = Opset("linf", 1)

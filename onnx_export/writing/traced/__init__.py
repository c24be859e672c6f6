"""Traced nets (``linf_plugin.graphs``) as ONNX models: nodes, interval bounds, descriptions."""

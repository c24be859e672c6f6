"""ONNX files on disk: opened, checked, sealed and written.  Imports nothing else of ``onnx_export``."""

"""ONNX files in onnxruntime: sessions, native operators, and checks.  Imports what writes and reads files."""

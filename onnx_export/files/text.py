"""How messages and outputs show text from a file: in quotes, short, and on one line."""

from onnx import TensorProto


def said(name: str) -> str:
    """A name from a file as messages show it: in quotes and short."""
    return repr(name if len(name) <= 80 else name[:77] + "…")


def shown(text: str) -> str:
    """Text from a file for one line of output: characters that cannot be printed are written as Python writes them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def type_name(data_type: int) -> str:
    """The name that ONNX has for a type of tensors, in lower case."""
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if data_type in known else f"type {data_type}"


def first_line(error: Exception) -> str:
    """The message of an error of another library, without its context, which may be as long as the file."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 300 else text[:297] + "…"

"""What commands write to a terminal, a file or a pipe, in any encoding, and how they end."""

import argparse
import codecs
import os
import sys
import textwrap
from collections.abc import Callable

PIPE_CLOSED = 141  # the exit status that a shell shows for a program that nobody reads any more: 128 + SIGPIPE

# Signs of formulas and tables → what stands for them in an encoding that lacks them.
PLAIN_SIGNS = {
    "ε": "eps", "ℓ": "l", "∞": "inf", "α": "alpha", "β": "beta", "γ": "gamma", "ρ": "rho", "σ": "sigma", "δ": "delta",
    "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "±": "+-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "→": "->", "…": "...", "‖": "||", "√": "sqrt", "Σ": "sum ", "′": "'", "½": "1/2", "²": "2", "³": "3",
    "“": '"', "”": '"', "█": "#", "│": "|",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replaces the signs that an encoding lacks.  A sign without a replacement becomes its code, as in ``\\u4e2d``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    found = (PLAIN_SIGNS.get(a) or a.encode("ascii", "backslashreplace").decode() for a in signs)
    return "".join(found), error.end


def any_encoding() -> None:
    """Makes standard output and standard error write every text, also if their encoding lacks some of its signs."""
    codecs.register_error("linf-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that replaces the usual one may lack it
            stream.reconfigure(errors="linf-plain")


def reason(error: Exception) -> str:
    """Returns what an error says, for a message.  Errors of the system say the file first, and no number."""
    if not isinstance(error, OSError) or error.filename is None or not error.strerror:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} does not exist"
    return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"


def command(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit status.

    Its output may go to any encoding.  It ends without a message, with status ``PIPE_CLOSED``, if it writes to a pipe
    that nobody reads any more, as in ``linf-compare list | head -1``.
    """
    any_encoding()
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes the stream once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that fits the terminal: paragraphs are filled; indented lines, such as examples, are broken only if long."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        open_paragraph = False
        for line in text.splitlines():
            continues = open_paragraph and bool(line) and not line[0].isspace()
            if continues:
                lines[-1] += " " + line
            else:
                lines.append(line)
            open_paragraph = bool(line) and not line[0].isspace() and not line.endswith(":")
        return "\n".join(indent + part for line in lines for part in _broken(line, width - len(indent)))


def _broken(line: str, width: int) -> list[str]:
    """Breaks a line where it is longer than the width.  What follows is indented as it is, and further in examples."""
    start = line[: len(line) - len(line.lstrip())]
    further = start + ("    " if start else "")
    return textwrap.wrap(line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False) or [""]

"""Output on a terminal whose encoding lacks some of our characters: it looks plainer, and ends no command."""

import codecs
import io
import sys

_PLAIN = {
    "±": "~",
    "τ": "t",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "≥": ">",
    "─": "-",
    "━": "=",
    "│": "|",
}
"""What stands for a character that the encoding lacks; of one column, so that tables stay in shape."""


def degrade_output() -> None:
    """Replace what the encoding of the output and of the error stream lacks; '?' stands for what has no likeness."""
    codecs.register_error("dmsae", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="dmsae")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end

"""Print characters that the encoding of the terminal or file lacks: µs becomes us, and nothing fails."""

from __future__ import annotations

import codecs
import io

ASCII = {"µ": "u", "×": "x", "→": "->", "…": "..."}
"""Replacements for the characters that commands use.

All others (in the name of a function, for example) become question marks.
"""

ERROR_HANDLER = "pympipool.ascii"


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_replacement, error.object[error.start : error.end])), error.end


def _replacement(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not text (PEP 383)
        return character.encode("ascii", "surrogateescape")
    return ASCII.get(character, "?").encode("ascii")


codecs.register_error(ERROR_HANDLER, _encode)


def use_ascii_fallback(stream: io.TextIOWrapper) -> None:
    r"""Make a stream accept any text, whatever its encoding.

    Examples:
        >>> stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        >>> use_ascii_fallback(stream)
        >>> print("3 µs → 5 ms, 2.5 ×, naïve()", file=stream, flush=True)
        >>> stream.buffer.getvalue()
        b'3 us -> 5 ms, 2.5 x, na?ve()\n'
    """
    defaults = ("strict", "surrogateescape")  # the user has chosen any other handler, by PYTHONIOENCODING
    if stream.errors in defaults:
        stream.reconfigure(errors=ERROR_HANDLER)

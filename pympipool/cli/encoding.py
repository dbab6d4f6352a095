"""What is printed where the terminal, or the file, has no sign for it: µs are us there, and nothing fails."""

from __future__ import annotations

import codecs
import io

PLAIN = {"µ": "u", "×": "x", "→": "->", "…": "..."}
"""The signs that commands use, in letters. All others (in the name of a function, say) become question marks."""

NAME = "pympipool.plain"


def _in_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(sign: str) -> bytes:
    if "\udc80" <= sign <= "\udcff":  # a byte of the name of a file that is no text (PEP 383)
        return sign.encode("ascii", "surrogateescape")
    return PLAIN.get(sign, "?").encode("ascii")


codecs.register_error(NAME, _in_letters)


def use_ascii_fallback(stream: io.TextIOWrapper) -> None:
    r"""Has a stream take any text, whatever its encoding.

    Examples:
        >>> stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        >>> use_ascii_fallback(stream)
        >>> print("3 µs → 5 ms, 2.5 ×, naïve()", file=stream, flush=True)
        >>> stream.buffer.getvalue()
        b'3 us -> 5 ms, 2.5 x, na?ve()\n'
    """
    pythons_own = ("strict", "surrogateescape")  # any other is the user's choice, by PYTHONIOENCODING
    if stream.errors in pythons_own:
        stream.reconfigure(errors=NAME)

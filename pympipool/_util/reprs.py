"""Text for messages: names of callables and types, reprs of values, summaries of exceptions, suggestions.

Every worker imports this module at its start, so it imports nothing that is only needed for an error.
"""

from __future__ import annotations

import functools
import reprlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["callable_name", "did_you_mean", "error_message", "safe_repr", "summarize_error", "type_name"]


class _Repr(reprlib.Repr):
    """Shortens texts and bytes before it makes their repr, which takes several times their memory."""

    repr_bytes = repr_bytearray = reprlib.Repr.repr_str


_repr = _Repr()
_repr.maxother = _repr.maxstring = 80


def callable_name(function: object) -> str:
    """Return a name for anything that can be called.

    Examples:
        >>> import functools
        >>> callable_name(sum), callable_name(functools.partial(int, base=2)), callable_name("".join)
        ('sum', 'int', 'str.join')
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def type_name(kind: type) -> str:
    """Return the name of a type as tracebacks show it."""
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def safe_repr(value: object) -> str:
    """Return a short repr of the value, even if its `__repr__` raises."""
    try:
        return _repr.repr(value)
    except BaseException:  # code of the value may raise anything
        return object.__repr__(value)


def summarize_error(error: BaseException) -> str:
    """Return the type and message of an exception in one line."""
    text = error_message(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def error_message(error: BaseException) -> str:
    """Return the message of an exception, even if its `__str__` raises."""
    try:
        return str(error)
    except BaseException:  # code of the exception may raise anything
        return "(its message cannot be shown)"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a suggestion to append to the message about an unknown name, "" if no known name resembles it.

    Args:
        name: The unknown name.
        known: All valid names.
        cutoff: The least similarity, as for `difflib.get_close_matches`.

    Examples:
        >>> did_you_mean("slrum", ["auto", "slurm"]), did_you_mean("dask", ["auto", "slurm"])
        ("; did you mean 'slurm'?", '')
    """
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""

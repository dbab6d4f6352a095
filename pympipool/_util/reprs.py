"""Words for messages: what a value, a callable, a type or an exception is called there."""

from __future__ import annotations

import functools
import reprlib

__all__ = ["callable_name", "short", "shown", "text_of", "type_name"]

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 80


def callable_name(function: object) -> str:
    """A name for anything that can be called, for messages.

    Examples:
        >>> import functools
        >>> callable_name(sum), callable_name(functools.partial(int, base=2)), callable_name("".join)
        ('sum', 'int', 'str.join')
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def shown(value: object) -> str:
    """The value in at most a few words, whatever its `__repr__` does."""
    try:
        return _repr.repr(value)
    except Exception:
        return object.__repr__(value)


def short(error: BaseException) -> str:
    """Type and message of an exception in a line."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """The message of an exception, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def type_name(kind: type) -> str:
    """The name of a type as tracebacks show it."""
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"

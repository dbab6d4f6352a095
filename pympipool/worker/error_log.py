"""The log of failed calls, for the parameter `error_log_file`.

    a call raises ─► its function, arguments and traceback are appended to the file ─► the exception goes on to the master

The worker writes it, not the master, because the worker has the arguments. Each entry is one write, so that workers and
ranks which share a file do not mix their lines.
"""

from __future__ import annotations

import contextlib
import reprlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from pympipool.serialization.tracebacks import format_exception

ARGUMENT_CHARACTERS = 400
"""Characters of one argument's repr that are logged. A longer repr is cut in the middle."""

ARGUMENTS_MAX = 50
"""Arguments of one call that are logged."""


class ErrorLog:
    """Appends failed calls to a file.

    Args:
        path: Path of the file.
        location: The rank that logs, for example "rank 0 of worker 3 (host node1, pid 1234)".
    """

    def __init__(self, path: str, location: str) -> None:
        self._path = path
        self._location = location

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that calls the given one and logs what it raises.

        Args:
            name: Name of the function in the log.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:  # SystemExit too: the call fails with it
                self._write(name, args, kwargs, error)
                raise

        return call

    def _write(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> None:
        """Write an entry. Never raises: the call has to fail with its own exception."""
        try:
            entry = describe_failure(name, args, kwargs, error, self._location)
            with open(self._path, "ab", buffering=0) as file:
                file.write(entry.encode(errors="backslashreplace"))
        except Exception as problem:
            with contextlib.suppress(Exception):
                print(f"pympipool: error_log_file {self._path} cannot be written: {problem}", file=sys.stderr)


def describe_failure(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException, location: str
) -> str:
    """Return the log entry of a failed call.

    Examples:
        >>> entry = describe_failure("divide", (1,), {"by": 0}, ZeroDivisionError("division by zero"), "worker 3")
        >>> print(entry.partition(" ")[2])
        divide() failed in worker 3
            argument 1: 1
            by: 0
        ZeroDivisionError: division by zero
        <BLANKLINE>
        <BLANKLINE>
    """
    named = [*((f"argument {number}", value) for number, value in enumerate(args, start=1)), *kwargs.items()]
    lines = [f"    {argument}: {_short_repr(value)}" for argument, value in named[:ARGUMENTS_MAX]]
    if len(named) > ARGUMENTS_MAX:
        lines.append(f"    and {len(named) - ARGUMENTS_MAX} arguments more")
    head = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {name}() failed in {location}"
    return "\n".join([head, *lines, format_exception(error), "", ""])


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 20
        self.maxarray = 20
        self.maxstring = self.maxother = ARGUMENT_CHARACTERS

    def repr_bytes(self, x: bytes, _level: int) -> str:
        """Cut the bytes before their repr is made, which takes up to four characters a byte."""
        rest = f"... ({len(x)} bytes)" if len(x) > ARGUMENT_CHARACTERS else ""
        return repr(x[:ARGUMENT_CHARACTERS]) + rest

    repr_bytearray = repr_bytes


_repr = _ShortRepr()


def _short_repr(value: object) -> str:
    try:
        text = _repr.repr(value)
    except BaseException as error:
        text = f"<{type(value).__qualname__} whose repr raises {type(error).__qualname__}>"
    return text.replace("\n", "\n        ")

"""The log of failed calls: what `error_log_file` asks for.

    a call raises ─► its function, arguments and traceback, appended to the file ─► the exception goes on to the master

Written here and not in the master, because here the arguments are. One write each, so that workers and ranks which
share a file do not write into each other's lines.
"""

from __future__ import annotations

import contextlib
import reprlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from pympipool.serialization.exceptions import format_exception

ARGUMENT_CHARACTERS = 400
"""Of an argument that are written; of the beginning and of the end."""

ARGUMENTS_MAX = 50
"""Arguments of a call that are written."""


class ErrorLog:
    """Appends failed calls to a file.

    Args:
        path: Of the file.
        where: Who we are.
    """

    def __init__(self, path: str, where: str) -> None:
        self._path = path
        self._where = where

    def watching(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, with what it raises written down.

        Args:
            name: What to call it.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:  # SystemExit too: the call fails with it
                self._write(name, args, kwargs, error)
                raise

        return call

    def _write(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> None:
        """Never raises: the call's own exception is what counts."""
        try:
            entry = describe_failure(name, args, kwargs, error, self._where)
            with open(self._path, "ab", buffering=0) as file:
                file.write(entry.encode(errors="backslashreplace"))
        except Exception as problem:
            with contextlib.suppress(Exception):
                print(f"pympipool: error_log_file {self._path} cannot be written: {problem}", file=sys.stderr)


def describe_failure(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException, where: str
) -> str:
    """The entry of a call.

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
    lines = [f"    {what}: {_shown(value)}" for what, value in named[:ARGUMENTS_MAX]]
    if len(named) > ARGUMENTS_MAX:
        lines.append(f"    and {len(named) - ARGUMENTS_MAX} arguments more")
    head = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {name}() failed in {where}"
    return "\n".join([head, *lines, format_exception(error), "", ""])


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 20
        self.maxarray = 20
        self.maxstring = self.maxother = ARGUMENT_CHARACTERS

    def repr_bytes(self, x: bytes, _level: int) -> str:
        """Cut before it is shown: four characters a byte would be too many."""
        rest = f"... ({len(x)} bytes)" if len(x) > ARGUMENT_CHARACTERS else ""
        return repr(x[:ARGUMENT_CHARACTERS]) + rest

    repr_bytearray = repr_bytes


_short = _Short()


def _shown(value: object) -> str:
    try:
        text = _short.repr(value)
    except BaseException as error:
        text = f"<{type(value).__qualname__} whose repr raises {type(error).__qualname__}>"
    return text.replace("\n", "\n        ")

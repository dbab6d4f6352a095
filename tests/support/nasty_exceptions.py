"""Exceptions as unpleasant as those of users can be: they refuse attributes, arguments or text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frozen(Exception):
    """An exception whose attributes cannot be set, not even its traceback."""

    code: int


class Refuses(Exception):
    """An exception that raises when it is asked for an attribute that it does not have, and no AttributeError."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class OwnArgs(Exception):
    """An exception whose arguments cannot be read."""

    @property
    def args(self) -> Any:
        raise SystemExit(3)


class NoText(Exception):
    """An exception whose text and representation end the program."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__

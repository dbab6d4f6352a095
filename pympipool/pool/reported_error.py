"""An exception that a worker has reported, as the supervisor keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from pympipool.serialization.exceptions import load_exception, summarize_parts


class ReportedError:
    """An exception that a worker has reported, still pickled: unpickling it may run any code of the user.

    A call returns the exception, a new one each time. The dispatcher has the thread call it that reads the exception.

    Args:
        parts: What the worker has sent.
        function: The name of the parameter by which the user gave the function that has raised it, if that is not a call:
            "initializer" or "init_function".

    Raises:
        Exception: They are not from `dump_exception`.
    """

    def __init__(self, parts: Sequence[Any], function: str = "") -> None:
        self.type_name, self.message = summarize_parts(parts)
        self.parts = parts
        self.function = function

    def load(self) -> BaseException:
        """Return the exception as it was raised."""
        return load_exception(self.parts)

    def __call__(self) -> BaseException:
        """Return the exception; if it is not that of a call, as the cause of a BrokenProcessPool."""
        if not self.function:
            return self.load()
        from concurrent.futures.process import BrokenProcessPool  # takes 15 ms

        error = BrokenProcessPool(
            f"{self.function} failed, so its worker runs no calls: {self.type_name}: {self.message}"
        )
        error.__cause__ = self.load()
        return error


Failure: TypeAlias = "BaseException | ReportedError"
"""Why a worker ended or did not start: an exception of ours, or one that the worker has reported."""

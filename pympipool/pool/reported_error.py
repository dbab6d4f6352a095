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

    Raises:
        Exception: They are not from `dump_exception`.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.type_name, self.message = summarize_parts(parts)
        self.parts = parts

    def __call__(self) -> BaseException:
        """Return the exception."""
        return load_exception(self.parts)


Failure: TypeAlias = "BaseException | ReportedError"
"""Why a worker ended or did not start: an exception of ours, or one that the worker has reported."""

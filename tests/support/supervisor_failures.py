"""Failures in the thread of a supervisor, at every function that it calls.

`failing_everywhere` raises MemoryError in place of one function of the pool that the thread calls, then of another one, and
so on: so each handler fails before each of its steps.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pympipool.pool

FOLDER = str(Path(pympipool.pool.__file__ or "").parent)
"""Functions in the files of this folder fail."""

NEVER = {"_run", "close"}
"""Functions that do not fail: the first and the last one of the thread."""


class Failure:
    """Raises MemoryError in place of functions that a supervisor's thread calls.

    Args:
        number: Number of other functions that are called before.
        occurrence: Which call of the function fails: 1 is the first.
        times: Number of calls, one after the other, that fail.
    """

    def __init__(self, number: int, occurrence: int = 1, times: int = 1) -> None:
        self.functions_left = number
        self.occurrence = occurrence
        self.times_left = times
        self.calls: Counter[CodeType] = Counter()
        self.places: list[str] = []

    def __enter__(self) -> Failure:
        threading.settrace(self._enter_frame)  # for threads that start from now on
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)  # type: ignore[arg-type]

    def _enter_frame(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if threading.current_thread().name != "pympipool_supervisor" or self.times_left == 0:
            sys.settrace(None)
            return
        if not code.co_filename.startswith(FOLDER) or code.co_name in NEVER:
            return
        if not self.places:
            self.calls[code] += 1
            if self.calls[code] != self.occurrence:
                return
            if self.functions_left > 0:
                self.functions_left -= 1
                return
        self.times_left -= 1
        self.places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        raise MemoryError("injected")


def failing_everywhere(
    action: Callable[[], object], *, first: int = 0, step: int = 1, occurrence: int = 1, times: int = 1
) -> Iterator[list[str]]:
    """Run an action again and again, with a failure a little later each time; yield each time where that was.

    Args:
        first: Number of the first function that fails.
        step: Take every step-th function only.
        occurrence: Which call of the function fails.
        times: Number of calls, one after the other, that fail.
    """
    for number in itertools.count(first, step):
        with Failure(number, occurrence, times) as failure:
            action()
        if not failure.places:
            return
        yield failure.places

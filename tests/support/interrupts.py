"""Exceptions of signal handlers, at every point of a piece of code where one can strike.

CPython runs signal handlers in the main thread, when a function begins, after a call has returned, and when a loop starts
again. `interrupted_everywhere` raises KeyboardInterrupt at the first of these points, then at the second, and so on.
"""

from __future__ import annotations

import concurrent.futures
import dis
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pympipool

FOLDERS = (str(Path(pympipool.__file__).parent), str(Path(concurrent.futures.__file__).parent))
"""Exceptions strike in the code of these folders only."""


@functools.cache
def checkpoints(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions before which CPython may run signal handlers."""
    found = set()
    after_call = None  # offset of the call before this instruction
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in ("RESUME", "JUMP_BACKWARD"):
            found.add(instruction.offset)
        elif after_call is not None and handler_of(code, after_call) == handler_of(code, instruction.offset):
            found.add(instruction.offset)  # the handler runs as a part of the call: in the same `with` or `try` block
        after_call = instruction.offset if name.startswith("CALL") else None
    return frozenset(found)


def handler_of(code: CodeType, offset: int) -> int | None:
    """Return the offset of the code that handles exceptions of an instruction; None: exceptions leave the function."""
    for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
        if entry.start <= offset < entry.end:
            return int(entry.target)
    return None


class Interrupt:
    """Raises KeyboardInterrupt in this thread at one of the points.

    Args:
        number: Number of points before.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self.place: str | None = None

    def __enter__(self) -> Interrupt:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.place is not None or not frame.f_code.co_filename.startswith(FOLDERS):
            return None
        frame.f_trace = self._trace  # Python 3.13 heeds the next line only if there is a trace function already
        frame.f_trace_opcodes = True
        return self._trace

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and self.place is None and frame.f_lasti in checkpoints(frame.f_code):
            if self.left == 0:
                self.place = f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
                raise KeyboardInterrupt
            self.left -= 1
        return self._trace


def interrupted_everywhere(
    action: Callable[[], object], step: int = 1, prepare: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Run an action again and again, and interrupt it a little later each time; yield each time where that was.

    Args:
        step: Take every step-th point only.
        prepare: Called before the action, and not interrupted.
    """
    for number in itertools.count(0, step):
        prepare()
        interrupt = Interrupt(number)
        try:
            with interrupt:
                action()
        except KeyboardInterrupt:
            pass
        if interrupt.place is None:
            return
        yield interrupt.place

"""The engines that have not ended: they end with the interpreter, and a forked child releases what it inherits of them."""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from pympipool._util.platform import on_fork

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

after_end: dict[Callable[[], None], None] = {}
"""Functions that are called when the interpreter ends, after all engines have ended."""


def _close_all_at_exit() -> None:
    """Run submitted calls to their end, as the standard library does. After Ctrl-C, kill them."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    engines = list(open_engines)
    try:
        _close_all(engines, interrupted)
    finally:
        for function in after_end:
            function()


def _close_all(engines: list[Engine], interrupted: bool) -> None:
    try:
        for engine in () if interrupted else engines:
            engine.close(wait=True)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        for engine in engines:  # all of them before any wait, which a further Ctrl-C ends
            engine.request_kill()
        for engine in engines:
            engine.kill()


def _after_fork_in_child() -> None:
    for engine in list(open_engines):
        engine.after_fork_in_child()


atexit.register(_close_all_at_exit)
on_fork(in_child=_after_fork_in_child)

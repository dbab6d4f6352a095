"""What a pool does later, in the supervisor's thread: single functions after a delay, and the rounds of `Executor.drain`.

A timer may be lost if the supervisor fails. So both can be told to do at once what is left.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.pool.event_loop import EventLoop, Timer

__all__ = ["DelayedCalls", "Drain"]

DRAIN_INTERVAL_S = 0.1
"""Interval at which a drained pool hands calls back that were on their way somewhere, or have lost their worker."""


class DelayedCalls:
    """Functions that are called after a delay, each once.

    Args:
        loop: That of the supervisor.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._functions: dict[Callable[[], object], None] = {}

    def add(self, delay_s: float, function: Callable[[], object]) -> None:
        """Have a function called after a delay. From any thread."""
        self._functions[function] = None
        self._loop.call(partial(self._start_timer, delay_s, function))

    def _start_timer(self, delay_s: float, function: Callable[[], object]) -> None:
        self._loop.call_later(delay_s, partial(self._call, function))

    def call_all(self) -> None:
        """Call at once what is left: its timer may not have been set."""
        for function in list(self._functions):
            self._call(function)

    def _call(self, function: Callable[[], object]) -> None:
        if function in self._functions:
            function()
            del self._functions[function]


class Drain:
    """Hands calls back that have not begun, again and again.

    Args:
        loop: That of the supervisor.
        dispatcher: Its completion thread hands them back.
        take_unbegun: Returns the calls that the pool has; in the supervisor's thread.
    """

    def __init__(self, loop: EventLoop, dispatcher: Dispatcher, take_unbegun: Callable[[], list[Future[Any]]]) -> None:
        self._loop = loop
        self._dispatcher = dispatcher
        self._take_unbegun = take_unbegun
        self._hand_back: Callable[[list[Future[Any]]], object] | None = None
        self._timer: Timer | None = None

    @property
    def has_begun(self) -> bool:
        """True after `begin`."""
        return self._hand_back is not None

    def begin(self, hand_back: Callable[[list[Future[Any]]], object]) -> None:
        """Begin, in one step that Ctrl-C cannot tear. A second time, hand back once more. From any thread."""
        self._loop.call(partial(self._begin, hand_back))
        self._hand_back = hand_back  # no call begins from now on

    def _begin(self, hand_back: Callable[[list[Future[Any]]], object]) -> None:
        self._hand_back = hand_back
        self.go_on()

    def go_on(self) -> None:
        """Do the next round, if `begin` was called, and have a timer do those after it."""
        if self._hand_back is None:
            return
        if self._timer is None or self._timer.function is None:  # else a failure of the supervisor repeats this
            self._timer = self._loop.call_later(DRAIN_INTERVAL_S, self.go_on)
        self._dispatcher.call_soon(self._hand_back, self._take_unbegun())

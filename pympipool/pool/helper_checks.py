"""When the helpers of spawners are checked: processes besides the workers, such as the relay and agents.

A check asks for the next one itself. One that raises is repeated, for nothing else would have the helper looked at again.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pympipool.backends.spawner import Helper
    from pympipool.pool.event_loop import EventLoop, Timer

__all__ = ["HelperChecks"]

CHECK_AGAIN_S = 1.0
"""Delay until a helper is checked again whose check has raised."""


class HelperChecks:
    """Checks helpers, in the supervisor's thread.

    Args:
        loop: That of the supervisor.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._pending: dict[Helper, tuple[float, Timer]] = {}
        self._unfinished: dict[Helper, None] = {}  # those that are checked now, or whose check has raised

    def check_after(self, helper: Helper, delay_s: float) -> None:
        """Have a helper checked after a delay, if it is not checked sooner, and then for as long as its check asks for that."""
        due_s = monotonic() + delay_s
        pending = self._pending.get(helper)
        if pending is not None and pending[1].function is not None:
            if pending[0] <= due_s:
                return
            self._loop.cancel((pending[1],))
        self._pending[helper] = due_s, self._loop.call_later(delay_s, partial(self._check, helper))

    def _check(self, helper: Helper) -> None:
        self._unfinished[helper] = None
        del self._pending[helper]
        delay_s = helper.check()
        if delay_s is not None:
            self.check_after(helper, delay_s)
        del self._unfinished[helper]

    def go_on(self) -> None:
        """Have those checked again whose check has raised."""
        for helper in list(self._unfinished):
            self.check_after(helper, CHECK_AGAIN_S)
            del self._unfinished[helper]

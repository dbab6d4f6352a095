"""Threads that work for executors: what is raised there ends none of them unnoticed, and none waits for itself.

User code reaches these threads too: the garbage collector runs `__del__` in any thread, the handlers of loggers belong
to the user, and what a call has returned is unpickled where another call needs it. So each loop of such a thread expects
any exception, SystemExit and KeyboardInterrupt included, and what waits for an executor asks `must_not_wait` first.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any


class ServiceThread(threading.Thread):
    """A thread that works for an executor.

    Args:
        name: Name of the thread.
        target: What it does.
        on_crash: Called in the thread with the exception that ended target, if one did.
        may_wait: Executors can end without this thread: code in it may wait for them.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[], object],
        on_crash: Callable[[BaseException], object] | None = None,
        *,
        may_wait: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.may_wait = may_wait
        self._function: Callable[[], object] | None = target
        self._on_crash = on_crash

    def run(self) -> None:
        """Call the target. If it raises, log that and call `on_crash`."""
        function, on_crash = self._function, self._on_crash
        self._function = self._on_crash = None  # a thread that has ended keeps nothing alive
        assert function is not None
        try:
            function()
        except BaseException as error:  # nothing above could handle it, whatever it is
            LOGGER.exception("thread %s has ended by an unexpected failure", self.name)
            if on_crash is not None:
                on_crash(error)


def must_not_wait() -> bool:
    """Return True if the calling thread works for an executor, so that code in it must not wait for one."""
    thread = threading.current_thread()
    return isinstance(thread, ServiceThread) and not thread.may_wait


class ServiceLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic for type checkers only
    """A logger for service threads. There it drops what the user's handlers raise.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a message, like `logging.Logger.log`."""
        if not self.isEnabledFor(level):
            return
        try:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, msg, *args, **kwargs)
        except BaseException as problem:
            if not isinstance(threading.current_thread(), ServiceThread):
                raise
            if logging.raiseExceptions and sys.__stderr__ is not None:  # as handlers do with what they raise themselves
                print(f"a handler of the logger {self.name} raised {type(problem).__name__}", file=sys.__stderr__)


LOGGER = ServiceLogger("pympipool")

"""An event loop in a thread of its own: waits for descriptors, timers and functions that other threads hand over.

    selector ◄── descriptors      one becomes readable: its handler runs         (`watch`)
    inboxes                       the same for what has no descriptor            (`transport/inbox.py`)
             ◄── wake-up socket   another thread has posted a function           (`call`, `mailbox`)
             ◄── next timer       a function is due                              (`call_later`)

All handlers run in the loop's thread, one after the other, so what they share needs no locks.

A handler that raises, for lack of memory for example, may leave something half done that nothing else would finish. So the
loop notes the failure in the handler's group, and then calls `on_failure`, until that does not raise.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pympipool._core.mailbox import Mailbox
from pympipool._util.clocks import LONGEST_WAIT_S
from pympipool._util.platform import SELECTED_MAX
from pympipool._util.service_threads import ServiceLogger, ServiceThread

if TYPE_CHECKING:
    from pympipool.transport.inbox import Inbox

LOGGER = ServiceLogger("pympipool.pool")

CANCELLED_TIMERS_MAX = 1000
"""Cancelled timers that may stay in the queue before they are removed from it."""


FAILURES_MAX = 20
"""Failures of the loop itself, or of `on_failure`, one after the other, that it survives: a shortage of memory may pass."""

FAILURE_PAUSE_S = 0.05
"""Pause after the first of these failures; doubles with each further one."""

FAILURE_PAUSE_MAX_S = 1.0
"""Longest pause after one of these failures."""


class HandlerGroup(set["Timer"]):
    """Handlers that belong together, such as those of one worker, and their timers that have not run yet.

    Attributes:
        failure: What a handler of the group has raised last; None if none has.
    """

    failure: BaseException | None = None


class Timer:
    """A function that is due at some time.

    Args:
        function: What to call.
        group: The timers that are cancelled together with this one; the timer is in it until it has run or was cancelled.
    """

    __slots__ = ("function", "group")

    def __init__(self, function: Callable[[], None], group: HandlerGroup | None) -> None:
        self.function: Callable[[], None] | None = function
        self.group = group
        if group is not None:
            group.add(self)

    def run(self) -> None:
        """Call the function, unless the timer was cancelled."""
        function = self.function
        self.release()
        if function is not None:
            function()

    def release(self) -> None:
        """Drop the references to the function and the group: from now on the timer does nothing."""
        if self.group is not None:
            self.group.discard(self)
        self.function = self.group = None


class EventLoop:
    """The thread and what it waits for.

    Args:
        name: Name of the thread.
        at_exit: Called in the thread after the last handler.
        on_crash: Called in the thread with the exception that has ended it, if one has, after `at_exit`.
        on_failure: Called after a handler has raised, to finish what it has left undone. It is called again if it raises.

    Attributes:
        mailbox: The functions that other threads want to have called in the loop's thread.
    """

    def __init__(
        self,
        name: str,
        at_exit: Callable[[], None],
        on_crash: Callable[[BaseException], object] | None = None,
        on_failure: Callable[[], object] = lambda: None,
    ) -> None:
        self._at_exit = at_exit
        self._on_failure = on_failure
        self._has_failed = False  # a handler has, and `on_failure` has not finished what it left
        self._selector = selectors.DefaultSelector()
        try:
            self._wake_receiver, self._wake_sender = socket.socketpair()
        except OSError:
            self._selector.close()
            raise
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.mailbox = Mailbox(self._wake_sender.fileno())
        self._inboxes: dict[Inbox, tuple[Callable[[], None], HandlerGroup | None]] = {}
        self._readable: dict[Inbox, None] = {}  # those of which a handler is to run
        self._on_readable = self._note_readable  # one object for all of them
        self._timers: list[tuple[float, int, Timer]] = []  # a heap
        self._timer_numbers = itertools.count()  # two timers that are due at the same time keep their order
        self._cancelled_timers = 0  # of those in the heap
        self._stopping = False
        self.watch(self._wake_receiver, self._acknowledge_wake_up)
        self.thread = ServiceThread(name, self._run, on_crash)

    # ---- for any thread ----

    def start(self) -> None:
        """Start the thread, and wait until it has begun."""
        self.thread.start()
        self.thread.wait_begun()

    def call(self, function: Callable[[], None]) -> None:
        """Call function() in the loop's thread, soon."""
        self.mailbox.post(function)

    # ---- for the loop's thread ----

    def call_later(self, delay_s: float, function: Callable[[], None], group: HandlerGroup | None = None) -> Timer:
        """Call function() after delay_s seconds, as a handler of a group, if there is one."""
        timer = Timer(function, group)
        heapq.heappush(self._timers, (monotonic() + delay_s, next(self._timer_numbers), timer))
        return timer

    def cancel(self, timers: Collection[Timer]) -> None:
        """Cancel timers that have not run yet."""
        self._cancelled_timers += len(timers)
        for timer in tuple(timers):  # a timer that is released leaves its group
            timer.release()
        if self._cancelled_timers > max(CANCELLED_TIMERS_MAX, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if entry[2].function is not None]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def watch(self, readable: Any, handler: Callable[[], None], group: HandlerGroup | None = None) -> None:
        """Call handler() whenever a descriptor, an object with `fileno()`, or one with an `inbox` is readable."""
        inbox: Inbox | None = getattr(readable, "inbox", None)
        if inbox is not None:
            self._inboxes[inbox] = handler, group
            inbox.on_readable = self._on_readable
            if inbox.is_readable:
                self._note_readable(inbox)
            return
        try:
            self._selector.register(readable, selectors.EVENT_READ, (handler, group))
        except KeyError:  # its number was that of a descriptor that was closed while it was watched
            self._selector.unregister(readable)
            self._selector.register(readable, selectors.EVENT_READ, (handler, group))

    def unwatch(self, readable: Any) -> None:
        """Stop watching; harmless if it is not watched or closed already."""
        inbox: Inbox | None = getattr(readable, "inbox", None)
        if inbox is not None:
            inbox.on_readable = None
            self._inboxes.pop(inbox, None)
            self._readable.pop(inbox, None)
            return
        try:
            self._selector.unregister(readable)
        except (KeyError, ValueError):
            pass

    @property
    def has_room(self) -> bool:
        """True if the system can wait for one more descriptor in this thread."""
        return SELECTED_MAX is None or len(self._selector.get_map()) < SELECTED_MAX

    def watched(self) -> list[Any]:
        """Return all descriptors that are watched: none once the loop is closed."""
        return [key.fileobj for key in (self._selector.get_map() or {}).values()]

    def run(self, handler: Callable[[], object], group: HandlerGroup | None = None) -> None:
        """Run a handler. Log and note what it raises: the thread has to go on, since every worker depends on it."""
        try:
            handler()
        except BaseException as error:  # also what a `__del__` raises that the garbage collector runs here
            self._has_failed = True
            if group is not None:
                group.failure = error
            with suppress(BaseException):  # there may be no memory for the message either
                LOGGER.exception("unexpected failure in thread %s", self.thread.name)
            BaseException.with_traceback(error, None)  # its frames would keep in memory what the handler worked with

    def stop(self) -> None:
        """Run no more functions and timers, and end the thread after the handlers that are due now.

        Nothing may be asked of what was closed with the loop: it would wait there for ever.
        """
        self._stopping = True

    def close(self) -> None:
        """Close the loop's own descriptors, not those that it watches. Also for forked children."""
        self.mailbox.close()
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    # ---- the thread ----

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopping:
                try:
                    self._run_once()
                    if self._has_failed:
                        self._has_failed = False
                        self._on_failure()
                    failures = 0
                except BaseException:  # of the selector or of `on_failure`, or MemoryError: handlers raise nothing
                    self._has_failed = True
                    failures += 1
                    if failures > FAILURES_MAX:
                        raise
                    LOGGER.exception("unexpected failure in thread %s", self.thread.name)
                    sleep(min(FAILURE_PAUSE_S * 2 ** (failures - 1), FAILURE_PAUSE_MAX_S))
        finally:
            self._at_exit()

    def _run_once(self) -> None:
        for key, _ in self._selector.select(self._longest_wait_s()):
            if self._selector.get_map().get(key.fd) is key:  # an earlier handler may have unwatched it
                self.run(*key.data)
        self._run_readable()
        self._run_posted()
        self._run_timers()

    def _note_readable(self, inbox: Inbox) -> None:
        self._readable[inbox] = None

    def _run_readable(self) -> None:
        for inbox in tuple(self._readable):
            if inbox in self._inboxes:
                self.run(*self._inboxes[inbox])
            if inbox not in self._inboxes or not inbox.is_readable:
                self._readable.pop(inbox, None)

    def _longest_wait_s(self) -> float | None:
        # functions that a failure has left in the mailbox wake nothing
        if self._has_failed or self._readable or not self.mailbox.is_empty():
            return 0.0
        return min(max(self._timers[0][0] - monotonic(), 0.0), LONGEST_WAIT_S) if self._timers else None

    def _acknowledge_wake_up(self) -> None:
        try:
            self._wake_receiver.recv(4096)
        except BlockingIOError:
            pass
        self.mailbox.acknowledge()

    # A function or a timer is removed after it has run: without memory its call may fail before it has begun.

    def _run_posted(self) -> None:
        while not self._stopping and (function := self.mailbox.peek()) is not None:
            self.run(function)
            self.mailbox.drop()

    def _run_timers(self) -> None:
        while not self._stopping and self._timers and self._timers[0][0] <= monotonic():
            _, _, timer = self._timers[0]
            if timer.function is None:  # it has run, or was cancelled
                heapq.heappop(self._timers)
            else:
                self.run(timer.run, timer.group)

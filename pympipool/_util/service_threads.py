"""Threads that work for executors: what is raised there ends none of them unnoticed, and none waits for itself.

    service thread ── ServiceLogger ──> record ──> queue ──> thread "pympipool_log" ──> handlers of the user

User code reaches these threads too: the garbage collector runs `__del__` in any thread, the handlers of loggers belong
to the user, and what a call has returned is unpickled where another call needs it. So each loop of such a thread expects
any exception, SystemExit and KeyboardInterrupt included, and what waits for an executor asks `must_not_wait` first.

Handlers of loggers may block too: stderr is a pipe that is not read, or Ctrl-S was pressed. So these threads only make the
records. The handlers run in a thread that exists from the first record to the end of the executor.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any

from pympipool._util.platform import on_fork

try:
    from pympipool._util.thread_start import bootstrap
except ImportError:  # nothing is compiled: `pympipool check` and `pympipool info`, which run without that, say so

    def bootstrap(thread: ServiceThread) -> None:
        """Begin the thread."""
        thread.begin()


RECORDS_MAX = 1000
"""Log records that may wait for handlers that block, before further records are dropped."""

FLUSH_LIMIT_S = 1.0
"""Longest time for which the end of an executor, and of the interpreter, waits for handlers of loggers."""

FLUSH_CHECK_S = 0.0005
"""Interval between two checks whether the handlers have got all records."""


class _Begun:
    """Set by a thread that has begun, in place of its Event.

    `Thread.start` waits for that Event, which takes longer than all the rest of a start. And an interrupted wait for an Event
    may raise an error of its own.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        """Return True if the thread has begun."""
        return self._is_set

    def set(self) -> None:
        """Note that the thread has begun."""
        if not self._is_set:  # without memory, the thread begins a second time
            self._is_set = True
            self._gate.release()

    def _at_fork_reinit(self) -> None:
        """Do nothing: a thread that forks has begun, and the others end by the fork."""

    def wait(self, timeout: float | None = None) -> bool:
        """Do not wait (see `wait_set`)."""
        return True

    def wait_set(self, timeout: float | None = None) -> bool:
        """Wait until the thread has begun; return False if that takes longer."""
        if self._is_set:
            return True
        has_begun = self._gate.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        if has_begun:
            self._gate.release()
        return has_begun


class ServiceThread(threading.Thread):
    """A thread that works for an executor.

    Ctrl-C may end `start` when the thread is about to begin, and nothing tells whether it will. So one step decides whether
    it runs its target: what is the first to set `_decision`, the thread or `revoke`.

    Args:
        name: Name of the thread.
        target: What it does; None as soon as it does that.
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
        self._started = _Begun()
        self._will_begin = False
        self.target: Callable[[], object] | None = target
        self._on_crash = on_crash
        self._decision: dict[str, str] = {}  # "by": "thread" or "revoke", whichever was first

    def start(self) -> None:
        """Start the thread, and do not wait until it has begun. If a signal handler raises meanwhile, revoke it."""
        try:
            super().start()
            self._will_begin = True
        except BaseException:  # there is no room for a thread, or Ctrl-C
            self.revoke()
            raise

    def revoke(self) -> bool:
        """Have the thread do nothing, if it has not begun; return False if it has: then it does all of its work."""
        if self._decision.setdefault("by", "revoke") == "thread":
            return False
        threading._limbo.pop(self, None)  # type: ignore[attr-defined]  # where threads are listed that have not begun
        return True

    _bootstrap = bootstrap
    """The first that runs in the thread: it calls `begin`, again while there is no memory for that."""

    def begin(self) -> bool:
        """Run the thread, unless it was revoked; return False if there was no memory for it, and nothing was run."""
        if self._decision.setdefault("by", "thread") == "thread":
            threading._limbo[self] = self  # type: ignore[attr-defined]  # where `threading` expects it, a second time too
            super()._bootstrap()  # type: ignore[misc]  # typeshed does not have it
            return self.target is None
        self.revoke()  # Ctrl-C may have ended that, too
        return True

    def _set_tstate_lock(self) -> None:  # up to Python 3.12
        # A thread that begins a second time keeps its lock: others may wait for it.
        if getattr(self, "_tstate_lock", None) is None:
            super()._set_tstate_lock()  # type: ignore[misc]  # typeshed does not have it

    def wait_begun(self, timeout: float | None = None) -> bool:
        """Wait until a thread that was started has begun; return False if that takes longer."""
        return self._started.wait_set(timeout)

    def is_alive(self) -> bool:
        """Return True if the thread was started, and has not ended."""
        return super().is_alive() or (self._will_begin and not self._started.is_set())

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread, at most for a time."""
        deadline_s = monotonic() + (timeout or 0.0)
        if not self._will_begin or self.wait_begun(timeout):
            super().join(None if timeout is None else max(deadline_s - monotonic(), 0.0))

    def run(self) -> None:
        """Call the target. If it raises, log that and call `on_crash`."""
        target, on_crash = self.target, self._on_crash
        self.target = self._on_crash = None  # a thread that has ended keeps nothing alive
        assert target is not None
        try:
            target()
        except BaseException as error:  # nothing above could handle it, whatever it is
            LOGGER.exception("thread %s has ended by an unexpected failure", self.name)
            if on_crash is not None:
                on_crash(error)


def must_not_wait() -> bool:
    """Return True if the calling thread works for an executor, so that code in it must not wait for one."""
    thread = threading.current_thread()
    return isinstance(thread, ServiceThread) and not thread.may_wait


class ServiceLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic for type checkers only
    """A logger for service threads. There it does not wait for the user's handlers, and drops what they raise.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a message, like `logging.Logger.log`. In a service thread the handlers get it a moment later."""
        if not self.isEnabledFor(level):
            return
        stacklevel = kwargs.pop("stacklevel", 1) + 1
        if not must_not_wait():
            self.logger.log(level, msg, *args, stacklevel=stacklevel, **kwargs)
            return
        try:
            if _has_handler(self.logger):
                _records.put(self.logger, self._make_record(level, msg, args, stacklevel + 1, **kwargs))
        except BaseException as problem:
            _report(self.logger, problem)

    def _make_record(
        self, level: int, msg: object, args: tuple[Any, ...], stacklevel: int, exc_info: object = None
    ) -> logging.LogRecord:
        file, line, function, _ = self.logger.findCaller(False, stacklevel)
        raised = sys.exc_info() if exc_info else None
        record: logging.LogRecord = self.logger.makeRecord(
            self.logger.name, level, file, line, msg, args, raised, function
        )
        return record


def _has_handler(logger: logging.Logger) -> bool:
    """Return False if nothing would be done with a record."""
    handlers: list[logging.Handler] = []
    current: logging.Logger | None = logger
    while current is not None:
        handlers += current.handlers
        current = current.parent if current.propagate else None
    return not handlers or not all(isinstance(handler, logging.NullHandler) for handler in handlers)


def _report(logger: logging.Logger, problem: BaseException) -> None:
    """Tell that a handler has raised, as handlers do with what they raise themselves."""
    if logging.raiseExceptions and sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # stderr is closed
            print(f"a handler of the logger {logger.name} raised {type(problem).__name__}", file=sys.__stderr__)


class _Records:
    """Log records on their way from service threads to the user's handlers, which may block."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[logging.Logger, logging.LogRecord] | list[bool]] = SimpleQueue()
        self._thread: ServiceThread | None = None
        self._starting = threading.Lock()  # it is only tried, so nothing waits for it
        self._dropped = 0

    def put(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Have the handlers called soon. If they block, count the record and drop it."""
        if self._queue.qsize() >= RECORDS_MAX:
            self._dropped += 1
            return
        self._queue.put((logger, record))
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                thread = ServiceThread("pympipool_log", self._run, may_wait=True)
                self._thread = thread
                thread.start()
            except RuntimeError:  # no more threads: the next record tries again, or `flush` calls the handlers
                self._thread = None
            finally:
                self._starting.release()

    def flush(self) -> None:
        """Wait until the handlers have got all records, and the thread has ended; at most `FLUSH_LIMIT_S`."""
        thread, deadline_s = self._thread, monotonic() + FLUSH_LIMIT_S
        if threading.current_thread() is thread or (thread is None and self._queue.empty()):
            return
        if thread is None:  # none could be started
            self._handle_waiting()
            return
        mark: list[bool] = []
        self._queue.put(mark)
        while not mark and monotonic() < deadline_s:
            sleep(FLUSH_CHECK_S)
        if mark and self._thread is not thread:
            thread.join(max(deadline_s - monotonic(), 0.0))

    def _run(self) -> None:
        """Call the handlers until there are no more records, and `flush` was called."""
        while True:
            entry = self._queue.get()
            if not isinstance(entry, list):
                self._handle(*entry)
                continue
            if self._queue.empty():
                self._thread = None
                if self._queue.empty():  # still: later records start another thread
                    entry.append(True)
                    return
            entry.append(True)

    def _handle_waiting(self) -> None:
        try:
            while True:
                entry = self._queue.get_nowait()
                if not isinstance(entry, list):
                    self._handle(*entry)
        except Empty:
            pass

    def _handle(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Call the handlers with one record, whatever they raise, and tell how many were dropped before."""
        try:
            logger.handle(record)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                LOGGER.warning("%d or more log records were dropped, because a handler of the log blocked", dropped)
        except BaseException as problem:  # also SystemExit: the handlers get the other records
            _report(logger, problem)


_records = _Records()


def flush_records() -> None:
    """Wait until the handlers of loggers have got what service threads have logged, at most `FLUSH_LIMIT_S`."""
    _records.flush()


def _forget_records() -> None:
    """Begin anew in a forked child: the records are the parent's, and the thread runs there."""
    global _records
    _records = _Records()


atexit.register(flush_records)
on_fork(in_child=_forget_records)

LOGGER = ServiceLogger("pympipool")

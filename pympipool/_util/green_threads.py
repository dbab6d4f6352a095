"""Let green threads of gevent and eventlet wait for calls while other green threads run.

    green thread: future.result() ──► wait_until_done ──► waits for an event of its library
                                                             ▲
    service thread of pympipool: sets the result ──► _Hub.call(event.set) ──► socket ──► a green thread of the hub

Nothing of these libraries may be called in another thread than the one of the green threads, so the hub's green thread
reads from a socket what it shall call. Callbacks of futures run in green threads, too.
"""

from __future__ import annotations

import _socket
import logging
import os
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from time import monotonic
from typing import Any

LOGGER = logging.getLogger("concurrent.futures")

_library = ""
"""The library that has replaced threads; "": none."""


def activate(library: str) -> None:
    """Let all threads that run green threads wait cooperatively from now on.

    Args:
        library: "gevent" or "eventlet".
    """
    global _library
    _library = library


def are_active() -> bool:
    """Return True if a library has replaced threads."""
    return bool(_library)


class _Hub:
    """Calls functions in green threads of one thread, at the request of any thread."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._receiver, self._sender = _socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._pid = os.getpid()
        self._wake_up = _WakeUp(self._receiver.fileno())
        self._waits = 0
        _spawn(self._run)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in a new green thread, soon."""
        self._calls.append(function)
        try:
            self._sender.send(b"\0")
        except OSError:  # full, so the green thread is about to run
            pass

    def begin_wait(self) -> None:
        """Note that a green thread waits for a call, or a callback for its end, until `end_wait`. Only in the hub's thread."""
        self._waits += 1
        self._wake_up.keep_hub_running(True)

    def end_wait(self) -> None:
        """Note that one of those has ended."""
        self._waits -= 1
        self._wake_up.keep_hub_running(self._waits > 0)

    def is_usable(self) -> bool:
        """Return False in a forked child, where the parent's green threads do not run."""
        return self._pid == os.getpid()

    def _run(self) -> None:
        while True:
            self._wake_up.wait()
            try:
                self._receiver.recv(4096)
            except BlockingIOError:
                continue
            while self._calls:
                _spawn(self._calls.popleft())


def _spawn(function: Callable[[], object]) -> None:
    if _library == "gevent":
        import gevent

        gevent.spawn(function)
    else:
        import eventlet

        eventlet.spawn_n(function)


class _WakeUp:
    """Waits in a green thread until a descriptor is readable."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._watcher: Any = None
        if _library == "gevent":
            from gevent import get_hub

            self._watcher = get_hub().loop.io(descriptor, 1, ref=False)

    def keep_hub_running(self, keeps: bool) -> None:
        """Say if the hub must go on. gevent's ends when nothing is waited for, `gevent.wait` with it; eventlet's never does."""
        if self._watcher is not None and self._watcher.ref != keeps:
            self._watcher.ref = keeps

    def wait(self) -> None:
        """Wait."""
        if self._watcher is not None:
            from gevent import get_hub

            get_hub().wait(self._watcher)
        else:
            from eventlet.hubs import trampoline

            trampoline(self._descriptor, read=True)


def _runs_green_threads() -> bool:
    """Return True in the main thread, and in each other thread in which the library is in use."""
    threading = _originals("threading")
    if threading.get_ident() == threading.main_thread().ident:
        return True
    if _library == "gevent":
        from gevent._hub_local import get_hub_if_exists

        return get_hub_if_exists() is not None
    from eventlet import hubs

    return hasattr(hubs._threadlocal, "hub")


def _originals(name: str) -> Any:
    from pympipool._util.monkey_patches import original

    return original(name)


_hubs: Any = None
"""The hub of each thread, as thread-local attribute."""


def _hub() -> _Hub | None:
    """Return the hub of this thread; None if it runs no green threads."""
    global _hubs
    if not _library or not _runs_green_threads():
        return None
    if _hubs is None:
        _hubs = _originals("_thread")._local()
    hub: _Hub | None = getattr(_hubs, "hub", None)
    if hub is None or not hub.is_usable():
        hub = _hubs.hub = _Hub()
    return hub


# ---- for futures ----


class _Waiter:
    """Passes the end of a future on to a waiter of `concurrent.futures`, in a green thread.

    Args:
        waiter: Any object with the methods of those waiters.
    """

    def __init__(self, hub: _Hub, waiter: Any) -> None:
        self._hub = hub
        self.waiter = waiter

    def add_result(self, future: Any) -> None:
        self._hub.call(partial(self.waiter.add_result, future))

    def add_exception(self, future: Any) -> None:
        self._hub.call(partial(self.waiter.add_exception, future))

    def add_cancelled(self, future: Any) -> None:
        self._hub.call(partial(self.waiter.add_cancelled, future))


class _Waiters:
    """The waiters of a future as `concurrent.futures` changes them.

    Args:
        waiters: The future's own list.
    """

    def __init__(self, hub: _Hub, waiters: Any) -> None:
        self._hub = hub
        self._waiters = waiters

    def append(self, waiter: Any) -> None:
        self._hub.begin_wait()
        self._waiters.append(_Waiter(self._hub, waiter))

    def remove(self, waiter: Any) -> None:
        self._hub.end_wait()
        for one in self._waiters:  # there is none if the future has ended
            if getattr(one, "waiter", None) is waiter:
                self._waiters.remove(one)


class _Event:
    """A waiter that sets an event."""

    def __init__(self) -> None:
        from threading import Event

        self._event = Event()
        self.wait = self._event.wait

    def _set(self, _future: object) -> None:
        self._event.set()

    add_result = add_exception = add_cancelled = _set


def waiters_of(waiters: Any) -> Any:
    """Return an object through which green threads of this thread add waiters to the list and remove them."""
    hub = _hub()
    return waiters if hub is None else _Waiters(hub, waiters)


def wait_until_done(future: Any, deadline_s: float) -> bool:
    """Wait until a future is done or the deadline has passed; let other green threads run meanwhile.

    Args:
        deadline_s: As from `time.monotonic`; 0: none.

    Returns:
        False, at once, in a thread without green threads.
    """
    hub = _hub()
    if hub is None:
        return False
    event = _Event()
    waiters = future._waiters
    with future._condition:
        if future._state in ("CANCELLED_AND_NOTIFIED", "FINISHED"):
            return True
        waiters.append(event)
    try:
        event.wait(max(deadline_s - monotonic(), 0.0) if deadline_s else None)
    finally:
        with future._condition:
            waiters.remove(event)
    return True


def callback_in_green_thread(fn: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a callback for a future that calls fn in a green thread of this thread."""
    hub = _hub()
    if hub is None:
        return fn
    hub.begin_wait()
    return lambda future: hub.call(partial(_run_callback, hub, fn, future))


def _run_callback(hub: _Hub, fn: Callable[[Any], object], future: Any) -> None:
    hub.end_wait()
    try:
        fn(future)
    except Exception:
        LOGGER.exception("exception calling callback for %r", future)


# ---- for methods that wait ----


def lets_others_run(method: Callable[..., None]) -> Callable[..., None]:
    """Decorate a method that blocks: where there are green threads, these run while it blocks."""

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> None:
        hub = _hub()
        if hub is None:
            method(*args, **kwargs)
        else:
            _run_in_real_thread(hub, partial(method, *args, **kwargs))

    return call


def _run_in_real_thread(hub: _Hub, function: Callable[[], None]) -> None:
    event = _Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        hub.call(partial(event._set, None))

    hub.begin_wait()
    try:
        _originals("_thread").start_new_thread(run, ())
        event.wait()
    finally:
        hub.end_wait()
    if errors:
        raise errors[0]

"""How a rank waits for the other ranks without wasting a core.

    spin: check, yield the core, check again        enough for calls that follow each other closely
      -> sleep until another rank sends a wake-up   then spin again
         (without a listener: sleep, check, sleep for longer)

Waiting inside MPI means spinning at 100 % of a core, for as long as it takes. So ranks wait here, and check repeatedly
whether an MPI request is complete.

A wake-up is an empty datagram to the Unix socket of the waiting rank. Before it sleeps, a waiting rank reads all datagrams
and then checks once more. The notifying rank sends its MPI message first, then the datagram. So either the check finds the
message, or the datagram is still there and ends the sleep: no wake-up is lost. Even if one were, the sleep has a time limit.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
from time import monotonic, monotonic_ns, sleep

from pympipool._util.cmodules import socket
from pympipool._util.platform import HAS_ABSTRACT_SOCKETS, usable_cores, yield_core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SPIN_S = 200e-6
"""Time that a rank spins: longer than the gap between calls each of which waits for the result of the one before."""

BACKOFF_MIN_S = 20e-6
"""Shortest sleep between two checks of a rank that no wake-up can reach."""

BACKOFF_MAX_S = 2e-3
"""Longest sleep between two checks of a rank that no wake-up can reach. Checking every 2 ms costs 0.5 % of a core."""

BACKOFF_SHARE = 1 / 8
"""Length of a sleep between two checks, as a share of the time waited so far: an event is noticed at most that much late."""

SLEEP_MAX_S = 0.25
"""Longest sleep of a rank that relies on a wake-up."""

AFTER_WAKEUP_S = 0.02
"""Time that a rank checks for its message after a wake-up, before it relies on the next wake-up."""


class WakeupNotifier:
    """Wakes one listener.

    Each notifier has its own socket. Datagrams that a sleeping listener has not read yet take up room in the sender's socket,
    and must not use up the room for other listeners.

    Args:
        listener: Name of the listener.

    Attributes:
        name: Name of the notifier's own socket.
    """

    def __init__(self, listener: str) -> None:
        self._socket, self.name = _datagram_socket()
        self._listener = listener

    def notify(self) -> bool:
        """Wake the listener; return False if it cannot be reached."""
        try:
            self._socket.sendto(b"", self._listener)
        except BlockingIOError:
            pass  # many wake-ups are waiting there already
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    __del__ = close  # else a ResourceWarning at the end of the worker


class WakeupListener:
    """Sleeps until another rank of this host sends a wake-up.

    Attributes:
        name: Name by which a `WakeupNotifier` reaches it.
    """

    def __init__(self) -> None:
        self._socket, self.name = _datagram_socket()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def accept_only(self, notifier: str) -> None:
        """From now on, accept wake-ups of this notifier only."""
        self._socket.connect(notifier)

    def clear(self) -> None:
        """Discard the wake-ups that have arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    __del__ = close  # else a ResourceWarning at the end of the worker

    def sleep(self, timeout_s: float) -> bool:
        """Sleep until a wake-up arrives; return False after timeout_s without one."""
        return bool(self._poll.poll(timeout_s * 1000))


def _datagram_socket() -> tuple[socket.socket, str]:
    """Return a non-blocking socket and its name, which cannot be guessed."""
    name = f"\0pympipool-wakeup-{os.urandom(16).hex()}"
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.setblocking(False)
    datagrams.bind(name)
    return datagrams, name


def make_listener() -> WakeupListener | None:
    """Return a listener; None on systems without abstract Unix sockets."""
    return WakeupListener() if HAS_ABSTRACT_SOCKETS else None


class AdaptiveWaiter:
    """Waits for one rank: spins first, then sleeps.

    Args:
        listener: Wakes the rank when there may be something new; None: nothing does.
    """

    def __init__(self, listener: WakeupListener | None) -> None:
        self._listener = listener
        self._spin_s = SPIN_S if usable_cores() > 1 else 0.0

    def awake_until(self) -> int:
        """Return the time (monotonic clock, ns) before which a wait that begins now or later does not sleep."""
        return monotonic_ns() + int(self._spin_s * 1e9)

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until done() is true."""
        if done() or self._spin(done):
            return
        if self._listener is None:
            _backoff(done, math.inf)
            return
        while not self._sleep(self._listener, done):
            pass

    def _spin(self, done: Callable[[], bool]) -> bool:
        end = monotonic() + self._spin_s
        while monotonic() < end:
            yield_core()
            if done():
                return True
        return False

    def _sleep(self, listener: WakeupListener, done: Callable[[], bool]) -> bool:
        listener.clear()
        if done():
            return True
        if not listener.sleep(SLEEP_MAX_S):
            return done()
        return done() or self._spin(done) or _backoff(done, AFTER_WAKEUP_S)


def _backoff(done: Callable[[], bool], limit_s: float) -> bool:
    start = monotonic()
    while not done():
        waited_s = monotonic() - start
        if waited_s > limit_s:
            return False
        sleep(min(max(BACKOFF_MIN_S, waited_s * BACKOFF_SHARE), BACKOFF_MAX_S))
    return True

"""How a rank waits for the others without wasting a core.

    spin: look, yield the core, look again      calls that follow each other closely are caught here
      -> sleep until the bell rings             then spin again
         (without a bell: sleep for a little, look, sleep for longer)

Waiting inside of MPI means spinning at 100 % of a core, however long it takes. So ranks wait here, looking whether
a request is complete.

A bell is a Unix datagram socket. Whoever waits empties it, looks once more, and sleeps until it is readable; whoever
rings sends his message first and then an empty datagram. In whatever order that happens, the datagram comes after the
last look or the look finds the message: no wake-up is lost. And if one were, the sleeper would look again soon.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
from time import monotonic, monotonic_ns, sleep

from pympipool._util.cmodules import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SPIN_S = 200e-6
"""As long as the gap between calls that wait for each other's results, with room to spare."""

PAUSE_LEAST_S = 20e-6
PAUSE_MOST_S = 2e-3
"""Pauses between looks without a bell: 2 ms cost 0.5 % of a core."""

PAUSE_SHARE = 1 / 8
"""A pause is this part of the time waited so far: nobody is noticed later than that."""

UNRUNG_S = 0.25
"""How long a sleeper relies on its bell."""

RUNG_S = 0.02
"""How long a rank that was rung awake looks out for the message before it relies on its bell again."""


class WakeupNotifier:
    """What rings one bell.

    Each has a socket of its own: the rings that a sleepy bell has not taken yet must not use up the room for others.

    Args:
        bell: Name of the bell.

    Attributes:
        name: Its own name.
    """

    def __init__(self, bell: str) -> None:
        self._socket, self.name = _datagram_socket()
        self._bell = bell

    def ring(self) -> bool:
        """Rings; False when the bell cannot be reached."""
        try:
            self._socket.sendto(b"", self._bell)
        except BlockingIOError:
            pass  # it has been rung often already
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Gives back its socket."""
        self._socket.close()


class WakeupListener:
    """What wakes a rank of this host.

    Attributes:
        name: By which it can be rung.
    """

    def __init__(self) -> None:
        self._socket, self.name = _datagram_socket()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def answer_to(self, ringer: str) -> None:
        """From now on it can be rung by that one only."""
        self._socket.connect(ringer)

    def empty(self) -> None:
        """Forgets that it has been rung."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Gives back its socket."""
        self._socket.close()

    def sleep(self, timeout_s: float) -> bool:
        """Sleeps until it rings; False when the time was over before."""
        return bool(self._poll.poll(timeout_s * 1000))


def _datagram_socket() -> tuple[socket.socket, str]:
    """A socket that does not block, and its name, which nobody can guess."""
    name = f"\0pympipool-bell-{os.urandom(16).hex()}"
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.setblocking(False)
    datagrams.bind(name)
    return datagrams, name


def make_bell() -> WakeupListener | None:
    """A bell; None where there are no abstract Unix sockets."""
    return WakeupListener() if sys.platform == "linux" else None


class AdaptiveWaiter:
    """How one rank waits.

    Args:
        bell: Rings when there may be something new; None: nothing does.
    """

    def __init__(self, bell: WakeupListener | None) -> None:
        self._bell = bell
        self._spin_s = SPIN_S if _usable_cores() > 1 else 0.0

    def awake_until(self) -> int:
        """Until when a wait that begins now or later will look before it sleeps; monotonic clock, ns."""
        return monotonic_ns() + int(self._spin_s * 1e9)

    def wait(self, done: Callable[[], bool]) -> None:
        """Waits until done() is true."""
        if done() or self._spin(done):
            return
        if self._bell is None:
            _backoff(done, math.inf)
            return
        while not self._sleep(self._bell, done):
            pass

    def _spin(self, done: Callable[[], bool]) -> bool:
        end = monotonic() + self._spin_s
        while monotonic() < end:
            _yield_core()
            if done():
                return True
        return False

    def _sleep(self, bell: WakeupListener, done: Callable[[], bool]) -> bool:
        bell.empty()
        if done():
            return True
        if not bell.sleep(UNRUNG_S):
            return done()
        return done() or self._spin(done) or _backoff(done, RUNG_S)


def _backoff(done: Callable[[], bool], limit_s: float) -> bool:
    began = monotonic()
    while not done():
        waited_s = monotonic() - began
        if waited_s > limit_s:
            return False
        sleep(min(max(PAUSE_LEAST_S, waited_s * PAUSE_SHARE), PAUSE_MOST_S))
    return True


def _usable_cores() -> int:
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


_yield_core: Callable[[], object] = getattr(os, "sched_yield", lambda: sleep(0))

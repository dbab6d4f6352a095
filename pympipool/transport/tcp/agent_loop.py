"""The threads of the relay that serve agents: a few of them, each with many agents.

    connections to agents and to the master, deadlines ──> AgentLoop ──> AgentLink.serve()

Nothing that a link does waits, so one thread can serve many. The first agents have a thread each, because encryption of large
data takes time, and runs in parallel.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from pympipool._util.clocks import LONGEST_WAIT_S
from pympipool._util.platform import HAS_EPOLL

if TYPE_CHECKING:
    from typing import Any

    from pympipool.transport.tcp.agent_link import AgentLink

THREADS_MAX = 4
"""Most threads."""


class AgentLoop:
    """One thread, and the agents that it serves.

    Attributes:
        link_count: The number of agents.
    """

    def __init__(self) -> None:
        self.link_count = 0
        self._links: dict[int, AgentLink] = {}  # by the descriptors that are watched for them
        self._due_s: dict[AgentLink, float] = {}  # when they are to be served even if nothing happens
        self._woken: list[AgentLink] = []
        self._poll: Any = select.epoll() if HAS_EPOLL else select.poll()
        self._is_epoll = HAS_EPOLL
        self._wake_receiver, self._wake_sender = socket.socketpair()
        for end in (self._wake_receiver, self._wake_sender):
            end.setblocking(False)
        self._poll.register(self._wake_receiver.fileno(), select.POLLIN)

    # ---- from any thread ----

    def add(self, link: AgentLink) -> None:
        """Serve a link from now on, until it is closed."""
        self.wake(link)

    def wake(self, link: AgentLink) -> None:
        """Have a link served soon."""
        self._woken.append(link)
        with contextlib.suppress(BlockingIOError):  # it has been woken already
            self._wake_sender.send(b"\0")

    def watch(self, descriptor: int, link: AgentLink) -> None:
        """Have a link served when something can be read."""
        self._links[descriptor] = link
        try:
            self._poll.register(descriptor, select.POLLIN)
        except BaseException:
            del self._links[descriptor]
            raise

    def watch_writing(self, descriptor: int, *, is_on: bool) -> None:
        """Have its link served, or not, when something can be written."""
        self._poll.modify(descriptor, select.POLLIN | select.POLLOUT * is_on)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching, before the descriptor is closed. If it is not watched, do nothing."""
        if self._links.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # ---- the thread ----

    def start(self) -> None:
        """Start the thread, which never ends."""
        threading.Thread(target=self._run, name="pympipool_agents", daemon=True).start()

    def _run(self) -> NoReturn:
        try:
            while True:
                self.serve_round()
        except BaseException:  # a relay that serves no agents is worse than none
            try:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)

    def serve_round(self) -> None:
        """Wait until something can be done for links, and do it."""
        events: dict[AgentLink, set[int]] = {}
        for descriptor, _ in self._poll.poll(self._timeout()):
            link = self._links.get(descriptor)
            if link is not None:
                events.setdefault(link, set()).add(descriptor)
            elif descriptor == self._wake_receiver.fileno():
                self._wake_receiver.recv(4096)
        while self._woken:
            events.setdefault(self._woken.pop(), set())
        now = monotonic()
        for link in [link for link, due_s in self._due_s.items() if due_s <= now]:
            events.setdefault(link, set())
        for link, descriptors in events.items():
            self._serve_link(link, descriptors)

    def _serve_link(self, link: AgentLink, descriptors: set[int]) -> None:
        due_s = link.serve(descriptors)
        if due_s < inf:
            self._due_s[link] = due_s
        else:
            self._due_s.pop(link, None)

    def close(self) -> None:
        """Close the descriptors of a loop whose thread was not started."""
        if self._is_epoll:
            self._poll.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _timeout(self) -> float | None:
        """Return the longest wait, in the unit of the poll object."""
        if not self._due_s:
            return None
        wait_s = min(max(0.0, min(self._due_s.values()) - monotonic()), LONGEST_WAIT_S)
        return wait_s if self._is_epoll else wait_s * 1000 + 1


class AgentLoops:
    """All such threads of a relay."""

    def __init__(self) -> None:
        self._loops: list[AgentLoop] = []

    def choose(self) -> AgentLoop:
        """Return the one for another agent, which counts from now on."""
        if len(self._loops) < THREADS_MAX and all(loop.link_count for loop in self._loops):
            self._start_another()
        loop = min(self._loops, key=lambda loop: loop.link_count)
        loop.link_count += 1
        return loop

    def _start_another(self) -> None:
        loop = AgentLoop()
        try:
            loop.start()
        except RuntimeError:  # the system has no more threads; those that run can serve it too
            loop.close()
            if not self._loops:
                raise
        else:
            self._loops.append(loop)


def tell_fault(error: Exception) -> None:
    """Print an error unless it is a usual end: of a connection, or of a worker or host that sends what ours cannot."""
    if not isinstance(error, (OSError, EOFError, ValueError)):
        sys.excepthook(type(error), error, error.__traceback__)

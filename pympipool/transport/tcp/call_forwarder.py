"""The thread of the relay that waits for calls to all workers behind agents, and has them forwarded."""

from __future__ import annotations

import errno
import os
import sys
import threading
from time import sleep
from typing import TYPE_CHECKING, NoReturn

from pympipool._core.link_group import FOUND_MAX, LinkGroup
from pympipool._core.relayed_channel import by_link
from pympipool.transport.tcp.polled_prefetch import PolledPrefetchQueue

if TYPE_CHECKING:
    from pympipool.transport.tcp.agent_link import AgentLink

MANY = 8
"""Workers with calls from which on the next calls are collected for a while: then the master wakes this thread less often."""

COLLECT_S = 0.0002
"""Seconds for that."""

_FOREVER_S = 1e9


class CallForwarder:
    """Waits for calls. Its thread begins with the first worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._group: LinkGroup[PolledPrefetchQueue] | None = None

    def open(self, link: int, doorbells: int) -> PolledPrefetchQueue:
        """Return the queue of a worker whose link has this descriptor. From now on its calls are waited for.

        Args:
            link, doorbells: They are closed, also after a failure.

        Raises:
            OSError: The descriptors are not those of a link and of the master's doorbells, or the thread cannot be started.
        """
        try:
            with self._lock:
                if self._group is None:
                    self._group = self._start(doorbells)
                else:
                    os.close(doorbells)
        except BaseException:
            os.close(link)
            raise
        return self._group.add(link, PolledPrefetchQueue)

    def _start(self, doorbells: int) -> LinkGroup[PolledPrefetchQueue]:
        group: LinkGroup[PolledPrefetchQueue] = LinkGroup(doorbells)
        try:
            threading.Thread(target=self._run, args=(group,), name="pympipool_calls", daemon=True).start()
        except RuntimeError as error:
            raise OSError(
                errno.EAGAIN, "the relay has no thread for calls: raise the limit of processes (ulimit -u)"
            ) from error
        return group

    def remove(self, queue: PolledPrefetchQueue) -> None:
        """Wait for the calls of a worker no more. A second time, do nothing."""
        if self._group is not None:
            self._group.remove(queue)

    def _run(self, group: LinkGroup[PolledPrefetchQueue]) -> NoReturn:
        try:
            self._forward(group)
        except BaseException:  # a relay that forwards no calls is worse than none
            try:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)

    def _forward(self, group: LinkGroup[PolledPrefetchQueue]) -> NoReturn:
        while True:
            found = group.wait(_FOREVER_S)
            links: dict[AgentLink, list[PolledPrefetchQueue]] = by_link(found)
            for link, queues in links.items():
                link.forward_calls(queues)
            if MANY <= len(found) < FOUND_MAX:  # otherwise more wait already
                sleep(COLLECT_S)

"""The thread of the relay that waits for calls to all workers behind agents, and has them forwarded."""

from __future__ import annotations

import os
import threading
from time import sleep
from typing import TYPE_CHECKING, NoReturn

from pympipool._core.link_group import LinkGroup

if TYPE_CHECKING:
    from pympipool._core.channel import Channel
    from pympipool.transport.tcp.agent_link import AgentLink
    from pympipool.transport.tcp.agent_rank import AgentRank

MANY = 8
"""Workers with calls from which on the next calls are collected for a while: then the master wakes this thread less often."""

COLLECT_S = 0.0002
"""Seconds for that."""

_FOREVER_S = 1e9


class CallForwarder:
    """Waits for calls. Its thread begins with the first worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._group: LinkGroup[AgentRank] | None = None

    def open(self, link: int, doorbells: int, rank: AgentRank) -> Channel:
        """Return the channel of a worker whose link has this descriptor. From now on its calls are waited for.

        Raises:
            OSError: The descriptors are not those of a link and of the master's doorbells.
        """
        with self._lock:
            if self._group is None:
                self._group = LinkGroup(doorbells)
                threading.Thread(target=self._run, args=(self._group,), name="pympipool_calls", daemon=True).start()
            else:
                os.close(doorbells)
        return self._group.add(link, rank)

    def remove(self, rank: AgentRank) -> None:
        """Wait for the calls of a worker no more. A second time, or for one that has no channel, do nothing."""
        if self._group is not None:
            self._group.remove(rank)

    def _run(self, group: LinkGroup[AgentRank]) -> NoReturn:
        try:
            self._forward(group)
        finally:  # a relay that forwards no calls is worse than none
            os._exit(1)

    def _forward(self, group: LinkGroup[AgentRank]) -> NoReturn:
        while True:
            found = group.wait(_FOREVER_S)
            of_links: dict[AgentLink, list[AgentRank]] = {}
            for rank in found:
                of_links.setdefault(rank.link, []).append(rank)
            for link, ranks in of_links.items():
                link.forward_calls(ranks)
            if len(found) >= MANY:
                sleep(COLLECT_S)

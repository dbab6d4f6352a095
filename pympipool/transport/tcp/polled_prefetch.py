"""The queue between the ring of a worker and the agent behind which it is: as `prefetch.py`, but it never waits.

One thread serves all workers of an agent, so none of them may hold it up. What does not fit on a ring is kept, and sent when the
master has made room. Small calls and answers do not come here: `_core/relayed_channel.pyx`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool._core.relayed_channel import RelayedChannel
from pympipool.transport.tcp.stream import CONTROL, NO_MORE_CALLS, RECALLED, RESUME

if TYPE_CHECKING:
    from pympipool.transport.tcp.agent_rank import AgentRank
    from pympipool.transport.tcp.stream import Message


class PolledPrefetchQueue(RelayedChannel):
    """Forwards calls to one worker and results to the master.

    Attributes:
        rank: The worker.
    """

    rank: AgentRank

    def put(self, message: Message) -> None:
        """Send a message to the worker."""
        self.rank.put(*message)

    def take_message(self, message: Message) -> None:
        """Forward a message of the worker.

        Raises:
            ValueError: It is invalid.
        """
        kind, id_, tag, parts = message
        if kind == RECALLED:
            self._on_recalled(id_)
        elif kind >= CONTROL:
            if kind == NO_MORE_CALLS:
                self.prefetch.takes_no_more = True
                self.return_held()
                self.return_all_but_first(id_)
            self.rank.forward_frame(parts[0])
        else:
            self.prefetch.ended(id_, tag)
            self.send_to_master(message)

    def end(self) -> None:
        """After the worker's end: return the calls that it cannot have begun."""
        self.return_held()
        self.return_all_but_first()

    def recall(self) -> None:
        """Ask the worker for the calls behind the running one."""
        self.return_held()
        if self.prefetch.count > 1:
            self.prefetch.recall_requested = True
            self.rank.request_recall()
        else:
            self.prefetch.stop()

    def _on_recalled(self, running: int) -> None:
        """Return the calls behind the running one to the master: the worker has not begun them and never will."""
        self.prefetch.check_running(running)
        self.return_held()  # the last call first, so that the calls keep their order
        self.return_all_but_first()
        self.prefetch.stop()
        self.rank.put(RESUME, 0, 0, [b""])

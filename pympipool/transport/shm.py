"""The link of one worker on this host: a segment with a ring for calls, and a ring for the results of each rank.

    master: ShmLink(doorbells, ranks)        creates the segment
              .descriptors(rank)             travel with the setup frame to each rank that uses the link
              .handed_over()                 from here on only the mappings keep the memory alive
    worker: open_channel(descriptors, rank)  maps the segments

That a rank could map the segment proves that it runs on the same host. When both sides have ended, in whatever way,
the memory is gone: it never had a name. If one of a worker's ranks runs on another host, the link is that of rank 0 alone.
"""

from __future__ import annotations

from pympipool._core import ring
from pympipool._core.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ShmLink:
    """The master's side of a link.

    Args:
        doorbells: The segment with the master's doorbells, the same one for all workers.
        ranks: The number of ranks that use the link: the first ones of the worker.
        capacity: Bytes of each ring, a power of two. Default: as many as are fastest.

    Attributes:
        capacity: Bytes of each ring.
        segment: The memory of the link, for the dispatcher; it lives as long as there is a reference to it.

    Raises:
        OSError: There is not enough memory for the segment (ENOSPC, ENOMEM), or no free descriptor (EMFILE).
    """

    def __init__(self, doorbells: ring.Segment, ranks: int = 1, capacity: int | None = None) -> None:
        self.capacity = capacity or ring.default_capacity(ranks)
        self.segment = ring.link_segment(self.capacity, ranks)
        self._doorbells = doorbells
        self._ranks = ranks

    def descriptors(self, rank: int = 0) -> tuple[int, ...]:
        """Return the descriptors that a rank needs: the link's segment, the master's doorbells. None without the link."""
        return (self.segment.fileno(), self._doorbells.fileno()) if rank < self._ranks else ()

    def handed_over(self) -> None:
        """Close the descriptor of the link: no other process needs it. That of the doorbells serves further workers."""
        self.segment.close_descriptor()


def open_channel(descriptors: Sequence[int], rank: int = 0) -> Channel:
    """Return a rank's side of the link behind two descriptors. The descriptors are closed.

    Raises:
        ValueError: There are not exactly two descriptors.
        OSError: The descriptors are not those of a link of this version of pympipool.
    """
    if len(descriptors) != 2:
        raise ValueError(f"rank {rank} was given {len(descriptors)} descriptors; it needs two: link, doorbells")
    link, doorbells = (ring.Segment.attach(descriptor) for descriptor in descriptors)
    link.close_descriptor()
    doorbells.close_descriptor()
    return Channel(link, doorbells, rank)

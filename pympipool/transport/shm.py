"""The link of one worker on this host: a segment with a ring for calls and a ring for results.

    master: ShmLink(doorbells)         makes the segment
              .descriptors()           go with the setup frame to rank 0
              .handed_over()           from here on only the mappings keep the memory alive
    worker: open_channel(descriptors)  maps what it was given

That rank 0 could map the segment proves that it runs on the same host. When both sides have ended, in whatever way,
the memory is gone: it never had a name.
"""

from __future__ import annotations

from pympipool._core import ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ShmLink:
    """The master's side of a link.

    Args:
        doorbells: The segment with the master's doorbells, the same one for all workers.
        capacity: Bytes of each ring, a power of two.

    Attributes:
        segment: The memory of the link, for the dispatcher; it lives as long as somebody refers to it.

    Raises:
        OSError: There is not enough memory for the segment (ENOSPC, ENOMEM), or no descriptor (EMFILE).
    """

    def __init__(self, doorbells: ring.Segment, capacity: int = ring.RING_CAPACITY) -> None:
        self.segment = ring.link_segment(capacity)
        self._doorbells = doorbells

    def descriptors(self) -> tuple[int, int]:
        """What rank 0 must be sent: the link's segment, the master's doorbells."""
        return self.segment.fileno(), self._doorbells.fileno()

    def handed_over(self) -> None:
        """Closes the descriptor of the link, for nobody else must be given it; the doorbells' serves more workers."""
        self.segment.close_descriptor()


def open_channel(descriptors: Sequence[int]) -> ring.Channel:
    """The worker's side of the link behind two descriptors; takes them over.

    Raises:
        ValueError: These are not two.
        OSError: What lies behind them is no link of this version of pympipool.
    """
    if len(descriptors) != 2:
        raise ValueError(f"rank 0 was given {len(descriptors)} descriptors; it needs two: link, doorbells")
    link, doorbells = (ring.Segment.attach(descriptor) for descriptor in descriptors)
    link.close_descriptor()
    doorbells.close_descriptor()
    return ring.Channel(link, doorbells)

"""The link of one worker on this host: a segment with a ring for calls and a ring for results.

    master: ShmLink()                  makes the segment
              .fileno()                goes with the setup frame to rank 0, and the doorbells' with it
              .handed_over()           from here on only the mappings keep the memory alive
    worker: open_channel(descriptors)  maps what it was given

That rank 0 could map the segment proves that it runs on the same host. When both sides have ended, in whatever way,
the memory is gone: it never had a name.
"""

from __future__ import annotations

from collections.abc import Sequence

from pympipool import _ring


class ShmLink:
    """The master's side of a link.

    Args:
        capacity: Bytes of each ring, a power of two.

    Attributes:
        segment: The memory of the link, for the dispatcher; its mapping lives as long as this object.

    Raises:
        OSError: There is not enough memory for the segment (ENOSPC, ENOMEM), or no descriptor (EMFILE).
    """

    def __init__(self, capacity: int = _ring.RING_CAPACITY) -> None:
        self.segment = _ring.link_segment(capacity)

    def fileno(self) -> int:
        """The descriptor to send to rank 0; -1 once it was handed over."""
        return self.segment.fileno()

    def handed_over(self) -> None:
        """Closes the descriptor, for nobody else must be given it. The memory stays."""
        self.segment.close_descriptor()

    def close(self) -> None:
        """Ends the master's part in it: the descriptor now, the memory with the last who uses the segment."""
        self.segment.close_descriptor()


def open_channel(descriptors: Sequence[int]) -> _ring.Channel:
    """The worker's side of the link behind two descriptors; takes them over.

    Raises:
        ValueError: These are not two.
        OSError: What lies behind them is no link of this version of pympipool.
    """
    if len(descriptors) != 2:
        raise ValueError(f"rank 0 was given {len(descriptors)} descriptors; it needs two: link, doorbells")
    link, doorbells = (_ring.Segment.attach(descriptor) for descriptor in descriptors)
    link.close_descriptor()
    doorbells.close_descriptor()
    return _ring.Channel(link, doorbells)

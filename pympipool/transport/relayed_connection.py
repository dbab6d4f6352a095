"""The control connection of a worker behind an agent: frames on the stream of its host, in place of a socket of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool.transport.frames import Frame, decode_body, encode_body
from pympipool.transport.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pympipool._core.ring import Segment


class RelayedConnection:
    """The master's end, as of `control_server.Connection`. The relay has proved the key, and says which worker it is.

    Args:
        worker: Number of the worker.
        put: Sends the body of a frame of this worker with descriptors; b"" hangs up. It is the same for all workers of a host.

    Attributes:
        inbox: The bodies of frames that have arrived.
        is_closed: True once this side has hung up.
    """

    rank = 0
    is_relayed = True

    def __init__(self, worker: int, put: Callable[[int, bytes, Sequence[int]], None]) -> None:
        self.worker = worker
        self.inbox = Inbox()
        self.is_closed = False
        self._put = put

    def post(self, frame: Frame, descriptors: Sequence[int | Segment] = ()) -> None:
        """Send a frame soon. Numbers of descriptors only: segments are for ranks of this host.

        Raises:
            ValueError: The frame is too large.
        """
        self._put(self.worker, encode_body(frame), [one for one in descriptors if isinstance(one, int)])

    def flush(self, patience_s: float) -> int:
        """Return 0: the stream of the host sends what was posted."""
        return 0

    def receive_available(self) -> list[Frame]:
        """Return the frames that have arrived.

        Raises:
            EOFError: The relay has hung up, and no frame is left.
            ProtocolError: It sent something that is no frame.
        """
        frames: list[Frame] = []
        while body := self.inbox.take():
            frames.append(decode_body(body))
        if body is not None and not frames:
            raise EOFError(f"worker {self.worker} hung up")
        return frames

    def take_descriptor(self) -> int:
        """Return -1: no descriptor comes from another host."""
        return -1

    def close(self) -> None:
        """Hang up, which ends the worker."""
        if not self.is_closed:
            self.is_closed = True
            self.inbox.close()
            self._put(self.worker, b"", ())

"""A pipe without a descriptor: what has arrived for one reader over a connection that many share.

    connection ── put(), end() ──> Inbox ── on_readable ──> event loop ── handler ── read() or take() ──> reader
               <── on_paused(True): so much waits that no more should come; on_paused(False): all is read

It is for one thread. The event loop watches it like a descriptor (`pool/event_loop.py`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WAITING_MAX_BYTES = 1 << 16
"""Bytes that may wait before the sender is asked to pause: those of a pipe."""


class Inbox:
    """What has arrived and was not read.

    Args:
        on_paused: Called with True if the sender should pause, and with False when it should go on.

    Attributes:
        on_readable: Called with this object when there is something to read; None: nothing waits for it.
    """

    # A remote worker has four of these, and most are empty nearly always.
    __slots__ = ("_has_ended", "_is_closed", "_is_paused", "_on_paused", "_pieces", "_size", "on_readable")

    def __init__(self, on_paused: Callable[[bool], None] | None = None) -> None:
        self.on_readable: Callable[[Inbox], None] | None = None
        self._on_paused = on_paused
        self._is_paused = False
        self._pieces: deque[bytes] | None = None  # until something arrives, and when all is read
        self._size = 0
        self._has_ended = False
        self._is_closed = False

    @property
    def inbox(self) -> Inbox:
        """This object: by this attribute an event loop tells what has no descriptor."""
        return self

    @property
    def is_readable(self) -> bool:
        """True if reading does not return None."""
        return not self._is_closed and (bool(self._pieces) or self._has_ended)

    # ---- for the connection ----

    def put(self, data: bytes) -> None:
        """Add what has arrived."""
        if self._is_closed or self._has_ended:
            return
        if self._pieces is None:
            self._pieces = deque()
        self._pieces.append(data)
        self._size += len(data)
        if self._size > WAITING_MAX_BYTES:
            self._pause(is_on=True)
        self._announce()

    def end(self) -> None:
        """Let the reader see the end after what has arrived."""
        self._has_ended = True
        self._announce()

    def _announce(self) -> None:
        if self.on_readable is not None and not self._is_closed:
            self.on_readable(self)

    def _pause(self, *, is_on: bool) -> None:
        if self._on_paused is not None and self._is_paused != is_on:
            self._is_paused = is_on
            self._on_paused(is_on)

    # ---- for the reader ----

    def take(self) -> bytes | None:
        """Return what one `put` has brought, b"" at the end; None: nothing for now."""
        if self._is_closed:
            return b""
        if not self._pieces:
            return b"" if self._has_ended else None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if not self._pieces:
            self._pieces = None
            self._pause(is_on=False)
        return piece

    def read(self, size: int = -1) -> bytes | None:
        """Return up to `size` bytes, b"" at the end; None: there are none for now. As of a raw pipe that does not block."""
        piece = self.take()
        if piece is not None and 0 <= size < len(piece):
            if self._pieces is None:
                self._pieces = deque()
            self._pieces.appendleft(piece[size:])
            self._size += len(piece) - size
            return piece[:size]
        return piece

    def close(self) -> None:
        """Drop what has arrived, and all that follows."""
        self._is_closed = True
        self._pieces = None
        self._size = 0
        self._pause(is_on=False)

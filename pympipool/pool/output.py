"""Forwards what a worker prints to the user's own streams, and keeps the last lines for error messages.

pipe ── read ──> decode ──> sys.stdout / sys.stderr of the master
                   └──────> last_lines (stderr only): quoted by `WorkerDied` and `WorkerStartError`
"""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, BinaryIO, TextIO

if TYPE_CHECKING:
    from collections import deque

READ_BYTES = 1 << 16
"""Bytes that one read takes from a pipe at most."""

DRAIN_READS = 1000
"""Reads from a pipe after its worker has exited, at most. Only a surviving child of the worker could print more."""


class Output:
    """Forwards one stream of a worker to the master's stream of that name, as it is at the time of each write.

    Args:
        pipe: The reading end of the worker's pipe, which does not block; None if the worker has none.
        name: "stdout" or "stderr".
        last_lines: Collects the last lines; None if they are not needed.
    """

    def __init__(self, pipe: BinaryIO | None, name: str, last_lines: deque[str] | None) -> None:
        self.pipe = pipe
        self.name = name
        self._last_lines = last_lines
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unfinished = ""  # the beginning of a line whose end has not arrived
        self._muted = False

    def forward(self) -> bool:
        """Forward what has arrived; return False when the pipe has ended."""
        data = self._read()
        if data:
            self._process(data)
        return data != b""

    def mute(self) -> None:
        """Forward what has arrived, and drop everything that arrives later."""
        self.forward()
        self._muted = True

    def drain(self) -> None:
        """Forward what is left and close the pipe."""
        for _ in range(DRAIN_READS):
            data = self._read()
            if not data:
                break
            self._process(data)
        if self._last_lines is not None and self._unfinished.strip():
            self._last_lines.append(self._unfinished)
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def _read(self) -> bytes | None:
        """Return what has arrived: None if nothing has yet, b"" if the pipe has ended."""
        if self.pipe is None:
            return b""
        try:
            return self.pipe.read(READ_BYTES)
        except (OSError, ValueError):
            return b""

    def _process(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        self._write(text)
        if self._last_lines is not None:
            *whole, self._unfinished = (self._unfinished + text).split("\n")
            self._last_lines.extend(line for line in whole if line.strip())

    def _write(self, text: str) -> None:
        stream: TextIO | None = getattr(sys, self.name, None)
        if stream is None or self._muted:
            return
        try:
            stream.write(text)
            stream.flush()
        except Exception:
            pass  # the user's own stream, of any type, is closed or full: the output is lost, the call is not

"""How the calls of one thread of the master ended, told to the guardian as lines of JSON.

A line is written in one step and is shorter than what a pipe takes at once, so lines of several threads do not mix,
and no lock is needed that an interrupt could leave closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from typing import Any

from chaos.board import Board
from chaos.calls import Call

TELL_S = 1.0
"""Interval at which counters are told."""

CALL_S = 90.0
"""Seconds that a call may take. One that takes longer counts as a hang."""


class Tally:
    """The counters of one thread.

    Args:
        thread: A name in `board.THREADS`.
        board: Gets the progress of the thread.
        report: Descriptor of the pipe to the guardian.
    """

    def __init__(self, thread: str, board: Board, report: int) -> None:
        self.thread = thread
        self.board = board
        self.counts: Counter[str] = Counter()
        self._report = report
        self._told_s = 0.0

    def count(self, what: str, number: int = 1) -> None:
        """Count events, and note that the thread makes progress."""
        self.board.step(self.thread)
        with contextlib.suppress(MemoryError):  # one event more or less
            self.counts[what] += number
        if time.monotonic() > self._told_s + TELL_S:
            self.tell()

    def tell(self) -> None:
        """Tell the guardian the counters."""
        self._told_s = time.monotonic()
        self._write(tally=dict(self.counts))

    def complain(self, text: str) -> None:
        """Tell the guardian that a guarantee was not kept."""
        self._write(complaint=text[:1500])

    def hang(self, text: str) -> None:
        """Tell the guardian that something hangs, and wait for the end: the guardian shows the stacks and kills all."""
        self._write(hang=text[:1500])
        time.sleep(1000)

    def check(self, call: Call) -> None:
        """Wait for a call, and count how it ended."""
        ended, complaint = call.check(CALL_S, self.board.was_short_since)
        if ended == "HANG":
            self.hang(complaint or "")
        if complaint:
            self.complain(complaint)
        self.count(ended)

    def _write(self, **message: Any) -> None:
        while True:
            try:
                cut = {name: _short(value) for name, value in message.items()}
                line = json.dumps({"thread": self.thread, **cut}).encode() + b"\n"
                os.write(self._report, line)  # a pipe takes up to 4096 bytes in one piece
                return
            except MemoryError:
                time.sleep(0.1)  # until a shortage that another process makes has passed


def _short(value: Any) -> Any:
    return value.encode("ascii", "replace")[:1500].decode() if isinstance(value, str) else value

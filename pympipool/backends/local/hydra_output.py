"""Takes the report that MPICH's mpiexec prints when a rank ends badly out of the output of the ranks.

    ... output of the ranks ...
    ===================================================================================
    =   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
    =   PID 4711 RUNNING AT localhost
    =   EXIT CODE: 9
    ...
    [mpiexec@host] Exit codes: [localhost] 0,768,9
    YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
    ...

An exception tells the user what happened to the call, and these lines in a terminal or notebook would only alarm the
user. But the report holds what the exit code of mpiexec does not tell: whether 9 is an exit code or a signal, and of
which rank. mpiexec kills all ranks when one has ended, and may return the code of a rank that it has killed. With
-print-all-exitcodes it writes the codes of all ranks as waitpid returns them, after good ends too.
"""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, BinaryIO

_BEGIN = b"=" * 83 + b"\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n"
_CODES = f"[mpiexec@{socket.gethostname()}] Exit codes: ".encode()
_SIGNAL = re.compile(rb"EXIT STRING: .*\(signal (\d+)\)")

_CODES_OF_RANKS = re.compile(re.escape(_CODES) + rb"\[[^\]\n]*\] ([\d,]+)")

_REPORT_BYTES_MAX = 1 << 20
"""Bytes of a report that are kept. A rank that survives for a moment may print behind the report."""

_READS_MAX = 32
"""Reads in a row that may give nothing but parts of a report, before others get their turn."""

_HOLD_BACK_MIN = {_BEGIN: 20, _CODES: 4}
"""The two ways in which a report may begin. Output that ends with the first bytes of one is held back until more arrives,
if it ends with at least this many of them. Fewer are never a report, as mpiexec writes 50 bytes at once."""


class JobOutput(io.RawIOBase):
    """The stdout of mpiexec without its report; read in the same way as the pipe.

    Args:
        pipe: The stdout of mpiexec, which does not block.
        begins: The ways in which a report may begin, and how many bytes of each are held back at least.
    """

    def __init__(self, pipe: BinaryIO, begins: Mapping[bytes, int] = _HOLD_BACK_MIN) -> None:
        super().__init__()
        self._pipe = pipe
        self._begins = begins
        self._held_back = b""
        self._report: bytearray | None = None

    @property
    def signal(self) -> int | None:
        """The signal that ended a rank; None if mpiexec has not reported one."""
        found = _SIGNAL.search(self._report or b"")
        return int(found[1]) if found else None

    @property
    def exit_codes(self) -> list[int]:
        """The exit code of each rank (-N: ended by signal N); empty if mpiexec has not reported them.

        0 also stands for a rank whose end mpiexec has not waited for.
        """
        found = _CODES_OF_RANKS.search(self._report or b"")
        return [os.waitstatus_to_exitcode(int(status)) for status in found[1].split(b",")] if found else []

    def fileno(self) -> int:
        """Return the pipe's descriptor, for selectors."""
        return self._pipe.fileno()

    @property
    def inbox(self) -> Any:
        """What the event loop watches, if the pipe has no descriptor; else None."""
        return getattr(self._pipe, "inbox", None)

    def read(self, size: int = -1) -> bytes | None:
        """Return what the ranks have printed; None if there is no data yet, empty at the end."""
        for _ in range(_READS_MAX):
            data = self._read(size)
            if data is None:
                return None
            if not data:
                break
            printed = self._printed(data)
            if printed:  # otherwise all data is held back or part of the report: read on, as more may be there
                return printed
        else:
            return None
        rest, self._held_back = self._held_back, b""
        return rest

    def _read(self, size: int) -> bytes | None:
        return self._pipe.read(size)

    def _printed(self, data: bytes) -> bytes:
        if self._report is None:
            return self._split_off_report(self._held_back + data)
        if len(self._report) < _REPORT_BYTES_MAX:
            self._report += data
        return b""

    def _split_off_report(self, data: bytes) -> bytes:
        """Return data without the report, and without what may be the beginning of one, which is held back."""
        # Without a match find returns -1, which the modulo turns into the end of data.
        begin, mark = min((data.find(mark) % (len(data) + 1), mark) for mark in self._begins)
        if begin < len(data):
            self._held_back, self._report = b"", bytearray(data[begin:])
            return data[:begin].removesuffix(b"\n") if mark is _BEGIN else data[:begin]  # an empty line precedes it
        held = max(_overlap(data, mark, least) for mark, least in self._begins.items())
        split = len(data) - held
        self._held_back = data[split:]
        return data[:split]

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()
        super().close()


def _overlap(data: bytes, mark: bytes, least: int) -> int:
    """Return the number of bytes at the end of data that are the beginning of mark; 0 if there are fewer than least."""
    return next((n for n in range(len(mark) - 1, least - 1, -1) if data.endswith(mark[:n])), 0)

"""What MPICH's mpiexec prints when a rank ends badly, taken out of what the ranks print.

    ... output of the ranks ...
    ===================================================================================
    =   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
    =   PID 4711 RUNNING AT localhost
    =   EXIT CODE: 9
    ...
    [mpiexec@host] Exit codes: [localhost] 0,768,9
    YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
    ...

The user learns from an exception what has happened to his call; these lines in his terminal or notebook would only alarm
him. For us they hold what the exit code of mpiexec does not tell: whether 9 is an exit code or a signal, and of which rank.
mpiexec kills all ranks when one has ended, and may return the code of one that it has killed. The codes of all ranks, as
waitpid tells them, it writes with -print-all-exitcodes, after good ends too.
"""

from __future__ import annotations

import io
import os
import re
import socket
from typing import BinaryIO

_BEGIN = b"=" * 83 + b"\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n"
_CODES = f"[mpiexec@{socket.gethostname()}] Exit codes: ".encode()
_SIGNAL = re.compile(rb"EXIT STRING: .*\(signal (\d+)\)")

_CODES_OF_RANKS = re.compile(re.escape(_CODES) + rb"\[[^\]\n]*\] ([\d,]+)")

_HELD_LEAST = {_BEGIN: 20, _CODES: 4}
"""What ends like the beginning of the last words is held back, but not for a few characters: mpiexec writes 50 at once."""


class JobOutput(io.RawIOBase):
    """The stdout of mpiexec without its last words; to be read as the pipe itself.

    Args:
        pipe: Does not block.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        super().__init__()
        self._pipe = pipe
        self._held = b""
        self._last_words: bytes | None = None

    @property
    def signal(self) -> int | None:
        """The signal that ended a rank, as mpiexec has told; None as long as it has not."""
        told = _SIGNAL.search(self._last_words or b"")
        return int(told[1]) if told else None

    @property
    def exit_codes(self) -> list[int]:
        """Of each rank (-N: ended by signal N; 0 also where mpiexec has not waited for its end); empty when not told."""
        told = _CODES_OF_RANKS.search(self._last_words or b"")
        return [os.waitstatus_to_exitcode(int(status)) for status in told[1].split(b",")] if told else []

    def fileno(self) -> int:
        """For selectors."""
        return self._pipe.fileno()

    def read(self, size: int = -1) -> bytes | None:
        """What the ranks have printed; None when there is nothing yet, empty at the end."""
        while data := self._read(size):
            printed = self._printed(data)
            if printed:  # else all is held back, or last words: what follows decides, and it may be there
                return printed
        if data is None:
            return None
        rest, self._held = self._held, b""
        return rest

    def _read(self, size: int) -> bytes | None:
        return self._pipe.read(size)

    def _printed(self, data: bytes) -> bytes:
        if self._last_words is None:
            return self._without_last_words(self._held + data)
        self._last_words += data
        return b""

    def _without_last_words(self, data: bytes) -> bytes:
        """Splits off the last words, or what may be the beginning of them."""
        begin, words = min((data.find(words) % (len(data) + 1), words) for words in _HELD_LEAST)  # -1: at the end
        if begin < len(data):
            self._held, self._last_words = b"", data[begin:]
            return data[:begin].removesuffix(b"\n") if words is _BEGIN else data[:begin]  # an empty line comes before
        held = max(_overlap(data, words, least) for words, least in _HELD_LEAST.items())
        split = len(data) - held
        self._held = data[split:]
        return data[:split]

    def close(self) -> None:
        """Closes the pipe."""
        self._pipe.close()
        super().close()


def _overlap(data: bytes, words: bytes, least: int) -> int:
    """How many bytes at the end of data are the beginning of words; 0 if they are less than least."""
    return next((n for n in range(len(words) - 1, least - 1, -1) if data.endswith(words[:n])), 0)

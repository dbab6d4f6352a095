"""The pipes of workers behind one agent: what they print, and how they end, on its way from the agent to the master.

    agent ── DATA: worker, pipe, bytes ──> AgentPipes ──> pipes to the master
          <── PAUSE, RESUME: worker, pipe ──

A pipe that the master does not read is paused.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from pympipool.transport.tcp.agent_stream import PAUSE, RESUME, STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BUFFER_BYTES = 1 << 16
"""Bytes that wait for the master to read a pipe, before the agent is asked to pause it."""


class AgentPipes:
    """The writing ends of the pipes of all workers of an agent. For one thread at a time.

    Args:
        poll: Tells of a full pipe when it takes more.
        tell_agent: Called with `PAUSE` or `RESUME`, the pipe's number, and the worker's.
    """

    def __init__(self, poll: select.poll, tell_agent: Callable[[int, int, int], None]) -> None:
        self._poll = poll
        self._tell_agent = tell_agent
        self._pipes: dict[tuple[int, int], _Pipe] = {}  # by worker and number
        self._full: dict[int, _Pipe] = {}  # by descriptor

    def add(self, worker: int, descriptors: Sequence[int]) -> None:
        """Take over the pipes of a new worker."""
        for number, descriptor in enumerate(descriptors):
            self._pipes[worker, number] = _Pipe(worker, number, descriptor)

    def write(self, worker: int, number: int, data: bytes | bytearray) -> None:
        """Write to a pipe, or close it if there are no data, as soon as the master has read what was written before."""
        pipe = self._pipes.get((worker, number))
        if pipe is None:
            return
        pipe.waiting.append(data)
        self._flush(pipe)
        if number != STATUS and pipe.size > BUFFER_BYTES and not pipe.is_paused:
            pipe.is_paused = True
            self._tell_agent(PAUSE, number, worker)

    def on_writable(self, descriptor: int) -> bool:
        """Write more to a pipe that was full; return False if it is none of these."""
        pipe = self._full.get(descriptor)
        if pipe is not None:
            self._flush(pipe)
        return pipe is not None

    def _output_waits(self, worker: int) -> bool:
        outputs = (self._pipes.get((worker, number)) for number in range(STATUS))
        return any(pipe is not None and pipe.waiting for pipe in outputs)

    def _flush(self, pipe: _Pipe) -> None:
        """Write what waits for a pipe, as much as it takes."""
        if pipe.number == STATUS and self._output_waits(pipe.worker):
            return  # the master reads the output to its end when the status says that the worker has ended
        is_open = pipe.flush()
        is_watched = pipe.descriptor in self._full
        if pipe.waiting and not is_watched:
            self._full[pipe.descriptor] = pipe
            self._poll.register(pipe.descriptor, select.POLLOUT)
        elif is_watched and not pipe.waiting:
            del self._full[pipe.descriptor]
            self._poll.unregister(pipe.descriptor)
        if pipe.is_paused and not pipe.waiting:
            pipe.is_paused = False
            self._tell_agent(RESUME, pipe.number, pipe.worker)
        if not is_open:
            del self._pipes[pipe.worker, pipe.number]
            pipe.close()
        status = self._pipes.get((pipe.worker, STATUS))
        if status is not None and status is not pipe and status.waiting and not self._output_waits(pipe.worker):
            self._flush(status)

    def close(self) -> None:
        """Close all pipes: the master takes the workers for lost."""
        for pipe in self._pipes.values():
            pipe.close()
        self._pipes.clear()


class _Pipe:
    """The writing end of a pipe to the master, and what waits for it. b"" is the end."""

    def __init__(self, worker: int, number: int, descriptor: int) -> None:
        self.worker, self.number, self.descriptor = worker, number, descriptor
        self.waiting: deque[bytes | bytearray] = deque()
        self.is_paused = False
        os.set_blocking(descriptor, False)

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(map(len, self.waiting))

    def flush(self) -> bool:
        """Write as much as the pipe takes; return False at its end."""
        try:
            while self.waiting:
                data = self.waiting[0]
                if not data:
                    self.waiting.clear()
                    return False
                written = os.write(self.descriptor, data)
                if written < len(data):
                    self.waiting[0] = data[written:]
                else:
                    self.waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the master has given the worker up
            self.waiting.clear()
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

"""A worker as its agent sees it: the agent's ends of its pipes and connections, and its devices until it has ended."""

from __future__ import annotations

import contextlib
import os
import socket

from pympipool.transport import host_stream
from pympipool.transport.fork_requests import RequestSender
from pympipool.transport.frames import RUNNING, STATUS
from pympipool.transport.host_stream import MESSAGES
from pympipool.transport.tcp.agent_stream import SLICE_BYTES

UNREAD_MAX_BYTES = 1 << 18
"""Bytes of messages that a worker has not read, before the relay is asked to send no more for now."""


class AgentWorker:
    """A worker that the forkserver of an agent forks.

    Args:
        number: The worker's number.
        devices: Its devices, until it has ended.

    Attributes:
        sources: The descriptors from which the worker's streams are read, by stream.
        is_paused: The relay was asked to send no more messages.
    """

    def __init__(self, number: int, devices: list[str]) -> None:
        self.number = number
        self.devices = devices
        self.sources: dict[int, int] = {}
        self.is_paused = False
        self._messages: socket.socket | None = None
        self._recalls: socket.socket | None = None
        self._unread = bytearray()  # messages for which the worker has no room
        self._pid = 0  # while it runs, and the forkserver has told it
        self._signal = 0  # that is to be sent when the pid is known
        self._has_ended = False

    def request(self, forkserver: RequestSender, template: bytes) -> None:
        """Have the worker forked.

        Args:
            forkserver: Sends the request.
            template: What the worker has in common with others.

        Raises:
            OSError: There are not enough descriptors, or the forkserver is gone.
        """
        theirs: list[int] = []
        try:
            for stream in (host_stream.STDOUT, host_stream.STDERR, host_stream.STATUS):
                self.sources[stream], writer = os.pipe()
                theirs.append(writer)
            for name in ("_messages", "_recalls"):
                ours, other = socket.socketpair()
                theirs.append(other.detach())
                setattr(self, name, ours)
                ours.setblocking(False)
            forkserver.send(template, self.number, theirs)
        except BaseException:
            for descriptor in self.sources.values():
                os.close(descriptor)
            self.sources.clear()
            self.hang_up()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in self.sources.values():
            os.set_blocking(descriptor, False)
        assert self._messages is not None
        self.sources[MESSAGES] = self._messages.fileno()

    # ---- from the worker ----

    def read(self, stream: int) -> bytes | None:
        """Return what the worker has written to a stream, b"" at its end; None: nothing for now."""
        try:
            return os.read(self.sources[stream], SLICE_BYTES)
        except (BlockingIOError, KeyError):
            return None
        except ConnectionResetError:  # it has ended without reading all
            return b""

    def close_source(self, stream: int) -> None:
        """Close a stream that has ended."""
        descriptor = self.sources.pop(stream)
        if stream == MESSAGES:
            self.hang_up()
        else:
            os.close(descriptor)

    def take_status(self, records: bytes) -> bool:
        """Take records of the status pipe; return True if the worker has ended."""
        for pid, exit_code in STATUS.iter_unpack(records[: len(records) // STATUS.size * STATUS.size]):
            self._has_ended = exit_code != RUNNING
            self._pid = 0 if self._has_ended else pid
            if self._pid and self._signal:
                self.send_signal(self._signal)
        if self._has_ended or not records:
            self.devices = []
        return self._has_ended

    # ---- to the worker ----

    def send(self, data: bytes | bytearray) -> int:
        """Send messages to the worker, as far as it has room; return the number of bytes that are left for later."""
        if self._messages is None:
            return 0
        if self._unread:
            self._unread += data
            data = self._unread
        sent_bytes = 0
        try:
            while sent_bytes < len(data):
                sent_bytes += self._messages.send(memoryview(data)[sent_bytes:] if sent_bytes else data)
        except BlockingIOError:
            pass
        except OSError:  # it has ended, and the end of its stream tells it
            sent_bytes = len(data)
        if data is self._unread:
            del self._unread[:sent_bytes]
        elif sent_bytes < len(data):
            self._unread += memoryview(data)[sent_bytes:]
        return len(self._unread)

    def request_recall(self, data: bytes | bytearray) -> None:
        """Ask the worker for calls that it has not begun."""
        if self._recalls is not None:
            with contextlib.suppress(OSError):  # earlier requests are still unread: one more adds nothing
                self._recalls.send(data)

    def send_signal(self, number: int) -> None:
        """Signal the worker and its process group, as soon as it is there."""
        self._signal = number
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, number)  # the process too: right after the fork it does not lead a group yet
                os.killpg(self._pid, number)

    def hang_up(self) -> None:
        """Close the connections to the worker, whose watchdog then ends it."""
        for connection in (self._messages, self._recalls):
            if connection is not None:
                connection.close()
        self._messages = self._recalls = None
        self._unread.clear()

"""The rank's side of shared data on another host than the script's: they come to each host once.

request(key) ── WANTED ──► relay
   ◄── PLACE ── another process of this host has them: its descriptor is opened through /proc
   ◄── PIECE, PIECE, ... ── none has: they are written into memory of this process
   ── STORED ──► relay: other processes of this host find them here

await_call(calls) ◄── ENDED ── the owner has given them up: they are dropped between two calls

Each process keeps a descriptor of what it has got, so that the end of one takes nothing from the others. If the connection is
lost, everything counts as ended: what a call needs again comes again.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from _thread import allocate_lock
from typing import TYPE_CHECKING

from pympipool import serialization
from pympipool._core.ring import Segment
from pympipool._util.formatting import format_bytes
from pympipool._util.platform import HAS_PROC
from pympipool.transport.frames import ProtocolError
from pympipool.transport.tcp.stream import ENDED, MISSING, PIECE, PLACE, STORED, WANTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.transport.tcp.stream import Message, Stream

KEPT_MAX = 256
"""Most descriptors that this process keeps for other processes of its host."""

_PLACE = struct.Struct("<IIQQQ")  # pid, descriptor; device, inode and size of the memory

_LOST = (ConnectionError, EOFError, ssl.SSLError, TimeoutError)
"""Errors of a connection that has ended."""


class SharedCopies:
    """Shared data that this process has got from the script's host. `request` is for any thread, the rest for the main thread.

    Args:
        connect: Opens a connection to the relay for them.
    """

    def __init__(self, connect: Callable[[], Stream]) -> None:
        self._connect = connect
        self._stream: Stream | None = None
        self._lock = allocate_lock()  # held by who uses the stream
        self._held: dict[
            bytes, int
        ] = {}  # the data, and the descriptor that other processes of this host open; -1: none
        self._host = b""

    def request(self, key: bytes) -> int | None:
        """Return a descriptor of memory of this host with shared data; None if they have been released.

        Raises:
            SerializationError: The script cannot send them, or cannot be reached.
            MemoryError: This host has no memory for them.
            OSError: No descriptor is free.
        """
        with self._lock:
            answer = self._request(key)
        if isinstance(answer, str):
            from pympipool.errors import SerializationError

            raise SerializationError(answer)
        return answer

    def drop_ended(self) -> None:
        """Drop the data that have ended, as far as this process has been told."""
        if self._stream is not None and self._lock.acquire(blocking=False):
            try:
                self._read_notices()
            finally:
                self._lock.release()
        serialization.drop_released()

    def await_call(self, calls: Stream) -> None:
        """Wait until something arrives on the stream of calls. Drop the data that end meanwhile."""
        while (poll := self._poll_with(calls)) is not None:
            ready = {descriptor for descriptor, _ in poll.poll(0 if calls.is_buffered else None)}
            if ready - {calls.fileno()}:
                self.drop_ended()
            if calls.is_buffered or calls.fileno() in ready:
                return

    def _poll_with(self, calls: Stream) -> select.poll | None:
        """Return a poll object for both connections; None if this process has none for data, or a thread uses it."""
        if self._stream is None or not self._lock.acquire(blocking=False):
            return None
        try:
            stream: Stream | None = self._stream  # again: the thread that had the lock may have hung up
            if stream is None:
                return None
            poll = select.poll()
            poll.register(stream, select.POLLIN)
            poll.register(calls, select.POLLIN)
            return poll
        finally:
            self._lock.release()

    # ---- with the lock held ----

    def _request(self, key: bytes) -> int | str | None:
        """Return a descriptor; None: the data have been released; a text: why there are none."""
        reason = ""
        for _ in range(2):  # something between the hosts may have forgotten the connection while it was idle
            try:
                self._stream = self._stream or self._connect()
                return self._ask(self._stream, key)
            except _LOST as error:
                self._hang_up()
                reason = str(error) or type(error).__name__
            except BaseException:
                self._hang_up()  # there may be more to come of this answer
                raise
        return f"cannot get shared data from the host of the script: {reason}"

    def _ask(self, stream: Stream, key: bytes) -> int | str | None:
        self._host = self._host or _identity_of_host()
        descriptor = None
        missed = b""
        while descriptor is None:
            stream.send(WANTED, 0, 0, [key, self._host, missed])
            answer = self._receive(stream)
            if answer[0] == MISSING:
                return answer[3][0].decode() or None
            if answer[0] == PLACE:
                missed = bytes(answer[3][0])
                descriptor = _open(missed)
            else:
                descriptor = self._store(stream, answer)
        serialization.ended_keys.discard(key)
        stream.send(STORED, 0, 0, [key, self._keep(key, descriptor)])
        return descriptor

    def _keep(self, key: bytes, descriptor: int) -> bytes:
        """Keep a descriptor for other processes of this host; return where they find it; b"": there is no room for it."""
        self._held[key] = -1
        if not HAS_PROC or len(self._held) > KEPT_MAX:
            return b""
        try:
            self._held[key] = kept = os.dup(descriptor)
            return _place_of(kept)
        except OSError:
            return b""

    def _receive(self, stream: Stream) -> Message:
        """Return the next message that is no notice."""
        while True:
            message = stream.receive()
            if message[0] != ENDED:
                return message
            self._end(message[3])

    def _store(self, stream: Stream, piece: Message) -> int:
        """Return a descriptor of new memory, into which the pieces have been written as they arrive."""
        from mmap import mmap

        from pympipool.serialization.shared import check_memory

        size_bytes = piece[2]
        try:
            check_memory(size_bytes)
            segment = Segment(size_bytes)
        except (OSError, MemoryError) as error:
            raise MemoryError(
                f"host {socket.gethostname()} has no memory for shared data of {format_bytes(size_bytes)}: {error}. They take it"
                " once on each host that uses them: drop what is shared and not needed any more, or use larger hosts"
            ) from error
        with mmap(segment.fileno(), size_bytes) as memory:
            end = 0
            while True:
                kind, begin, _, (part,) = piece
                if kind != PIECE or begin != end:
                    raise ProtocolError(
                        f"the relay sent a message of kind {kind} where a piece of shared data was expected"
                    )
                end += len(part)
                memory[begin:end] = part
                if end >= size_bytes:
                    break
                piece = self._receive(stream)
        return os.dup(segment.fileno())

    def _read_notices(self) -> None:
        """Note what has ended."""
        assert self._stream is not None
        try:
            while self._stream.wait(0):
                message = self._stream.receive()
                if message[0] == ENDED:
                    self._end(message[3])
        except _LOST:
            self._hang_up()

    def _end(self, keys: list[bytes]) -> None:
        for key in map(bytes, keys):
            descriptor = self._held.pop(key, -1)
            if descriptor >= 0:
                os.close(descriptor)
            serialization.ended_keys.add(key)

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._end(list(self._held))


def _identity_of_host() -> bytes:
    """Return what processes have in common that can open each other's memory."""
    if not HAS_PROC:
        return os.urandom(16)  # there they cannot
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot_id = file.read().strip()
    namespaces = [os.stat(f"/proc/self/ns/{name}").st_ino for name in ("pid", "user")]
    return boot_id + b" %d %d %d" % (*namespaces, os.geteuid())


def _place_of(descriptor: int) -> bytes:
    """Return where other processes of this host find the memory of a descriptor of this process."""
    status = os.fstat(descriptor)
    pid = int(os.readlink("/proc/self"))  # as /proc counts, which may belong to another namespace than os.getpid()
    return _PLACE.pack(pid, descriptor, status.st_dev, status.st_ino, status.st_size)


def _open(place: bytes) -> int | None:
    """Return a descriptor of the memory at a place; None if it is not there, or not for this process."""
    pid, number, *expected = _PLACE.unpack(place)
    path = f"/proc/{pid}/fd/{number}"
    try:
        if _describe(os.stat(path)) != expected:  # before it is opened: opening anything else might block
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if _describe(os.fstat(descriptor)) != expected:
        os.close(descriptor)
        return None
    return descriptor


def _describe(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size]

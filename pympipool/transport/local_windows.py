"""Control connections of one host on Windows: TCP over the loopback interface, and handles that the master copies.

    master                                       worker
    bind, listen, accept  ── challenge ───────>  connect, until one comes; the master's process is watched from here on
    MasterEnd.check_hello <── hello ───────────  WorkerEnd.greet: its numbers, a challenge, the proof of the key
                          ── proof of the key ─> receive_frame checks it before anything is unpickled

Any process of the machine can connect, or listen at the port of a master that has ended. So the key itself never travels: each
side proves that it knows the key by a keyed hash of the other side's challenge. What they exchange is not encrypted: the kernel's
loopback interface shows it to administrators only.

Handles travel as a frame of their own, `("handles", numbers)`, before the frame that they belong to. Only the master copies them,
into the worker's process or out of it: it has authenticated the worker, which has told its process id.

`local_unix.py` has the same names.
"""

from __future__ import annotations

import _winapi
import os
import struct
import sys
import time
from _blake2 import blake2b  # hashlib would load OpenSSL
from _operator import _compare_digest as compare_digest

from pympipool._util.cmodules import socket
from pympipool.transport.frames import (
    LENGTH_BYTES,
    MAGIC,
    ProtocolError,
    decode_body,
    decode_length,
    encode_frame,
    receive_exactly,
)

assert sys.platform == "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as full_socket
    from collections.abc import Sequence

    from pympipool._core.ring import Segment
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.frames import Frame, Packet

FAMILY = socket.AF_INET

KNOWS_USERS = False
"""Any process of the machine can connect: only one that knows the key is answered."""

_HELLO = struct.Struct("<8sIII?32s32s")
"""Magic, process id, worker, rank, whether it is relayed, challenge, proof."""

_PROOF_BYTES = 32
_HANDLES = "handles"
CONNECT_TIMEOUT_S = 60.0
"""Seconds within which a worker tries to connect again, while its master lives."""

_RETRY_MS = 20
_PROCESS_DUP_HANDLE = 0x0040
_SYNCHRONIZE = 0x00100000
_OF_WORKER, _OF_MASTER = b"worker", b"master"


def bind(listener: full_socket.socket) -> tuple[str, str | None]:
    """Give a listener a free port of the loopback interface, which no other process can share.

    Returns:
        The address as in PYMPIPOOL_ADDRESS: the port and the master's process id. None: nothing is to be removed.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    listener.bind(("127.0.0.1", 0))
    return f"{listener.getsockname()[1]}/{os.getpid()}", None


def listen(listener: full_socket.socket, backlog: int) -> None:
    """Have so many connections wait until they are accepted.

    Windows takes more than 200 only if the number is negated (SOMAXCONN_HINT), which Python does not pass on. Further
    connections are refused.
    """
    import ctypes

    listener.listen()
    ctypes.WinDLL("ws2_32").listen(ctypes.c_size_t(listener.fileno()), -backlog)


def is_own(_peer: socket.socket) -> bool:
    """Return True: whose process it is only the hello tells."""
    return True


def _proof(key: bytes, side: bytes, *parts: bytes) -> bytes:
    """Return what only a process that knows the key can compute."""
    return blake2b(side + b"".join(parts), key=key, digest_size=_PROOF_BYTES).digest()


class MasterEnd:
    """The master's end of one connection.

    Attributes:
        hello_bytes: Size of what the worker sends first.
    """

    hello_bytes = _HELLO.size

    def __init__(self, peer: full_socket.socket, key: bytes) -> None:
        self._socket = peer
        self._key = key
        self._process: int | None = None  # handle of the worker's process
        self._challenge = os.urandom(_PROOF_BYTES)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send(self._challenge)  # a new connection has room for it

    def check_hello(self, hello: bytes | bytearray) -> tuple[int, int, bool] | None:
        """Return worker, rank, and True if the relay stands in for it; None: the peer does not know the key.

        Raises:
            OSError: The peer has ended.
        """
        said, proof = bytes(hello[:-_PROOF_BYTES]), bytes(hello[-_PROOF_BYTES:])
        if not compare_digest(proof, _proof(self._key, _OF_WORKER, self._challenge, said)):
            return None
        _, pid, worker, rank, is_relayed, challenge, _ = _HELLO.unpack(hello)
        self._process = _winapi.OpenProcess(_PROCESS_DUP_HANDLE, False, pid)
        self._socket.send(_proof(self._key, _OF_MASTER, challenge, self._challenge))
        return worker, rank, is_relayed

    def pack(self, frame: Frame, descriptors: Sequence[int | Segment]) -> Packet:
        """Return the bytes of a frame, and of another one with copies of the handles before it.

        Raises:
            OSError: The worker has ended.
        """
        data = encode_frame(frame)
        if descriptors:
            handles = [one if isinstance(one, int) else one.fileno() for one in descriptors]
            copies = [self._copy(handle, _winapi.GetCurrentProcess(), self._worker()) for handle in handles]
            data = encode_frame((_HANDLES, copies)) + data
        return memoryview(data), (), ()

    def has_room(self, timeout_s: float) -> bool:
        """Wait until the peer has room for more; return False if it takes longer."""
        from select import select

        return bool(select((), (self._socket,), (), timeout_s)[1])

    def send(self, packet: Packet) -> int:
        """Send a part of a packet; return the number of its bytes."""
        return self._socket.send(packet[0])

    def receive(self, most_bytes: int) -> tuple[bytes, list[int]]:
        """Return what has arrived. No handles: a frame announces them."""
        return self._socket.recv(most_bytes), []

    def announced(self, frame: Frame) -> list[int] | None:
        """Return copies of the handles that a frame announces; None: it is a frame of another kind.

        Raises:
            ProtocolError: They are no handles of the worker.
        """
        if frame[0] != _HANDLES:
            return None
        try:
            return [self._copy(handle, self._worker(), _winapi.GetCurrentProcess()) for handle in frame[1]]
        except (OSError, TypeError) as error:
            raise ProtocolError(f"the peer announces handles that cannot be copied: {error}") from error

    def _worker(self) -> int:
        assert self._process is not None  # frames are only for authenticated peers
        return self._process

    @staticmethod
    def _copy(handle: int, source: int, target: int) -> int:
        return _winapi.DuplicateHandle(source, handle, target, 0, False, _winapi.DUPLICATE_SAME_ACCESS)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        process, self._process = self._process, None
        if process is not None:
            _winapi.CloseHandle(process)


def connect(address: str) -> socket.socket:
    """Connect to the listener of a master, and wait for the challenge. Whose it is only its proof of the key tells.

    Where too many wait, the connection is refused; where strangers take all the room, it is dropped. Then this tries again.

    Raises:
        OSError: The master is gone.
    """
    deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
    master = watched_master(address, -1)
    try:
        while True:
            try:
                return _connect(int(address.partition("/")[0]))
            except ConnectionError:
                if (
                    time.monotonic() > deadline_s
                    or _winapi.WaitForSingleObject(master, _RETRY_MS) != _winapi.WAIT_TIMEOUT
                ):
                    raise
    finally:
        _winapi.CloseHandle(master)


def _connect(port: int) -> socket.socket:
    connection = socket.socket(FAMILY)
    try:
        connection.connect(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not connection.recv(1, socket.MSG_PEEK):  # the first byte of the challenge
            raise ConnectionAbortedError(f"the listener at port {port} of this machine has hung up")
    except BaseException:
        connection.close()
        raise
    return connection


def watched_master(address: str, _connection: int) -> int:
    """Return what the watchdog waits for: the handle of the master's process.

    Raises:
        OSError: The master is gone.
    """
    return _winapi.OpenProcess(_SYNCHRONIZE, False, int(address.partition("/")[2]))


class WorkerEnd:
    """A worker's end of a connection. All operations block."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.release = connection.detach  # which leaves the connection open until the process has ended
        self._expected = b""  # the master's proof, until it has come

    def greet(self, config: WorkerConfig, rank: int, *, is_relayed: bool) -> None:
        """Send the hello, with the answer to the master's challenge."""
        challenge = bytes(receive_exactly(self.socket, _PROOF_BYTES))
        own = os.urandom(_PROOF_BYTES)
        said = _HELLO.pack(MAGIC, os.getpid(), config.worker, rank, is_relayed, own, b"")[:-_PROOF_BYTES]
        self._expected = _proof(config.key, _OF_MASTER, own, challenge)
        self.socket.sendall(said + _proof(config.key, _OF_WORKER, challenge, said))

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send all of it, and before it the numbers of handles. They must stay open until the master has answered."""
        self.socket.sendall(encode_frame((_HANDLES, list(descriptors))) + data if descriptors else data)

    def receive_frame(self) -> tuple[Frame, list[int]]:
        """Wait for a frame, and for the handles that come before it.

        Raises:
            EOFError: The master has hung up.
            PermissionError: The listener does not know the key.
            ProtocolError: What it has sent is no frame.
        """
        if self._expected:
            self._check_master()
        frame = self._receive()
        handles: list[int] = []
        while frame[0] == _HANDLES:
            handles += frame[1]
            frame = self._receive()
        return frame, handles

    def _check_master(self) -> None:
        proof = bytes(receive_exactly(self.socket, _PROOF_BYTES))
        if not compare_digest(proof, self._expected):
            raise PermissionError(
                "another program listens at the master's port: nothing that it has sent was unpickled"
            )
        self._expected = b""

    def _receive(self) -> Frame:
        return decode_body(receive_exactly(self.socket, decode_length(receive_exactly(self.socket, LENGTH_BYTES))))

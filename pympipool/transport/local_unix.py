"""Control connections of one host as Unix sockets: the kernel knows whose process the peer is, and passes descriptors.

    master: bind(listener) ── accept ──> is_own(peer) ──> MasterEnd(peer, key).check_hello(...)
    worker: connect(address), which checks whose process listens ──> WorkerEnd(socket).greet(...)

`local_windows.py` has the same names for Windows. What travels over the connection is in `frames.py`.
"""

from __future__ import annotations

import os
import struct
import time
from _operator import _compare_digest as compare_digest  # that of hmac, which loads OpenSSL

from pympipool._util.cmodules import socket
from pympipool._util.platform import HAS_ABSTRACT_SOCKETS, IS_LINUX, LIMITS_BACKLOG, RECEIVE_FLAGS, SEND_FLAGS
from pympipool.transport.frames import (
    DESCRIPTORS_MAX,
    HELLO_BYTES,
    LENGTH_BYTES,
    decode_body,
    decode_hello,
    decode_length,
    encode_frame,
    encode_hello,
    receive_exactly,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as full_socket
    from collections.abc import Sequence

    from pympipool._core.ring import Segment
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.frames import Frame, Packet

FAMILY = socket.AF_UNIX

KNOWS_USERS = True
"""The system tells whose process a peer is, before it has proved anything."""

_TEMPORARY_FOLDER_MAX = 76  # bytes, so that /pympipool-12345678/control behind it fits into the 104 of macOS

_REFUSED_MAX = 100
"""Attempts to connect, 0.02 s apart, where a connection is refused at once while as many ranks wait as the system allows."""

_DESCRIPTOR_BYTES = struct.calcsize("i")
_LINUX_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_BSD_CREDENTIALS = struct.Struct("II")  # struct xucred begins with: version, uid


def bind(listener: full_socket.socket) -> tuple[str, str | None]:
    """Give a listener an address that no other user can take.

    On Linux this is the name of an abstract socket, so no file can be left behind. Elsewhere it is a socket in a folder that
    only the user can enter.

    Returns:
        The address as in PYMPIPOOL_ADDRESS, `@name` or a path; the folder to remove at the end, None if there is none.
    """
    if HAS_ABSTRACT_SOCKETS:
        name = f"pympipool-{os.urandom(16).hex()}"
        listener.bind(f"\0{name}")
        return f"@{name}", None
    import tempfile

    # The address of a Unix socket has 104 bytes on macOS, and a folder for temporary files there may be long.
    is_short = len(os.fsencode(tempfile.gettempdir())) <= _TEMPORARY_FOLDER_MAX
    folder = tempfile.mkdtemp(prefix="pympipool-", dir=None if is_short else "/tmp")  # mode 0700
    try:
        path = os.path.join(folder, "control")
        listener.bind(path)
    except BaseException:
        os.rmdir(folder)
        raise
    return path, folder


def listen(listener: full_socket.socket, backlog: int) -> None:
    """Have so many connections wait until they are accepted, or as many as the system allows."""
    listener.listen(backlog)


def is_own(peer: socket.socket) -> bool:
    """Return True if the process at the other end belongs to this user."""
    return peer_uid(peer) == os.geteuid()


def peer_uid(connection: socket.socket) -> int:
    """Return the effective user id of the process at the other end of a Unix socket, as the kernel knows it.

    For an accepted connection that is the process that connected; for a connecting one, the process that listens.
    """
    if IS_LINUX:
        return _credentials(connection)[1]
    local_peercred, level_local, xucred_bytes = 1, 0, 76  # sys/un.h and sys/ucred.h of macOS
    credentials = connection.getsockopt(level_local, local_peercred, xucred_bytes)
    return int(_BSD_CREDENTIALS.unpack_from(credentials)[1])


def peer_pid(connection: socket.socket) -> int | None:
    """Return the id of that process; None if the system does not tell it, or it is one of another container."""
    return _credentials(connection)[0] or None if IS_LINUX else None


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX_CREDENTIALS.size)
    return _LINUX_CREDENTIALS.unpack(credentials)


class MasterEnd:
    """The master's end of one connection.

    Attributes:
        hello_bytes: Size of what the worker sends first.
    """

    hello_bytes = HELLO_BYTES

    def __init__(self, peer: full_socket.socket, key: bytes) -> None:
        self._socket = peer
        self._key = key

    def check_hello(self, hello: bytes | bytearray) -> tuple[int, int, bool] | None:
        """Return worker, rank, and True if the relay stands in for it; None: the peer does not know the key."""
        _, key, worker, rank, is_relayed = decode_hello(hello)
        return (worker, rank, is_relayed) if compare_digest(key, self._key) else None

    def pack(self, frame: Frame, descriptors: Sequence[int | Segment]) -> Packet:
        """Return the bytes of a frame, and what travels beside them. Until it is sent numbers must stay open; segments do."""
        if not descriptors:
            return memoryview(encode_frame(frame)), (), descriptors
        return memoryview(encode_frame(frame)), (_ancillary(descriptors),), descriptors

    def has_room(self, timeout_s: float) -> bool:
        """Wait until the peer has room for more; return False if it takes longer."""
        import select  # workers do without it

        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(timeout_s * 1000))

    def send(self, packet: Packet) -> int:
        """Send a part of a packet; return the number of its bytes. Descriptors travel with the first ones."""
        data, ancillary, _ = packet
        return self._socket.sendmsg([data], ancillary, SEND_FLAGS)

    def receive(self, most_bytes: int) -> tuple[bytes, list[int]]:
        """Return what has arrived, and descriptors that came with it. A rank sends one with a request, and waits for the answer."""
        data, ancillary, _, _ = self._socket.recvmsg(most_bytes, socket.CMSG_SPACE(_DESCRIPTOR_BYTES), RECEIVE_FLAGS)
        return data, _descriptors(ancillary)

    def announced(self, frame: Frame) -> list[int] | None:
        """Return None: no frame announces descriptors, as they come beside frames."""
        return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def may_listen(address: str) -> bool:
    """Return False if no process of this host listens at an address."""
    if not address.startswith("@"):
        return os.path.exists(address)
    try:
        with open("/proc/net/unix", "rb") as file:
            return address.encode() in file.read()
    except OSError:
        return True


def connect(address: str) -> socket.socket:
    """Connect to the listener of a master.

    Raises:
        OSError: The master is gone, or on another host.
        PermissionError: Another user listens at the address.
    """
    connection = _connect(f"\0{address[1:]}" if address.startswith("@") else address)
    try:
        uid = peer_uid(connection)
        if uid != os.geteuid():
            raise PermissionError(
                f"user {uid} listens at {address}, not this worker's user {os.geteuid()}; nothing was sent"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(address: str) -> socket.socket:
    """Connect to a Unix socket. While too many others wait there, this waits too."""
    attempts = _REFUSED_MAX if LIMITS_BACKLOG else 1
    while True:
        attempts -= 1
        connection = socket.socket(FAMILY)
        try:
            connection.connect(address)
        except BaseException as error:
            connection.close()
            if not isinstance(error, ConnectionRefusedError) or attempts <= 0:
                raise
            time.sleep(0.02)
        else:
            return connection


def watched_master(_address: str, connection: int) -> int:
    """Return what the watchdog waits for: a duplicate of the connection.

    Python closes the original before exit functions and MPI_Finalize have run: the master would hang up in response, and the
    watchdog would kill the process while these still run.
    """
    return os.dup(connection)


class WorkerEnd:
    """A worker's end of a connection. All operations block."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.release = connection.close  # the watchdog has a duplicate, by which the connection lasts

    def greet(self, config: WorkerConfig, rank: int, *, is_relayed: bool) -> None:
        """Send the hello. The key is in it: the kernel has said whose process the master is."""
        self.send(encode_hello(config.key, config.worker, rank, is_relayed=is_relayed))

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send all of it, and descriptors with it."""
        if descriptors:
            data = data[self.socket.sendmsg([data], [_ancillary(descriptors)], SEND_FLAGS) :]
        self.socket.sendall(data, SEND_FLAGS)

    def receive_frame(self) -> tuple[Frame, list[int]]:
        """Wait for a frame, and for the descriptors that come with it.

        Raises:
            EOFError: The master has hung up.
            ProtocolError: What it has sent is no frame.
        """
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)
        head, ancillary, _, _ = self.socket.recvmsg(LENGTH_BYTES, room, RECEIVE_FLAGS)
        head += receive_exactly(self.socket, LENGTH_BYTES - len(head))
        return decode_body(receive_exactly(self.socket, decode_length(head))), _descriptors(ancillary)


def _ancillary(descriptors: Sequence[int | Segment]) -> tuple[int, int, bytes]:
    numbers = [one if isinstance(one, int) else one.fileno() for one in descriptors]
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(numbers)}i", *numbers)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += struct.unpack_from(f"{len(data) // _DESCRIPTOR_BYTES}i", data)
    return descriptors

"""The master's end of the control connections: authenticate the ranks, exchange frames with them.

    Listener.accept()                on Unix, drops a peer of another user before a byte of it is read
      -> Connection.handshake()      reads 49 bytes: is the key right? which worker, which rank, on which host?
        -> Connection.post(), flush()       sends the setup frame, with the descriptors of the link
        -> Connection.receive_available()   ready, start_failed, rank_error, ...; EOFError when the rank is gone

All of this is for one thread that waits for many descriptors with `selectors`. Nothing here blocks: a peer that sends
nothing, or half a hello, or garbage, costs one descriptor until the caller's handshake timeout. A peer that does not read
costs `flush` as much time as its caller allows.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Sequence

from pympipool._util.import_path import package_folder
from pympipool._util.platform import IS_WINDOWS, SEND_FLAGS, close_descriptor
from pympipool.transport.frames import (
    KEY_BYTES,
    LENGTH_BYTES,
    MAGIC,
    VIEWER_MAGIC,
    Frame,
    ProtocolError,
    decode_body,
    decode_length,
)

if IS_WINDOWS:
    from pympipool.transport import local_windows as local
else:
    from pympipool.transport import local_unix as local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pympipool._core.ring import Segment
    from pympipool.transport.frames import Packet

SEND_TIMEOUT_S = 10.0
"""Seconds that a peer may leave a frame unread before `send` raises."""

_BACKLOG = 1024  # connections that may wait while the master is busy
_RECEIVE_BYTES = 1 << 16
_RECEIVE_BUDGET = 16 * _RECEIVE_BYTES  # most bytes read from one connection in a row, so that others get their turn


class HandshakeError(ConnectionError):
    """The peer is not a worker of this executor."""


class PeerClosed(HandshakeError):
    """The peer hung up before it sent a byte. It may be a worker of this executor that was killed at that moment."""


class ViewerHello(HandshakeError):
    """The peer is no worker: it wants to see the status of this executor (see `Connection.answer`)."""


class Listener:
    """The socket to which the workers of one executor connect, and the key that they must know.

    On Unix no other user can connect to it, or take its address; see `local.bind`.

    Attributes:
        address: As in PYMPIPOOL_ADDRESS: `@name` for an abstract socket, else a path.
        key: As in PYMPIPOOL_KEY: 64 hex digits, new for each listener.
    """

    def __init__(self) -> None:
        self.key = os.urandom(KEY_BYTES).hex()
        self._key = bytes.fromhex(self.key)
        self._socket = socket.socket(local.FAMILY)
        self._folder: str | None = None
        try:
            self.address, self._folder = local.bind(self._socket)
            self._socket.setblocking(False)
            local.listen(self._socket, _BACKLOG)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor for selectors. It is readable when a peer wants to connect."""
        return self._socket.fileno()

    def environment(self, worker: int, ranks: int) -> dict[str, str]:
        """Return the variables with which a worker's program finds this listener.

        They include the folder of pympipool, so that the worker imports the same one as the master.
        """
        return {
            "PYMPIPOOL_ADDRESS": self.address,
            "PYMPIPOOL_KEY": self.key,
            "PYMPIPOOL_WORKER": str(worker),
            "PYMPIPOOL_RANKS": str(ranks),
            "PYMPIPOOL_PATH": package_folder(),
        }

    def accept(self) -> Connection | None:
        """Accept a waiting connection; return None if there is none, or if its peer belongs to another user.

        A connection of another user is closed unread. If more connections wait, the listener stays readable.

        Raises:
            OSError: There is no free descriptor. The connection waits, and the listener stays readable.
        """
        peer = self._accept_any()
        if peer is None:
            return None
        with contextlib.suppress(OSError):  # it hung up already, so it is no worker of this executor
            if local.is_own(peer):
                peer.setblocking(False)
                return Connection(peer, self._key)
        peer.close()
        return None

    def _accept_any(self) -> socket.socket | None:
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionError):  # it has hung up again
            return None

    def close(self) -> None:
        """Stop listening. Accepted connections stay open. Closing again has no effect."""
        self._socket.close()
        if self._folder is not None:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Connection:
    """The connection of one rank.

    Before the handshake the peer can be any process of this user; on Windows, of this machine.

    Attributes:
        worker: Number of the worker; -1 before the handshake.
        rank: Rank within the worker; -1 before the handshake.
        is_relayed: True if the relay stands in for the rank. Otherwise the rank runs on this host: no other process reaches
            the listener.
    """

    def __init__(self, peer: socket.socket, key: bytes) -> None:
        self.worker = -1
        self.rank = -1
        self.is_relayed = False
        self._socket = peer
        self._end = local.MasterEnd(peer, key)
        self._received = bytearray()
        self._descriptor = -1  # one that has arrived and that was not taken
        self._posted: deque[Packet] = deque()

    def fileno(self) -> int:
        """Return the descriptor for selectors. It is readable when bytes have arrived, or the peer has hung up."""
        return self._socket.fileno()

    @property
    def is_closed(self) -> bool:
        """True once this side has hung up."""
        return self._socket.fileno() < 0

    def handshake(self) -> tuple[int, int] | None:
        """Read what has arrived of the hello. Call this when the connection is readable, until it does not return None.

        Returns:
            (worker, rank) if the hello is complete and right, None if more bytes must arrive.

        Raises:
            HandshakeError: The hello is wrong, or the peer hung up. Close the connection.
            PeerClosed: The peer hung up before it sent a byte. Close the connection.
            ViewerHello: The peer is a viewer. Answer, and close the connection.
        """
        try:
            hello = self._socket.recv(self._end.hello_bytes - len(self._received))
            if not hello:
                raise EOFError("end of the connection")
            self._received += hello
        except BlockingIOError:
            return None
        except (OSError, EOFError) as error:
            if not self._received:
                raise PeerClosed("the peer hung up without a word") from error
            raise HandshakeError(f"the peer hung up before its hello was complete: {error}") from error
        may_be_viewer = local.KNOWS_USERS and VIEWER_MAGIC.startswith(self._received)
        if may_be_viewer and len(self._received) == len(VIEWER_MAGIC):
            raise ViewerHello("the peer is a viewer")
        if not MAGIC.startswith(self._received[: len(MAGIC)]) and not may_be_viewer:
            raise HandshakeError(f"the peer's first bytes are not {MAGIC!r}")
        if len(self._received) < self._end.hello_bytes:
            return None
        checked = self._end.check_hello(self._received)
        if checked is None:
            raise HandshakeError("the peer does not know the key of this executor")
        self._received.clear()
        self.worker, self.rank, self.is_relayed = checked
        return self.worker, self.rank

    def answer(self, status: bytes) -> None:
        """Send a status to a viewer, as far as there is room for it: who does not read it, or sends more, gets no other."""
        with contextlib.suppress(OSError):
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < len(status):  # 8 KiB on macOS
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(status))
            self._socket.send(status, SEND_FLAGS)

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, and descriptors with it; wait until the peer has room for it.

        Raises:
            HandshakeError: The handshake is not complete.
            ValueError: The frame is too large.
            TimeoutError: The peer did not read the frame within SEND_TIMEOUT_S. The connection is unusable.
            OSError: The peer is gone.
        """
        self.post(frame, descriptors)
        if self.flush(SEND_TIMEOUT_S):
            raise TimeoutError(f"rank {self.rank} of worker {self.worker} left a frame unread for {SEND_TIMEOUT_S} s")

    def post(self, frame: Frame, descriptors: Sequence[int | Segment] = ()) -> None:
        """Have a frame, and descriptors with it, sent by the next `flush`. Until then numbers must stay open; segments do.

        Raises:
            HandshakeError: The handshake is not complete.
            ValueError: The frame is too large.
            OSError: On Windows, where descriptors are copied now: the peer has ended.
        """
        self._check_authenticated()
        self._posted.append(self._end.pack(frame, descriptors))

    def flush(self, patience_s: float) -> int:
        """Send what was posted, as far as the peer has room for it.

        Args:
            patience_s: Seconds to wait, in all, for the peer to read.

        Returns:
            The number of bytes that are left.

        Raises:
            OSError: The peer is gone.
        """
        deadline = time.monotonic() + patience_s
        while self._posted:
            if not self._end.has_room(max(0.0, deadline - time.monotonic())):
                return sum(len(left) for left, _, _ in self._posted)
            rest = self._posted[0][0][self._end.send(self._posted[0]) :]
            if rest:
                self._posted[0] = rest, (), ()  # the descriptors travel with the first bytes
            else:
                self._posted.popleft()
        return 0

    def receive_available(self) -> list[Frame]:
        """Return the frames that have arrived completely since the last call; often none.

        Raises:
            HandshakeError: The handshake is not complete.
            EOFError: The peer hung up, and no complete frame is left.
            ProtocolError: The peer sent something that is no frame, or a frame that is too large. Close the connection.
        """
        self._check_authenticated()
        hung_up = False
        limit = len(self._received) + _RECEIVE_BUDGET
        try:
            while len(self._received) < limit:
                self._received += self._receive(_RECEIVE_BYTES)
        except BlockingIOError:
            pass
        except ProtocolError:
            raise
        except (EOFError, ConnectionError):
            hung_up = True
        frames = self._take_frames()
        if hung_up and not frames:
            raise EOFError(f"rank {self.rank} of worker {self.worker} hung up")
        return frames

    def _take_frames(self) -> list[Frame]:
        frames: list[Frame] = []
        position = 0
        received = self._received
        while len(received) - position >= LENGTH_BYTES:
            begin = position + LENGTH_BYTES
            end = begin + decode_length(received[position:begin])
            if len(received) < end:
                break
            frame = decode_body(received[begin:end])
            announced = self._end.announced(frame)
            if announced is None:
                frames.append(frame)
            else:
                self._add_descriptors(announced)
            position = end
        del received[:position]
        return frames

    def _receive(self, most_bytes: int) -> bytes:
        data, descriptors = self._end.receive(most_bytes)
        if descriptors:
            self._add_descriptors(descriptors)
        if not data:
            raise EOFError("end of the connection")
        return data

    def _add_descriptors(self, descriptors: list[int]) -> None:
        if len(descriptors) == 1 and self._descriptor < 0:
            self._descriptor = descriptors[0]
            return
        for descriptor in descriptors:
            close_descriptor(descriptor)
        raise ProtocolError("the peer sent descriptors that no frame announces")

    def take_descriptor(self) -> int:
        """Return the descriptor that came with a frame, for the caller to close; -1: there was none, or no room for it."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def _check_authenticated(self) -> None:
        if self.worker < 0:
            raise HandshakeError("frames are only for authenticated peers: complete the handshake first")

    def close(self) -> None:
        """Hang up. If the rank at the other end is still alive, its watchdog ends it."""
        self._end.close()
        descriptor = self.take_descriptor()
        if descriptor >= 0:
            close_descriptor(descriptor)

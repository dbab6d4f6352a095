"""The master's end of the control connections: who may come in, and what is said.

    Listener.accept()                a peer of another user is dropped before a byte of it is read
      -> Connection.handshake()          48 bytes: is the key right? which worker, which rank?
        -> Connection.send()         the setup frame, with the descriptors of the link
        -> Connection.receive_available()   ready, failed, raised; EOFError when the rank is gone

All of it is for one thread that waits for many descriptors with `selectors`. Nothing here blocks: a peer that sends
nothing, or half a hello, or garbage, costs a descriptor until the caller's patience (a
deadline for greetings) is over. The only wait is in `send`, for a peer that does not read, and it is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Sequence

from pympipool.transport.frames import (
    HELLO_BYTES,
    KEY_BYTES,
    LENGTH_BYTES,
    MAGIC,
    SEND_FLAGS,
    Frame,
    decode_body,
    decode_hello,
    decode_length,
    encode_frame,
    peer_uid,
)

SEND_LIMIT_S = 10.0
"""How long a peer may leave a frame unread before sending it is given up."""

_BACKLOG = 1024  # ranks that may connect at once while the master is busy
_RECEIVE_BYTES = 1 << 16
_RECEIVE_BUDGET = 16 * _RECEIVE_BYTES  # then others get their turn


class HandshakeError(ConnectionError):
    """Whoever connected is not one of our workers."""


class PeerClosed(HandshakeError):
    """Whoever connected has hung up before he said a word: one of our workers may have been ended in this moment."""


class Listener:
    """The address where the workers of one executor report, and the key that they must know.

    On Linux an abstract Unix socket: no file that could be left behind. Elsewhere a socket in a folder that only
    the user can enter. Never a network port.

    Attributes:
        address: As in PYMPIPOOL_ADDRESS: `@name` for an abstract socket, else a path.
        key: As in PYMPIPOOL_KEY: 64 hex digits, made afresh.
    """

    def __init__(self) -> None:
        self.key = os.urandom(KEY_BYTES).hex()
        self._key = bytes.fromhex(self.key)
        self._socket = socket.socket(socket.AF_UNIX)
        self._folder: str | None = None
        self._reserve = os.open(os.devnull, os.O_RDONLY)
        try:
            self.address = self._bind()
            self._socket.setblocking(False)
            self._socket.listen(_BACKLOG)
        except BaseException:
            self.close()
            raise

    def _bind(self) -> str:
        name = f"pympipool-{os.urandom(16).hex()}"
        if sys.platform != "linux":
            import tempfile

            self._folder = tempfile.mkdtemp(prefix="pympipool-")  # mode 0700
            path = os.path.join(self._folder, "control")
            self._socket.bind(path)
            return path
        self._socket.bind(f"\0{name}")
        return f"@{name}"

    def fileno(self) -> int:
        """For selectors: readable when somebody wants to connect."""
        return self._socket.fileno()

    def environment(self, worker: int, ranks: int) -> dict[str, str]:
        """What a worker's program must find in its environment to report here.

        The master's `sys.path` goes with it, so that what can be imported here can be imported there.
        """
        return {
            "PYMPIPOOL_ADDRESS": self.address,
            "PYMPIPOOL_KEY": self.key,
            "PYMPIPOOL_WORKER": str(worker),
            "PYMPIPOOL_RANKS": str(ranks),
            "PYMPIPOOL_PATH": os.pathsep.join(dict.fromkeys(map(_absolute, sys.path))),
        }

    def accept(self) -> Connection | None:
        """Lets one in who waits; None when nobody does, or when it was somebody of another user.

        Such a one is closed unread. If more wait, the listener stays readable.
        """
        peer = self._accept_any()
        if peer is None:
            return None
        with contextlib.suppress(OSError):  # it hung up already: not one of ours
            if peer_uid(peer) == os.geteuid():
                peer.setblocking(False)
                return Connection(peer, self._key)
        peer.close()
        return None

    def _accept_any(self) -> socket.socket | None:
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._drop_one()
            return None

    def _drop_one(self) -> None:
        """Closes a waiting connection although this process has no descriptor left to accept it with.

        Left waiting it would keep the listener readable, and its waiter busy, for as long as descriptors are
        short. Dropped, its worker ends, and is started again later.
        """
        self._close_reserve()
        with contextlib.suppress(OSError):  # another thread was quicker, or the peer is gone
            self._socket.accept()[0].close()
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)

    def _close_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def close(self) -> None:
        """Lets nobody in any more; connections that were accepted stay. Harmless when closed already."""
        self._socket.close()
        self._close_reserve()
        if self._folder is not None:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Connection:
    """The connection of one rank, once greeted; of anybody of this user before.

    Attributes:
        worker: Number of the worker; -1 before the greeting.
        rank: Its rank; -1 before the greeting.
    """

    def __init__(self, peer: socket.socket, key: bytes) -> None:
        self.worker = -1
        self.rank = -1
        self._socket = peer
        self._key = key
        self._received = bytearray()

    def fileno(self) -> int:
        """For selectors: readable when something came, or the peer hung up."""
        return self._socket.fileno()

    def handshake(self) -> tuple[int, int] | None:
        """Reads what there is of the hello.

        Returns:
            (worker, rank) when it is complete and right, None when more must come.

        Raises:
            HandshakeError: it is wrong, or the peer hung up (without a word: PeerClosed): close the connection.
        """
        try:
            self._received += self._receive(HELLO_BYTES - len(self._received))
        except BlockingIOError:
            return None
        except (OSError, EOFError) as error:
            if not self._received:
                raise PeerClosed("the peer hung up without a word") from error
            raise HandshakeError(f"the peer hung up before its hello was complete: {error}") from error
        if not MAGIC.startswith(self._received[: len(MAGIC)]):
            raise HandshakeError(f"the peer's first bytes are not {MAGIC!r}")
        if len(self._received) < HELLO_BYTES:
            return None
        _, key, worker, rank = decode_hello(self._received)
        if not hmac.compare_digest(key, self._key):
            raise HandshakeError("the peer does not know the key of this executor")
        self._received.clear()
        self.worker, self.rank = worker, rank
        return worker, rank

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Sends a frame, and descriptors with it.

        Raises:
            ValueError: the frame is too large.
            TimeoutError: the peer did not read it within SEND_LIMIT_S; the connection is of no more use.
            OSError: the peer is gone.
        """
        self._check_authenticated()
        left = memoryview(encode_frame(frame))
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        ancillary = passed if descriptors else []
        deadline = time.monotonic() + SEND_LIMIT_S
        while left:
            self._wait_for_room(deadline)
            sent = self._socket.sendmsg([left], ancillary, SEND_FLAGS)
            left = left[sent:]
            ancillary = []  # it went with the first bytes

    def _wait_for_room(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(f"rank {self.rank} of worker {self.worker} left a frame unread for {SEND_LIMIT_S} s")

    def receive_available(self) -> list[Frame]:
        """The frames that have arrived completely since the last look; often none.

        Raises:
            EOFError: the peer hung up, and no complete frame is left.
            ProtocolError: what came is no frame, or too large a one: close the connection.
        """
        self._check_authenticated()
        hung_up = False
        limit = len(self._received) + _RECEIVE_BUDGET
        try:
            while len(self._received) < limit:
                self._received += self._receive(_RECEIVE_BYTES)
        except BlockingIOError:
            pass
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
            frames.append(decode_body(received[begin:end]))
            position = end
        del received[:position]
        return frames

    def _receive(self, most_bytes: int) -> bytes:
        data = self._socket.recv(most_bytes)
        if not data:
            raise EOFError("end of the connection")
        return data

    def _check_authenticated(self) -> None:
        if self.worker < 0:
            raise HandshakeError("frames are for peers that have proved who they are: greet first")

    def close(self) -> None:
        """Hangs up: the rank at the other end, if it still lives, is ended by its watchdog."""
        self._socket.close()


def _absolute(entry: str) -> str:
    """An entry of `sys.path` that means the same in another folder.

    What is no folder or archive is left alone: import hooks put names of their own into `sys.path`. Absolute ones are
    not looked at, which takes a while for all of them and every worker.
    """
    if os.path.isabs(entry) or (entry and not os.path.exists(entry)):
        return entry
    try:
        return os.path.join(os.getcwd(), entry) if entry else os.getcwd()
    except FileNotFoundError:  # the current folder was removed
        return entry

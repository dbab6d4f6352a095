"""The worker's end of a control connection.

    take_orders(environ)              what the master has put into the environment, taken out of it
    connect(orders)                   is the master on this host? Then a WorkerControl, else a TcpControl
    WorkerControl.connect(orders)     is the listener of our user?
      .greet(rank)                    hello
      .receive_setup()                settings, and for rank 0 the descriptors of the link
      .ready() .failed() .raised()    what the master must know besides results

Blocking throughout: a rank has nothing else to do meanwhile, and its watchdog ends it when the master is gone.
"""

from __future__ import annotations

import os
import struct

from pympipool.light import socket
from pympipool.links.frames import (
    KEY_BYTES,
    LENGTH_BYTES,
    SEND_FLAGS,
    ProtocolError,
    decode_body,
    decode_length,
    encode_frame,
    encode_hello,
    peer_uid,
    with_length,
)
from pympipool.links.shm import open_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from typing import Any, TypeAlias

    from pympipool._ring import Channel
    from pympipool.links.tcp_worker import TcpChannel, TcpControl

    Control: TypeAlias = "WorkerControl | TcpControl"
    Link: TypeAlias = "Channel | TcpChannel"

_VARIABLES = (
    "PYMPIPOOL_ADDRESS",
    "PYMPIPOOL_KEY",
    "PYMPIPOOL_WORKER",
    "PYMPIPOOL_RANKS",
    "PYMPIPOOL_PATH",  # read by the first lines of the program, see spawners/base.py
    "PYMPIPOOL_LAUNCHER",
    "PYMPIPOOL_TCP",
    "PYMPIPOOL_HOST",
    "PYMPIPOOL_CONNECT_S",
    "PYMPIPOOL_CWD",
    "PYMPIPOOL_ERROR_LOG",
)
_DESCRIPTORS_MAX = 2
_DESCRIPTOR_BYTES = struct.calcsize("i")
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Orders:
    """What a worker's program learns from its environment.

    Attributes:
        address: Of the master's listener: `@name` for an abstract Unix socket, else a path.
        key: What proves to the master that we are one of his.
        worker: Our number.
        ranks: How many processes we are.
        launcher: Path of the mpiexec that started us, "" when there is none.
        tcp_addresses: Of the master's relay, `host:port` each; none where all workers are on the master's host.
        master_host: Name of the master's host, for error messages.
        connect_limit_s: How long to try to reach the relay.
        cwd: The folder to work in, where the launcher cannot be relied on for it; else "".
        error_log_file: Where calls that fail are written down; "": nowhere.
    """

    __slots__ = (
        "address",
        "connect_limit_s",
        "cwd",
        "error_log_file",
        "key",
        "launcher",
        "master_host",
        "ranks",
        "tcp_addresses",
        "worker",
    )

    def __init__(
        self,
        address: str,
        key: bytes,
        worker: int,
        ranks: int,
        launcher: str,
        *,
        tcp_addresses: Sequence[str] = (),
        master_host: str = "",
        connect_limit_s: float = 60.0,
        cwd: str = "",
        error_log_file: str = "",
    ) -> None:
        self.address = address
        self.key = key
        self.worker = worker
        self.ranks = ranks
        self.launcher = launcher
        self.tcp_addresses = tuple(tcp_addresses)
        self.master_host = master_host
        self.connect_limit_s = connect_limit_s
        self.cwd = cwd
        self.error_log_file = error_log_file


def take_orders(environ: MutableMapping[str, str]) -> Orders:
    """Reads the variables of a worker and removes them: what the user's code starts must not see them.

    Raises:
        ValueError: they are missing or make no sense.
    """
    taken = {name: environ.pop(name, "") for name in _VARIABLES}
    for name in _VARIABLES[:4]:
        if not taken[name]:
            raise ValueError(f"{name} is not set: this program is started by a pympipool.Executor, not by hand")
    key = bytes.fromhex(taken["PYMPIPOOL_KEY"])
    if len(key) != KEY_BYTES:
        raise ValueError(f"PYMPIPOOL_KEY has {len(key)} bytes; it must have {KEY_BYTES}")
    return Orders(
        address=taken["PYMPIPOOL_ADDRESS"],
        key=key,
        worker=int(taken["PYMPIPOOL_WORKER"]),
        ranks=int(taken["PYMPIPOOL_RANKS"]),
        launcher=taken["PYMPIPOOL_LAUNCHER"],
        tcp_addresses=taken["PYMPIPOOL_TCP"].split(),
        master_host=taken["PYMPIPOOL_HOST"],
        connect_limit_s=float(taken["PYMPIPOOL_CONNECT_S"] or 60.0),
        cwd=taken["PYMPIPOOL_CWD"],
        error_log_file=taken["PYMPIPOOL_ERROR_LOG"],
    )


def connect(orders: Orders) -> WorkerControl | TcpControl:
    """Connects to the master: over its Unix socket where that works, which proves that it is on this host, else TCP.

    Raises:
        OSError: the master is gone, or cannot be reached from here.
        PermissionError: another user listens there.
    """
    if not orders.tcp_addresses:
        return WorkerControl.connect(orders)
    try:
        return WorkerControl.connect(orders)
    except (ConnectionRefusedError, FileNotFoundError):  # there is no such socket on this host
        from pympipool.links.tcp_worker import TcpControl

        return TcpControl.connect(orders)


class WorkerControl:
    """The connection of this rank to the master."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    def connect(cls, orders: Orders) -> WorkerControl:
        """Connects to the listener, and checks that it is of our own user.

        Raises:
            OSError: the master is gone.
            PermissionError: another user listens there.
        """
        address = orders.address
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            uid = peer_uid(connection)
            if uid != os.geteuid():
                raise PermissionError(f"user {uid} listens at {address}, not our user {os.geteuid()}; nothing was said")
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        """For the watchdog."""
        return self._socket.fileno()

    def greet(self, orders: Orders, rank: int) -> None:
        """Says who we are."""
        self._send(encode_hello(orders.key, orders.worker, rank))

    def receive_setup(self) -> tuple[dict[str, Any], list[int]]:
        """Waits for the settings, and for the descriptors that come with them to rank 0.

        Raises:
            EOFError: the master hung up; it does not want us.
            ProtocolError: the frame is not a setup.
        """
        room = socket.CMSG_SPACE(_DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)
        head, ancillary, _, _ = self._socket.recvmsg(LENGTH_BYTES, room, _RECEIVE_FLAGS)
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(data) // _DESCRIPTOR_BYTES
                descriptors += struct.unpack_from(f"{count}i", data)
        head += self._receive(LENGTH_BYTES - len(head))
        word, *fields = decode_body(self._receive(decode_length(head)))
        if word != "setup" or len(fields) != 1:
            raise ProtocolError(f"the master sent a {word!r} frame where a setup was expected")
        return fields[0], descriptors

    def open_channel(self, descriptors: Sequence[int]) -> Channel:
        """What calls come from and results go to (see `shm.open_channel`)."""
        return open_channel(descriptors)

    def ready(self, rank: int) -> None:
        """Says that serving begins."""
        self._send(encode_frame(("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank})))

    def failed(self, parts: Sequence[Any]) -> None:
        """Says why we cannot serve: the parts of an exception."""
        self._send(encode_frame(("failed", [bytes(part) for part in parts])))

    def raised(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Says that this rank's call raised, while the others may wait for it in a collective.

        Raises:
            ValueError: the exception is larger than a frame may be; nothing was sent.
        """
        self._send(encode_frame(("raised", rank, call, [bytes(part) for part in parts])))

    def pass_on(self, body: bytes | bytearray) -> None:
        """Sends a frame that somebody else has made."""
        self._send(with_length(body))

    def hang_up(self) -> None:
        """Ends the connection, which stays open for whoever still uses its descriptor. From any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        """Hangs up. In a worker the connection stays open to the end: its watchdog looks at it."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data, SEND_FLAGS)

    def _receive(self, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        left = memoryview(data)
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise EOFError("the master hung up before it had sent all of its settings")
            left = left[count:]
        return data

"""The relay: a process beside the master that stands in for the workers of other hosts.

    master                     relay                                  rank on another host
    ring of the worker  <--->  RemoteRank: a thread for each rank  <--->  TcpChannel
    control connection  <--->                                  <--->  TcpControl
                               main thread: listens, looks at lifelines

To the master a relayed rank is like any other: the relay connects to his Unix socket in its place, maps the worker's
ring, and passes on what comes from either side. So neither dispatcher nor pool know of networks, and the user's threads
and the relay's do not wait for each other's interpreter lock.

Which calls are sent when is the matter of `pympipool.transport.tcp.prefetch`.

The relay ends with the master, by its watchdog; and when it ends, in whatever way, so do the workers behind it.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import resource
import secrets
import select
import socket
import ssl
import sys
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, NoReturn

from pympipool._core import ring
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.frames import HELLO_BYTES, decode_hello, encode_body
from pympipool.transport.shm import open_channel
from pympipool.transport.tcp.prefetch import PrefetchQueue
from pympipool.transport.tcp.stream import (
    CONTROL,
    HANDSHAKE_S,
    HELLO,
    HOST_GONE_S,
    LIFELINE_MAGIC,
    READY,
    TOKEN_BYTES,
    AuthenticationError,
    Stream,
    enable_keepalive,
    own_addresses,
    receive_token,
    server_context,
    server_handshake,
    set_nodelay,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_WORDS_S = 2.0
"""How long after the end of a rank's process its last messages may take."""

GREETING_MAX = 256
"""Connections whose peers have not proved yet who they are; more are closed at once."""

PAUSE_S = 0.05
"""Before the next look at a listener that could not accept."""

_BACKLOG = 1024
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR if sys.platform == "linux" else select.POLLIN


class RemoteRank:
    """One rank on another host, as a thread that passes on what it and the master say.

    Args:
        stream: The rank's connection; it has proved that it knows the key.
        lifeline: Tells of the end of the rank's process, and of its host.
        orders: Where the master is; of a worker in general.
    """

    def __init__(self, stream: Stream, lifeline: socket.socket, orders: WorkerConfig) -> None:
        self.stream = stream
        self.lifeline = lifeline
        self.control: WorkerControl | None = None
        self.gone = False
        self._line: PrefetchQueue | None = None
        self._orders = orders

    def serve(self, on_connected: Callable[[RemoteRank], None]) -> None:
        """Runs until either side is gone."""
        try:
            self._serve(on_connected)
        except (OSError, EOFError, ValueError):
            pass  # either side is gone, or the master does not want this rank
        finally:
            self.hang_up()

    def _serve(self, on_connected: Callable[[RemoteRank], None]) -> None:
        kind, _, _, parts = self.stream.receive()
        if kind != HELLO or len(parts[0]) != HELLO_BYTES:
            raise AuthenticationError("the first message is no hello")
        self.stream.set_timeout(None)  # from here on its lifeline tells whether it is there
        _, _, worker, rank = decode_hello(parts[0])
        orders = WorkerConfig(self._orders.address, self._orders.key, worker, ranks=1, launcher="")
        self.control = control = WorkerControl.connect(orders)
        control.send_hello(orders, rank)
        settings, descriptors = control.receive_setup()
        if settings["direct_output"]:  # for ranks of this host only
            *descriptors, stdout, stderr = descriptors
            os.close(stdout)
            os.close(stderr)
        channel = open_channel(descriptors) if rank == 0 else None
        on_connected(self)
        self.stream.send(CONTROL, 0, 0, [encode_body(("setup", settings))])
        while True:
            kind, _, _, parts = self.stream.receive()
            control.pass_on(parts[0])
            if kind == READY and channel is not None:
                self._line = PrefetchQueue(channel, self.stream, self.lifeline, control.pass_on, lambda: self.gone)
                self._relay_calls(self._line)
                return

    def _relay_calls(self, line: PrefetchQueue) -> None:
        try:
            while not self.gone:
                line.carry()
        except (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            if not self.gone:  # the worker has ended by itself: it begins nothing more
                line.return_unbegun()
            raise

    @property
    def idle(self) -> bool:
        """Whether it has no call."""
        return self._line is not None and self._line.idle

    def lose(self) -> None:
        """Its host is gone: tells the master, who would wait for an exit code else."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.pass_on(encode_body(("lost", f"its host has not answered for {HOST_GONE_S} s")))
        self.hang_up()

    def hang_up(self) -> None:
        """Ends all connections, and so the rank; from any thread."""
        self.gone = True
        self.stream.hang_up()
        with contextlib.suppress(OSError):  # it has ended already
            self.lifeline.shutdown(socket.SHUT_RDWR)
        if self.control is not None:
            self.control.hang_up()

    def close(self) -> None:
        """Gives back the descriptors; when the thread has ended."""
        self.stream.close()
        self.lifeline.close()
        if self.control is not None:
            self.control.close()


class Relay:
    """Lets ranks in, and notices their end and the master's.

    Args:
        orders: Where the master is, and the executor's key.
        local_only: Let in only who is on this host.
    """

    def __init__(self, orders: WorkerConfig, *, local_only: bool) -> None:
        self._orders = orders
        self._context = server_context()
        self._listener = socket.create_server(("127.0.0.1" if local_only else "", 0), backlog=_BACKLOG)
        self._greeting = 0
        self._awaited: dict[bytes, tuple[threading.Event, list[socket.socket]]] = {}
        self._poll = select.poll()
        self._watched: dict[int, RemoteRank] = {}
        self._last_words: list[tuple[float, RemoteRank]] = []
        self._lock = threading.Lock()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake_receiver, select.POLLIN)
        port = self._listener.getsockname()[1]
        hosts = ["127.0.0.1"] if local_only else own_addresses() or ["127.0.0.1"]
        self.addresses = [f"{host}:{port}" for host in hosts]

    def run(self) -> NoReturn:
        """The main thread."""
        while True:
            for descriptor, _ in self._poll.poll(self._patience_ms()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake_receiver.fileno():
                    self._wake_receiver.recv(4096)
                else:
                    self._look_at(descriptor)
            self._end_overdue()

    # ---- letting in ----

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again, or there is no descriptor left
            sleep(PAUSE_S)
            return
        if self._greeting >= GREETING_MAX:
            connection.close()
            return
        with self._lock:
            self._greeting += 1
        try:
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()
        except RuntimeError:  # the system has no more threads
            connection.close()
            with self._lock:
                self._greeting -= 1

    def _receive(self, connection: socket.socket) -> None:
        """A thread for each connection: a lifeline's ends soon, a rank's is the rank's."""
        remote = None
        try:
            connection.settimeout(HANDSHAKE_S)
            if connection.recv(1, socket.MSG_PEEK) == LIFELINE_MAGIC[:1]:
                self._attach_lifeline(connection)
                return
            remote = self._admit(connection)
        except (OSError, EOFError, ssl.SSLError):
            connection.close()
        finally:
            with self._lock:
                self._greeting -= 1
        if remote is None:
            return
        try:
            remote.serve(self._watch)
        finally:
            self._forget(remote)

    def _admit(self, connection: socket.socket) -> RemoteRank:
        set_nodelay(connection)
        token = secrets.token_bytes(TOKEN_BYTES)
        attached, lifelines = threading.Event(), list[socket.socket]()
        with self._lock:
            self._awaited[token] = attached, lifelines
        try:
            stream = server_handshake(connection, self._context, self._orders.key, token)
            if not attached.wait(HANDSHAKE_S):
                stream.close()
                raise AuthenticationError("a rank did not open its lifeline")
        finally:
            with self._lock:
                self._awaited.pop(token, None)
        return RemoteRank(stream, lifelines[0], self._orders)

    def _attach_lifeline(self, connection: socket.socket) -> None:
        token = receive_token(connection)
        with self._lock:
            known = [awaited for awaited in self._awaited if hmac.compare_digest(awaited, token)]
            attached, lifelines = self._awaited.pop(known[0]) if known else (None, None)
        if attached is None or lifelines is None:
            raise AuthenticationError("a lifeline of nobody")
        enable_keepalive(connection)
        connection.settimeout(None)
        lifelines.append(connection)
        attached.set()

    # ---- noticing the end ----

    def _watch(self, remote: RemoteRank) -> None:
        assert remote.control is not None
        with self._lock:
            for watched in (remote.lifeline, remote.control):
                self._watched[watched.fileno()] = remote
                self._poll.register(watched.fileno(), _GONE)
        self._wake()

    def _forget(self, remote: RemoteRank) -> None:
        with self._lock:
            for descriptor in [number for number, other in self._watched.items() if other is remote]:
                self._unwatch(descriptor)
            remote.close()
        self._wake()

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _look_at(self, descriptor: int) -> None:
        """One of a rank's connections has ended."""
        with self._lock:
            remote = self._watched.get(descriptor)
            if remote is None or not _is_gone(descriptor):  # the event was of another one that had the same number
                return
            self._unwatch(descriptor)
            if descriptor != remote.lifeline.fileno():
                remote.hang_up()
            elif not _has_ended(remote.lifeline):
                remote.lose()
            elif remote.idle:
                remote.hang_up()
            else:
                self._last_words.append((monotonic() + LAST_WORDS_S, remote))  # its thread reads them

    def _end_overdue(self) -> None:
        now = monotonic()
        for entry in [entry for entry in self._last_words if entry[0] <= now]:
            self._last_words.remove(entry)
            entry[1].hang_up()

    def _patience_ms(self) -> float | None:
        return max(0.0, self._last_words[0][0] - monotonic()) * 1000 + 1 if self._last_words else None

    def _wake(self) -> None:
        self._wake_sender.send(b"\0")


def _is_gone(descriptor: int) -> bool:
    """Whether this connection has ended now."""
    poll = select.poll()
    poll.register(descriptor, _GONE)
    return bool(poll.poll(0))


def _has_ended(lifeline: socket.socket) -> bool:
    """Whether the process at the other end has closed it, rather than that its host is gone."""
    try:
        return lifeline.recv(1, socket.MSG_DONTWAIT) == b""
    except ConnectionResetError:  # its host has answered
        return True
    except OSError:
        return False


def _allow_many_descriptors() -> None:
    """Each rank takes three, and what is usual allows a thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # the system promises more than it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> NoReturn:
    """Runs the relay on the socket whose descriptor the environment names.

    The master sends address and key through it, and gets the relay's addresses; its end is the end of the relay.
    """
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_RELAY")))
    ring.start_watchdog(master.fileno())
    file = master.makefile("rw")
    address, key, local_only = file.readline().split()
    try:
        relay = Relay(WorkerConfig(address, bytes.fromhex(key), 0, 1, ""), local_only=local_only == "1")
    except (OSError, ssl.SSLError) as error:
        print(f"failed {error}", file=file, flush=True)
        sys.exit(1)
    _allow_many_descriptors()
    print("ready", *relay.addresses, file=file, flush=True)
    relay.run()

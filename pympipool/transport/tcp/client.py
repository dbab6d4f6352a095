"""The rank's end of a link to a master on another host.

    TcpControl.connect(config)      to the first of the master's addresses where the listener proves the executor's key
    TcpControl.through_agent(config)  over the connections to the agent that has started this worker
      .send_hello(config, rank)     hello
      .receive_setup()              settings
      .open_channel()               TcpChannel: receive and answer, as of `channel.Channel`
      .request_shared()             shared data, over a connection of their own (shared_copies.py)
      .send_ready() .send_start_failed() .send_rank_error() .send_last_call() .send_exiting()   as of `WorkerControl`

The loops that serve calls see the same interface as on the master's own host. The connection belongs to the main
thread, except while that thread runs a call. During that time another thread answers requests to recall prefetched
calls; these requests arrive on the keepalive connection.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from time import monotonic, monotonic_ns, sleep
from types import ModuleType
from typing import Any

from pympipool._core.ring import CALL, TRACED
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import KEY_BYTES, ProtocolError, decode_body, encode_body, encode_hello
from pympipool.transport.tcp.handshake import (
    DATA_MAGIC,
    HANDSHAKE_TIMEOUT_S,
    KEEPALIVE_MAGIC,
    client_context,
    client_handshake,
)
from pympipool.transport.tcp.shared_copies import SharedCopies
from pympipool.transport.tcp.sockets import connect_to, enable_keepalive, set_nodelay
from pympipool.transport.tcp.stream import (
    CONTROL,
    HELLO,
    NO_MORE_CALLS,
    READY,
    RECALLED,
    RESUME,
    Message,
    Stream,
)

ADDRESS_TIMEOUT_S = 3.0
"""Seconds to wait for one address before the next one is tried."""

RETRY_DELAY_S = 0.5
"""Pause between two rounds through all addresses."""

REFUSALS_MAX = 3
"""Rounds in which every address refuses the connection before the master is considered gone."""


class UnreachableError(ConnectionError):
    """The master cannot be reached from this host."""


class TcpControl:
    """The connection of this rank to a master on another host.

    Args:
        stream: The connection for messages, after its handshake.
        keepalive: The keepalive connection.
        connect: Opens a connection for shared data, given the token of this rank.
        token: The token; b"": it comes with the settings.
    """

    def __init__(
        self, stream: Stream, keepalive: socket.socket, connect: Callable[[bytes], Stream], token: bytes = b""
    ) -> None:
        self._stream = stream
        self._keepalive = keepalive
        self._token = token
        self._copies = SharedCopies(lambda: connect(self._token))
        self._stream_lock = threading.RLock()
        # The relay has this rank killed when the connection ends. So the connection must last as long as the process,
        # and longer than Python's objects: those are gone while exit functions still run and MPI is still to be
        # finalized.
        os.dup(stream.fileno())

    @classmethod
    def connect(cls, config: WorkerConfig) -> TcpControl:
        """Connect to the master's relay.

        Raises:
            UnreachableError: No address works in time (see `open_connections`).
        """
        stream, keepalive, address, token = open_connections(config)
        return cls(stream, keepalive, functools.partial(_connect_for_data, (address,), config), token)

    @classmethod
    def through_agent(cls, config: WorkerConfig) -> TcpControl:
        """Use the connections to the agent of this host, which leads to the relay."""
        messages, recalls = (socket.socket(fileno=descriptor) for descriptor in config.agent_sockets)
        return cls(Stream(messages), recalls, functools.partial(_connect_for_data, config.tcp_addresses, config))

    def fileno(self) -> int:
        """Return the descriptor of the keepalive connection, or that to the agent in its place, for the watchdog."""
        return self._keepalive.fileno()

    def watched_master(self) -> int:
        """Return what tells the watchdog, or multiprocessing, that the master has ended; for the caller to keep."""
        return os.dup(self.fileno())

    def send_hello(self, config: WorkerConfig, rank: int) -> None:
        """Send the hello, which tells the master the worker's number and this rank."""
        self._stream.send(HELLO, 0, 0, [encode_hello(bytes(KEY_BYTES), config.worker, rank)])

    def receive_setup(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the settings. There are no descriptors: they cannot travel to another host.

        Raises:
            EOFError: The master hung up, so it does not accept this rank.
            ProtocolError: The frame is not a setup.
        """
        kind, _, _, parts = self._stream.receive()
        word, *fields = decode_body(parts[0])
        if len(parts) > 1:
            self._token = bytes(parts[1])
        if kind != CONTROL or word != "setup" or len(fields) != 1:
            raise ProtocolError(f"the master sent a {word!r} frame where a setup was expected")
        return fields[0], []

    def open_channel(self, _descriptors: Sequence[int], _rank: int = 0) -> TcpChannel:
        """Return the channel on which calls arrive and results are sent."""
        return TcpChannel(self._stream, self._keepalive, self._stream_lock, self._copies)

    def request_shared(self, key: bytes) -> int | None:
        """Return a descriptor of memory of this host with shared data; None if they have been released.

        Raises:
            SerializationError, MemoryError, OSError: See `SharedCopies.request`.
        """
        return self._copies.request(key)

    def drop_released(self) -> None:
        """Drop the shared data that have ended. Between calls, for ranks that have no channel; the channel does so by itself."""
        self._copies.drop_ended()

    def send_ready(self, rank: int) -> None:
        """Tell the master that serving begins."""
        self._send_frame(READY, ("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank}))

    def send_start_failed(self, parts: Sequence[Any], function: str = "") -> None:
        """Tell the master why this rank cannot serve (see `WorkerControl.send_start_failed`)."""
        self._send_frame(CONTROL, ("start_failed", [bytes(part) for part in parts], function))

    def send_rank_error(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Tell the master that this rank's call raised (see `WorkerControl.send_rank_error`)."""
        self._send_frame(CONTROL, ("rank_error", rank, call, [bytes(part) for part in parts]))

    def send_last_call(self) -> None:
        """Tell the master and the relay that this process begins its last call (see `WorkerControl.send_last_call`)."""
        self._send_frame(NO_MORE_CALLS, ("last_call",), calls_left=1)

    def send_exiting(self, why: str) -> None:
        """Tell the master and the relay that this process ends now (see `WorkerControl.send_exiting`)."""
        self._send_frame(NO_MORE_CALLS, ("exiting", why))

    def release(self) -> None:
        """Do nothing: the recall thread uses the connection to the end of the process."""

    def _send_frame(self, kind: int, frame: tuple[Any, ...], *, calls_left: int = 0) -> None:
        with self._stream_lock:
            self._stream.send(kind, calls_left, 0, [encode_body(frame)])


class TcpChannel:
    """Messages to and from the master, as of `channel.Channel`. For the thread that creates it.

    Args:
        stream: The connection.
        keepalive: The keepalive connection, on which the relay asks to recall calls.
        stream_lock: Held by the thread that may use the stream. The main thread releases it only while it runs a call.
        copies: The shared data of this process.
    """

    def __init__(
        self, stream: Stream, keepalive: socket.socket, stream_lock: threading.RLock, copies: SharedCopies
    ) -> None:
        self._stream = stream
        self._keepalive: socket.socket | None = keepalive  # until the recall thread has it
        self._copies = copies
        self._stream_lock = stream_lock
        self._running = 0  # id of the running call, or of the last one
        self._recall_requested = False
        self._unresumed_recalls = 0  # recalls that were answered and that the relay has not resumed from yet
        self._received_ns = 0
        self.stamps: list[int] = []
        self._import_times: ModuleType | None = None  # measures what traced calls import
        stream_lock.acquire()

    def receive(self) -> Message:
        """Wait for the next message and return it. A call counts as begun from here on. Recalled calls are skipped."""
        while True:
            self._copies.await_call(self._stream)
            message = self._stream.receive()
            kind = message[0]
            if kind == RESUME:
                self._unresumed_recalls -= 1
            elif kind != CALL:
                return message
            elif not self._unresumed_recalls:
                self._running = message[1]
                if self._keepalive is not None:
                    self._start_recall_thread(self._keepalive)
                if self._running & TRACED:
                    self._start_import_times()
                self._received_ns = monotonic_ns()
                self._stream_lock.release()
                if self._recall_requested:
                    self._answer_recall()
                return message

    def answer(self, kind: int, id: int, parts: Sequence[Any], run_ns: int = -1) -> None:  # noqa: A002  as on a channel
        """Send the answer to the call that has begun; for a traced call with its times, imports and `stamps`.

        Returns when the last byte is on its way.
        """
        begun_ns, ended_ns = self._received_ns, monotonic_ns()
        if id & TRACED:
            assert self._import_times is not None
            stamps = struct.pack(f"={len(self.stamps)}q", *self.stamps)
            parts = [*parts, struct.pack("=2q", begun_ns, ended_ns) + self._import_times.take() + stamps]
            self.stamps.clear()
        self._stream_lock.acquire()
        self._stream.send(kind, id, ended_ns - begun_ns if run_ns < 0 else run_ns, parts)

    def restart_clock(self) -> None:
        """Have the run time of the call that was received last begin now: what came before it is no part of the call."""
        if self._import_times is not None:
            self._import_times.take()
        self._received_ns = monotonic_ns()

    def _start_recall_thread(self, keepalive: socket.socket) -> None:
        """Start the recall thread with the first call: before it, there is nothing to recall that the main thread does not see."""
        thread = threading.Thread(target=self._serve_recalls, args=(keepalive,), name="pympipool_recall", daemon=True)
        with contextlib.suppress(
            RuntimeError
        ):  # no more threads: calls are recalled late until the next one tries it again
            thread.start()
            self._keepalive = None

    def _start_import_times(self) -> None:
        if self._import_times is None:
            from pympipool._core import import_times

            import_times.start()
            self._import_times = import_times
        self._import_times.take()  # what was imported between calls

    def _serve_recalls(self, keepalive: socket.socket) -> None:
        """Answer the relay's requests to recall calls; the main function of the recall thread."""
        with contextlib.suppress(OSError):  # the master is gone, and the watchdog is about to end this process
            while keepalive.recv(1):
                # Set before trying the lock: if the main thread holds it, it sees this when its next call begins.
                self._recall_requested = True
                self._answer_recall()

    def _answer_recall(self) -> None:
        """Tell the relay that the calls behind the running one will not be run.

        If the main thread holds the stream because no call is running, it sends this answer itself when the next call
        begins.
        """
        if self._stream_lock.acquire(blocking=False):
            try:
                self._recall_requested = False
                self._stream.send(RECALLED, self._running, 0, [b""])
                self._unresumed_recalls += 1
            finally:
                self._stream_lock.release()


def open_connections(
    config: WorkerConfig, is_abandoned: Callable[[], bool] = lambda: False
) -> tuple[Stream, socket.socket, str, bytes]:
    """Connect to the master's relay.

    Args:
        config: Where it is, and the key.
        is_abandoned: Returns True if another try is of no use. Asked after each round.

    Returns:
        The connection for messages, the keepalive connection, the address, and the token of this process.

    Raises:
        UnreachableError: No address works within `config.connect_timeout_s`. The message names the addresses, the
            reasons and the remedy.
    """
    context = client_context()
    deadline = monotonic() + config.connect_timeout_s
    refusals = 0
    while True:
        failures: dict[str, Exception] = {}
        for address in config.tcp_addresses:
            try:
                stream, keepalive, token = _connect(address, config, context, deadline)
                return stream, keepalive, address, token
            except (OSError, EOFError) as error:
                failures[address] = error
        refusals += all(isinstance(error, ConnectionRefusedError) for error in failures.values())
        if monotonic() + RETRY_DELAY_S > deadline or refusals >= REFUSALS_MAX or is_abandoned():
            raise UnreachableError(_why_unreachable(config, failures))
        sleep(RETRY_DELAY_S)


def _connect(
    address: str, config: WorkerConfig, context: ssl.SSLContext, deadline: float
) -> tuple[Stream, socket.socket, bytes]:
    """Open both connections to a relay, which has to prove the executor's key. Return them, and the token of this rank."""
    connection = connect_to(address, max(min(ADDRESS_TIMEOUT_S, deadline - monotonic()), 0.1))
    try:
        connection.settimeout(HANDSHAKE_TIMEOUT_S)
        set_nodelay(connection)
        stream, token = client_handshake(connection, context, config.key)
    except BaseException:
        connection.close()
        raise
    try:
        keepalive = connect_to(address, HANDSHAKE_TIMEOUT_S)
    except BaseException:
        stream.close()
        raise
    enable_keepalive(keepalive)
    keepalive.sendall(KEEPALIVE_MAGIC + token)
    keepalive.settimeout(None)
    stream.set_timeout(None)
    return stream, keepalive, token


def _connect_for_data(addresses: Sequence[str], config: WorkerConfig, token: bytes) -> Stream:
    """Open a connection for shared data to the relay that has given this rank its token, at the first address that works."""
    *others, last = addresses
    for address in others:
        with contextlib.suppress(OSError, EOFError):
            return _connect_to_address_for_data(address, config, token)
    return _connect_to_address_for_data(last, config, token)


def _connect_to_address_for_data(address: str, config: WorkerConfig, token: bytes) -> Stream:
    connection = connect_to(address, HANDSHAKE_TIMEOUT_S)
    try:
        set_nodelay(connection)
        connection.sendall(DATA_MAGIC + token)
        stream, _ = client_handshake(connection, client_context(), config.key)
    except BaseException:
        connection.close()
        raise
    stream.set_timeout(None)
    return stream


def _why_unreachable(config: WorkerConfig, failures: dict[str, Exception]) -> str:
    sender = f"worker {config.worker}" if config.worker else "the agent"
    tried = "; ".join(f"{address}: {error}" for address, error in failures.items()) or "no address was given"
    if failures and all(isinstance(error, ConnectionRefusedError) for error in failures.values()):
        limit = "no process listens there: the master has ended, or something between the hosts refuses connections"
    else:
        limit = f"within connect_timeout={config.connect_timeout_s:g} s"
    return (
        f"{sender} on host {socket.gethostname()} cannot connect to the master on host"
        f" {config.master_host}, {limit} ({tried}). Hosts must be able to open TCP connections to the host where the"
        " script runs: run it on a node of the cluster, or have its firewall let the nodes in; with"
        " hostname_localhost=True only workers on the master's own host can connect"
    )

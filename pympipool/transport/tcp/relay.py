"""The relay: a process beside the master that represents the workers of other hosts.

    master                     relay                                      rank on another host
    ring of the worker  <--->  RemoteRank: a thread for each rank  <--->  TcpChannel
    control connection  <--->                                      <--->  TcpControl
                               main thread: listens, watches the connections for their end

    rings of all workers of a host  <--->  AgentLink  <--->  agent of that host  <--->  workers
                                           AgentLoop: a few threads for all agents

To the master a relayed rank is like any other: the relay connects to the master's Unix socket in its place, maps the
worker's ring, and forwards what either side sends. So neither the dispatcher nor the pool knows about networks, and the
user's threads and the relay's threads do not wait for each other's interpreter lock.

`remote_rank.py` and `agent_link.py` have the threads, `prefetch.py` decides which calls are sent when, `handshake.py`
authenticates the ranks, and `shared_source.py` sends them shared data.

The relay ends with the master, by its watchdog. When the relay ends, in whatever way, the workers behind it end too. The
main thread answers each `PING` of the master, which ends a relay that does not. How it starts: `relay_program.py`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import select
import socket
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, NoReturn

from pympipool._util.platform import POLL_TELLS_HANG_UP
from pympipool.transport.fork_requests import pass_descriptors
from pympipool.transport.tcp.agent_link import AgentLink
from pympipool.transport.tcp.agent_loop import AgentLoops
from pympipool.transport.tcp.call_forwarder import CallForwarder
from pympipool.transport.tcp.handshake import (
    DATA_MAGIC,
    HANDSHAKE_TIMEOUT_S,
    KEEPALIVE_MAGIC,
    TOKEN_BYTES,
    AuthenticationError,
    receive_token,
    server_context,
    server_handshake,
)
from pympipool.transport.tcp.remote_rank import RemoteRank
from pympipool.transport.tcp.shared_source import SharedSource
from pympipool.transport.tcp.sockets import State, enable_keepalive, set_nodelay, state_of
from pympipool.transport.tcp.stream import AGENT
from pympipool.transport.tcp.unproved import UnprovedConnections

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.tcp.agent_rank import AgentRank
    from pympipool.transport.tcp.relayed_rank import RelayedRank
    from pympipool.transport.tcp.stream import Message, Stream
    from pympipool.transport.tcp.unproved import Unproved

FINAL_MESSAGES_TIMEOUT_S = 2.0
"""Seconds within which something must arrive of the last messages of a rank after its process has ended."""

ACCEPT_RETRY_DELAY_S = 0.05
"""Pause when no connection can be accepted, for example because there is no free descriptor."""

PING = b"?"
"""Sent by the master on the relay's socket."""

PONG = b"!"
"""The answer to `PING`."""

AGENT_CONNECTED = b"+"
"""Sent to the master with the descriptor of a connection to an agent."""

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR if POLL_TELLS_HANG_UP else select.POLLIN


class Relay:
    """Accepts ranks, and notices when a rank or the master has ended.

    Args:
        config: Address and key of the master.
        listener: Ranks and agents connect to it.
        master: The socket on which the master sends `PING`.

    Raises:
        ssl.SSLError: Python's OpenSSL lacks the ciphers.
    """

    def __init__(self, config: WorkerConfig, listener: socket.socket, master: socket.socket) -> None:
        self.config = config
        self.calls = CallForwarder()
        self._master = master
        self._context = server_context()
        self._listener = listener
        self._unproved = UnprovedConnections()
        self._expected: dict[bytes, tuple[threading.Event, list[socket.socket]]] = {}  # keepalive connections, by token
        self._ranks: dict[bytes, RelayedRank] = {}  # by token
        self._agents: dict[bytes, AgentLink] = {}  # by name
        self._loops = AgentLoops()
        self._shared = SharedSource()
        self._poll = select.poll()
        self._watched: dict[int, RemoteRank] = {}
        self._ending: list[tuple[float, RemoteRank]] = []  # ranks whose last messages are being read, with deadlines
        self._lock = threading.Lock()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake_receiver, select.POLLIN)
        self._poll.register(master, select.POLLIN)

    def run(self) -> NoReturn:
        """Run the event loop of the main thread."""
        while True:
            for descriptor, _ in self._poll.poll(self._poll_timeout_ms()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake_receiver.fileno():
                    self._wake_receiver.recv(4096)
                elif descriptor == self._master.fileno():
                    self._answer_pings()
                else:
                    self._on_disconnect(descriptor)
            self._end_overdue()

    def _answer_pings(self) -> None:
        with contextlib.suppress(OSError):  # the master is gone, and the watchdog is about to end this process
            self._master.sendall(PONG * self._master.recv(64).count(PING))

    # ---- accepting ----

    def _accept(self) -> None:
        if not self._unproved.make_room():
            sleep(ACCEPT_RETRY_DELAY_S)
            return
        try:
            unproved = self._unproved.add(self._listener.accept()[0])
        except OSError:  # the peer has gone again, or there is no descriptor left
            sleep(ACCEPT_RETRY_DELAY_S)
            return
        try:
            threading.Thread(target=self._receive, args=(unproved,), daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._unproved.remove(unproved)
            unproved.socket.close()

    def _receive(self, unproved: Unproved) -> None:
        """Serve one connection; the main function of a thread.

        The thread of a keepalive connection ends soon, the others end with the rank.
        """
        try:
            unproved.socket.settimeout(HANDSHAKE_TIMEOUT_S)
            serve = self._admit(unproved)
        except BaseException as error:
            self._unproved.remove(unproved)  # before another connection can get its descriptor
            unproved.socket.close()
            if isinstance(error, (OSError, EOFError)):
                return
            raise
        if serve is not None:
            serve()

    def _admit(self, unproved: Unproved) -> Callable[[], None] | None:
        """Find out what a connection is for. Return the function that serves it; None if there is nothing to serve."""
        if unproved.socket.recv(1, socket.MSG_PEEK) != KEEPALIVE_MAGIC[:1]:
            return self._authenticate(unproved)
        magic, token = receive_token(unproved.socket)
        if magic == DATA_MAGIC:
            return self._attach_data(unproved, token)
        self._attach_keepalive(unproved, token)
        return None

    def _handshake(self, unproved: Unproved, token: bytes) -> Stream:
        set_nodelay(unproved.socket)
        stream = server_handshake(self._unproved.start_tls(unproved, self._context), self.config.key, token)
        self._unproved.remove(unproved)
        return stream

    def _serve(self, remote: RemoteRank) -> None:
        try:
            remote.serve(self._watch)
        finally:
            self._forget(remote)

    def _authenticate(self, unproved: Unproved) -> Callable[[], None] | None:
        """Perform the handshake with a rank or an agent, and wait for its keepalive connection."""
        token = self.new_token()
        attached, keepalives = threading.Event(), list[socket.socket]()
        with self._lock:
            self._expected[token] = attached, keepalives
        try:
            stream = self._handshake(unproved, token)
            if not attached.wait(HANDSHAKE_TIMEOUT_S):
                stream.close()
                raise AuthenticationError("a rank did not open its keepalive connection")
        finally:
            with self._lock:
                self._expected.pop(token, None)
        try:
            stream.set_timeout(HANDSHAKE_TIMEOUT_S)
            hello = stream.receive()
            if hello[0] == AGENT:
                self._attach_agent(stream, keepalives[0], hello)
                return None
        except BaseException:
            stream.close()
            keepalives[0].close()
            raise
        remote = RemoteRank(stream, keepalives[0], self.config, token, hello)
        self.add_rank(remote)
        return lambda: self._serve(remote)

    # ---- agents ----

    def _attach_agent(self, stream: Stream, keepalive: socket.socket, hello: Message) -> None:
        """Take the connection of a new agent, or another one of an agent that was cut off."""
        _, _, received_bytes, (report, name) = hello
        with self._lock:
            link = self._agents.get(bytes(name))
        if link is not None:
            link.attach(stream, keepalive, received_bytes)
            return
        if name:
            raise AuthenticationError("the agent has been given up")
        with self._lock:
            loop = self._loops.choose()
        try:
            new_link = AgentLink(self.new_token(), bytes(report), self, loop)
        except BaseException:
            with self._lock:
                loop.link_count -= 1
            raise
        with self._lock:
            self._agents[new_link.name] = new_link
        try:
            new_link.attach(stream, keepalive, received_bytes)
            new_link.offer()
        except BaseException:
            new_link.give_up()
            raise

    def remove_agent(self, link: AgentLink) -> None:
        """Forget an agent that is gone."""
        with self._lock:
            self._agents.pop(link.name, None)
            link.loop.link_count -= 1

    def new_token(self) -> bytes:
        """Return a token that cannot be guessed."""
        return os.urandom(TOKEN_BYTES)

    def add_rank(self, rank: RemoteRank | AgentRank) -> None:
        """Accept connections for shared data of a rank."""
        with self._lock:
            self._ranks[rank.token] = rank

    def remove_rank(self, rank: RemoteRank | AgentRank) -> None:
        """Accept no more of them."""
        with self._lock:
            del self._ranks[rank.token]

    def offer_agent(self, connection: socket.socket) -> None:
        """Give the master its end of the connection to an agent."""
        pass_descriptors(self._master, AGENT_CONNECTED, [connection.fileno()])

    def _attach_data(self, unproved: Unproved, token: bytes) -> Callable[[], None]:
        """Perform the handshake of a connection for shared data."""
        with self._lock:
            remote = self._ranks.get(token)
        if remote is None:
            raise AuthenticationError("no rank has this token")
        stream = self._handshake(unproved, token)
        stream.set_timeout(None)  # from here on the keepalive connection tells whether the rank is there
        remote.attach_data(stream)
        return lambda: self._shared.serve(stream, remote)

    def _attach_keepalive(self, unproved: Unproved, token: bytes) -> None:
        """Hand a new keepalive connection to the thread of its rank."""
        with self._lock:
            known = [expected for expected in self._expected if hmac.compare_digest(expected, token)]
            attached, keepalives = self._expected.pop(known[0]) if known else (None, None)
        if attached is None or keepalives is None:
            raise AuthenticationError("no rank expects this keepalive connection")
        self._unproved.remove(unproved)
        enable_keepalive(unproved.socket)
        unproved.socket.settimeout(None)
        keepalives.append(unproved.socket)
        attached.set()

    # ---- noticing the end ----

    def _watch(self, remote: RemoteRank) -> None:
        assert remote.control is not None
        with self._lock:
            for watched in (remote.keepalive, remote.control):
                self._watched[watched.fileno()] = remote
                self._poll.register(watched.fileno(), _GONE)
        self._wake()

    def _forget(self, remote: RemoteRank) -> None:
        self.remove_rank(remote)
        with self._lock:
            for descriptor in [number for number, other in self._watched.items() if other is remote]:
                self._unwatch(descriptor)
            remote.close()
        self._wake()

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _on_disconnect(self, descriptor: int) -> None:
        """End a rank one of whose connections has ended."""
        with self._lock:
            remote = self._watched.get(descriptor)
            if remote is None or not _is_gone(descriptor):  # the event was of a closed one that had the same number
                return
            self._unwatch(descriptor)
            if descriptor != remote.keepalive.fileno():
                remote.hang_up()
            elif state_of(remote.keepalive) not in (State.CLOSED, State.RESET):  # such a rank does not connect again
                remote.mark_lost()
            elif remote.idle:
                remote.hang_up()
            else:
                self._ending.append((monotonic() + FINAL_MESSAGES_TIMEOUT_S, remote))  # its thread reads them

    def _end_overdue(self) -> None:
        """Hang up on ranks of which nothing has arrived for too long."""
        now = monotonic()
        for entry in [entry for entry in self._ending if entry[0] <= now]:
            self._ending.remove(entry)
            if entry[1].is_receiving():
                self._ending.append((now + FINAL_MESSAGES_TIMEOUT_S, entry[1]))
            else:
                entry[1].hang_up()

    def _poll_timeout_ms(self) -> float | None:
        return max(0.0, self._ending[0][0] - monotonic()) * 1000 + 1 if self._ending else None

    def _wake(self) -> None:
        self._wake_sender.send(b"\0")


def _is_gone(descriptor: int) -> bool:
    """Return True if this connection has ended by now."""
    poll = select.poll()
    poll.register(descriptor, _GONE)
    return bool(poll.poll(0))

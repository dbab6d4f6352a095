"""The link to a worker on another host: what its two ends share.

    relay (on the master's host)                     rank (on any host)
    listens on one port           <-- TCP, TLS --->  connects: messages and control frames
      server_handshake()                                          join()
    looks at its lifeline         <-- TCP, idle -->  a watchdog looks at its lifeline

The connection is TLS with an anonymous key exchange: no certificate has to be made, kept or handed over. Who is who is
proved inside it: each side sends an HMAC, made with the executor's key, over what is unique to this very
TLS session (RFC 5929, "tls-unique"). Somebody in between has two sessions, whose values differ, and cannot make the
proofs. Nothing is unpickled before, and nothing is said to somebody who has not proved the key.

The lifeline is a second connection that carries hardly anything after its first bytes. While nothing is sent, the kernels of
both hosts ask each other by themselves whether they are there (keepalive), whatever the processes do: so a host that
is gone is noticed within `HOST_GONE_S`, and a worker that holds the interpreter lock for minutes is alive.

Why not ZeroMQ's CURVE: in pyzmq's wheel its cipher moves 26 MB/s, AES-GCM in OpenSSL 400 and more, on the same machine.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import ssl
import struct
import sys
import tempfile
from collections.abc import Sequence
from time import monotonic
from typing import Any, TypeAlias

from pympipool._core.ring import new_buffer

HOST_GONE_S = 4
"""Within this time each side notices that the other's host is gone: one second of silence, then three questions."""

HANDSHAKE_S = 10.0
"""How long a peer may take to prove that it knows the key."""

LIFELINE_MAGIC = b"pmplife1"
"""First bytes of a lifeline, then its token. A TLS handshake begins with 0x16."""

TOKEN_BYTES = 16

CONTROL = 1 << 16
"""Kind of a message whose only part is the body of a control frame; the kinds of csrc/channel.h are small numbers."""

READY = CONTROL + 1
"""Likewise, and the frame says that serving begins."""

HELLO = CONTROL + 2
"""Kind of the first message of a rank: its only part is a hello, without the key, which was proved before."""

RECALLED = CONTROL + 3
"""Kind of a rank's answer to `RECALL`: its id is that of the call that runs there, and those behind it will not."""

RESUME = CONTROL + 4
"""Kind of the relay's answer to that: the calls that follow are meant again."""

RECALL = b"b"
"""Over the lifeline to a rank: give back the calls that were sent ahead and are not begun."""

Message: TypeAlias = tuple[int, int, int, list[Any]]

_WORKER, _MASTER = b"pympipool worker", b"pympipool master"
_PROOF_BYTES = 32
_HEAD = struct.Struct("<IIQQ")  # kind, part count, id, tag
_SIZE_BYTES = 8
_JOIN_BYTES = 1 << 14
"""Parts up to this size are put together: what fits into one record of TLS travels as one."""

_BUFFER_BYTES = 1 << 16

_CIPHERS = "ADH-AES128-GCM-SHA256:ADH-AES256-GCM-SHA384:@SECLEVEL=0"
"""Anonymous, so only for who proves himself afterwards. Every level but 0 rules out anonymous ciphers, strong or not."""

_GROUP = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group ffdhe2048 of RFC 7919: public, and the same for everybody."""


class AuthenticationError(ConnectionError):
    """The peer does not know the key of this executor."""


class Stream:
    """Messages over an established connection. For one thread at a time.

    A message is a head, the sizes of its parts, and the parts; large ones are sent from, and received into, their own
    memory.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._outgoing = bytearray()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0  # of what was received and not yet taken

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._connection.fileno()

    def set_timeout(self, timeout_s: float | None) -> None:
        """Limits what follows; None: it may take for ever."""
        self._connection.settimeout(timeout_s)

    def send(self, kind: int, id: int, tag: int, parts: Sequence[Any]) -> None:  # noqa: A002  as on a channel
        """Sends a message; returns when its last byte is on its way.

        Raises:
            OSError: the peer is gone.
        """
        self.put(kind, id, tag, parts)
        self.flush()

    def put(self, kind: int, id: int, tag: int, parts: Sequence[Any]) -> None:  # noqa: A002
        """Has a message go with the next `flush`, together with what comes after it; large parts go at once.

        Raises:
            OSError: the peer is gone.
        """
        outgoing = self._outgoing
        sizes = [len(part) for part in parts]
        outgoing += _HEAD.pack(kind, len(parts), id, tag) + struct.pack(f"<{len(sizes)}Q", *sizes)
        for part, size in zip(parts, sizes, strict=True):
            if len(outgoing) + size > _JOIN_BYTES:
                self.flush()
            if size > _JOIN_BYTES:
                self._connection.sendall(part)
            else:
                outgoing += part

    def flush(self) -> None:
        """Sends what was put; returns when its last byte is on its way.

        Raises:
            OSError: the peer is gone.
        """
        if self._outgoing:
            self._connection.sendall(self._outgoing)
            self._outgoing.clear()

    def wait(self, timeout_s: float) -> bool:
        """Waits until there is something to `receive`, of which the rest may have to be waited for."""
        if self._begin < self._end or self._connection.pending():
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def receive(self) -> Message:
        """The next message, waited for; its parts are writable and nobody else's.

        Raises:
            EOFError: the peer has ended.
            OSError: the peer is gone, or the time is over.
        """
        self._fill(_HEAD.size)
        kind, count, id_, tag = _HEAD.unpack_from(self._buffer, self._begin)
        self._begin += _HEAD.size
        self._fill(count * _SIZE_BYTES)
        sizes = struct.unpack_from(f"<{count}Q", self._buffer, self._begin)
        self._begin += count * _SIZE_BYTES
        return kind, id_, tag, [self._take(size) for size in sizes]

    def _fill(self, size: int) -> None:
        """Receives until so many bytes are in the buffer, which has room for them."""
        while self._end - self._begin < size:
            if self._begin == self._end:
                self._begin = self._end = 0
            elif self._begin and self._end + _JOIN_BYTES > _BUFFER_BYTES:
                rest = self._end - self._begin
                self._buffer[:rest] = self._buffer[self._begin : self._end]
                self._begin, self._end = 0, rest
            self._end += self._receive_into(self._view[self._end :])

    def _take(self, size: int) -> Any:
        """The next bytes: small parts out of the buffer, large ones straight into their place."""
        if size <= _JOIN_BYTES:
            self._fill(size)
            taken = self._buffer[self._begin : self._begin + size]
            self._begin += size
            return taken
        part = new_buffer(size)
        left = memoryview(part)
        here = min(self._end - self._begin, size)
        left[:here] = self._view[self._begin : self._begin + here]
        self._begin += here
        left = left[here:]
        while left:
            left = left[self._receive_into(left) :]
        return part

    def _receive_into(self, view: memoryview) -> int:
        count = self._connection.recv_into(view)
        if not count:
            raise EOFError("the peer has ended the connection")
        return count

    def hang_up(self) -> None:
        """Ends the connection; whoever waits in `receive` or `send` is woken. From any thread."""
        try:
            # Not the TLS socket's own shutdown, which would drop its session under the thread that uses it.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        """Gives back the descriptor."""
        self._connection.close()


def server_context() -> ssl.SSLContext:
    """For the side that listens.

    Raises:
        ssl.SSLError: Python's OpenSSL lacks the ciphers.
    """
    context = _restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # it takes nothing but files
        file.write(_GROUP)
        file.flush()
        context.load_dh_params(file.name)
    return context


def client_context() -> ssl.SSLContext:
    """For the side that connects.

    Raises:
        ssl.SSLError: Python's OpenSSL lacks the ciphers.
    """
    return _restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _restrict(context: ssl.SSLContext) -> ssl.SSLContext:
    """TLS 1.2, the last version with anonymous ciphers and "tls-unique"; whole handshakes only, for its sake."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def join(connection: socket.socket, context: ssl.SSLContext, key: bytes) -> tuple[Stream, bytes]:
    """The rank's side of the greeting.

    Returns:
        The stream, and the token of the lifeline that must be opened next.

    Raises:
        AuthenticationError: whoever listens there is not our master.
        OSError: it is gone, says something else, or the time is over.
    """
    tls = context.wrap_socket(connection)
    try:
        binding = _binding(tls)
        tls.sendall(_proof(key, _WORKER, binding))
        answer = _receive_exactly(tls, _PROOF_BYTES + TOKEN_BYTES)
        if not hmac.compare_digest(answer[:_PROOF_BYTES], _proof(key, _MASTER, binding)):
            raise AuthenticationError("whoever listens there does not know the key of this executor")
    except BaseException:
        tls.close()
        raise
    return Stream(tls), answer[_PROOF_BYTES:]


def server_handshake(connection: socket.socket, context: ssl.SSLContext, key: bytes, token: bytes) -> Stream:
    """The master's side of the greeting.

    Raises:
        AuthenticationError: the peer does not know the key.
        OSError: it is gone, says something else, or the time is over.
    """
    tls = context.wrap_socket(connection, server_side=True)
    try:
        binding = _binding(tls)
        if not hmac.compare_digest(_receive_exactly(tls, _PROOF_BYTES), _proof(key, _WORKER, binding)):
            raise AuthenticationError("the peer does not know the key of this executor")
        tls.sendall(_proof(key, _MASTER, binding) + token)
    except BaseException:
        tls.close()
        raise
    return Stream(tls)


def _binding(tls: ssl.SSLSocket) -> bytes:
    binding = tls.get_channel_binding("tls-unique")
    if not binding or tls.session_reused:
        raise AuthenticationError("the TLS session has nothing unique to prove the key over")
    return binding


def _proof(key: bytes, role: bytes, binding: bytes) -> bytes:
    return hmac.digest(key, role + b"\0" + binding, "sha256")


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    deadline_s = monotonic() + HANDSHAKE_S  # for all of it: each byte may come in time
    while len(data) < size:
        connection.settimeout(max(deadline_s - monotonic(), 0.01))
        more = connection.recv(size - len(data))
        if not more:
            raise AuthenticationError("the peer hung up before it had proved that it knows the key")
        data += more
    return data


def receive_token(connection: socket.socket) -> bytes:
    """The token of a lifeline that somebody opens.

    Raises:
        AuthenticationError: it is no lifeline.
    """
    said = _receive_exactly(connection, len(LIFELINE_MAGIC) + TOKEN_BYTES)
    if not said.startswith(LIFELINE_MAGIC):
        raise AuthenticationError(f"the peer's first bytes are not {LIFELINE_MAGIC!r}")
    return said[len(LIFELINE_MAGIC) :]


def set_nodelay(connection: socket.socket) -> None:
    """Has small messages sent without waiting for more."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def enable_keepalive(connection: socket.socket) -> None:
    """Has the kernel end a silent connection whose other host is gone, within `HOST_GONE_S`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # Linux, macOS
    if silence is not None:
        connection.setsockopt(socket.IPPROTO_TCP, silence, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, HOST_GONE_S - 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # the same where a word is on its way and not acknowledged
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, HOST_GONE_S * 1000)


def own_addresses() -> list[str]:
    """IPv4 addresses under which other hosts may reach this one, the most likely first: never the loopback's."""
    found: list[str] = []
    try:
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    except OSError:
        pass  # the host's name does not resolve
    found += _interface_addresses()
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")]


def _interface_addresses() -> list[str]:
    if sys.platform != "linux":
        return []
    import fcntl

    get_address, address_at = 0x8915, slice(20, 24)  # SIOCGIFADDR; struct ifreq: name, then sockaddr_in
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket, get_address, struct.pack("256s", os.fsencode(name)))
            except OSError:
                continue  # no IPv4 address
            found.append(socket.inet_ntoa(answer[address_at]))
    return found

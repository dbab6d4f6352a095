"""The handshake between the relay and a rank on another host: TLS, then a proof of the executor's key.

    relay                                                rank
    server_handshake()   <-- TCP, TLS handshake -->      client_handshake()
                         <-- proof of the worker ---
                         --- proof of the master, token -->
    receive_token()      <-- KEEPALIVE_MAGIC, token ---  a second connection: the keepalive connection
    receive_token()      <-- DATA_MAGIC, token --------  one for shared data, when the rank needs them: then as the first

The connection is TLS with an anonymous key exchange: no certificate has to be made, stored or distributed.
Authentication happens inside it: each side sends an HMAC, made with the executor's key, over a value that is unique to
this TLS session (RFC 5929, "tls-unique"). A man in the middle has two sessions, whose values differ, and cannot make
the proofs. Nothing is unpickled before the handshake is complete, and no message is sent to a peer that has not
proved the key.

The keepalive connection carries hardly anything after its first bytes. While nothing is sent, the kernels of both
hosts probe each other (TCP keepalive), whatever the processes do. So the loss of a host is noticed within
`sockets.HOST_GONE_S`, and a worker that holds the interpreter lock for minutes still counts as alive.

Why not ZeroMQ's CURVE: its cipher in pyzmq's wheel moves 26 MB/s; AES-GCM in OpenSSL moves 400 MB/s and more on the
same machine.
"""

from __future__ import annotations

import hmac
import os
import socket
import ssl
from time import monotonic

from pympipool._util.platform import DESCRIPTORS
from pympipool.transport.tcp.stream import Stream

HANDSHAKE_TIMEOUT_S = 10.0
"""Seconds that a peer may take to prove that it knows the key."""

KEEPALIVE_MAGIC = b"pmplife1"
"""First bytes of a keepalive connection; its token follows. A TLS handshake begins with 0x16 instead."""

DATA_MAGIC = b"pmpdata1"
"""First bytes of a connection for shared data; the token of its rank follows, and then a handshake as that of the rank."""

TOKEN_BYTES = 16
"""Size of the token that assigns further connections to their rank."""

_WORKER, _MASTER = b"pympipool worker", b"pympipool master"
_PROOF_BYTES = 32

_CIPHERS = "ADH-AES128-GCM-SHA256:ADH-AES256-GCM-SHA384:@SECLEVEL=0"
"""Anonymous ciphers, so only for peers that authenticate afterwards. Every security level but 0 excludes anonymous
ciphers, strong or not."""

_GROUP = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The Diffie-Hellman group ffdhe2048 of RFC 7919. It is public; all executors use the same."""


class AuthenticationError(ConnectionError):
    """The peer does not know the key of this executor."""


def server_context() -> ssl.SSLContext:
    """Return the TLS context of the listening side.

    Raises:
        ssl.SSLError: Python's OpenSSL lacks the ciphers.
    """
    context = _restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    reader, writer = os.pipe()  # load_dh_params accepts only a file; a pipe leaves none if this process is killed
    try:
        with open(writer, "w") as group:
            group.write(_GROUP)
        context.load_dh_params(f"{DESCRIPTORS}/{reader}")
    finally:
        os.close(reader)
    return context


def client_context() -> ssl.SSLContext:
    """Return the TLS context of the connecting side.

    Raises:
        ssl.SSLError: Python's OpenSSL lacks the ciphers.
    """
    return _restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _restrict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Restrict a context to TLS 1.2 with full handshakes.

    TLS 1.2 is the last version with anonymous ciphers and "tls-unique". A resumed session has no unique value.
    """
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def client_handshake(connection: socket.socket, context: ssl.SSLContext, key: bytes) -> tuple[Stream, bytes]:
    """Perform the rank's side of the handshake.

    Returns:
        The stream, and the token with which the rank must open its keepalive connection next, and opens one for shared data.

    Raises:
        AuthenticationError: The listener is not this rank's master.
        OSError: The peer is gone, speaks another protocol, or the time is over.
    """
    tls = context.wrap_socket(connection)
    try:
        binding = _binding(tls)
        tls.sendall(_proof(key, _WORKER, binding))
        answer = _receive_exactly(tls, _PROOF_BYTES + TOKEN_BYTES)
        if not hmac.compare_digest(answer[:_PROOF_BYTES], _proof(key, _MASTER, binding)):
            raise AuthenticationError("the listener does not know the key of this executor")
    except BaseException:
        tls.close()
        raise
    return Stream(tls), answer[_PROOF_BYTES:]


def server_socket(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return the master's TLS socket, in place of that of a connection. Nothing has been exchanged yet."""
    return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


def server_handshake(tls: ssl.SSLSocket, key: bytes, token: bytes) -> Stream:
    """Perform the master's side of the handshake. If it fails, the caller closes the socket.

    Raises:
        AuthenticationError: The peer does not know the key.
        OSError: The peer is gone, speaks another protocol, or the time is over.
    """
    tls.do_handshake()
    binding = _binding(tls)
    if not hmac.compare_digest(_receive_exactly(tls, _PROOF_BYTES), _proof(key, _WORKER, binding)):
        raise AuthenticationError("the peer does not know the key of this executor")
    tls.sendall(_proof(key, _MASTER, binding) + token)
    return Stream(tls)


def receive_token(connection: socket.socket) -> tuple[bytes, bytes]:
    """Receive the first bytes of a further connection of a rank: `KEEPALIVE_MAGIC` or `DATA_MAGIC`, and the rank's token.

    Raises:
        AuthenticationError: The connection is of no rank.
        OSError: The peer is gone, or the time is over.
    """
    received = _receive_exactly(connection, len(KEEPALIVE_MAGIC) + TOKEN_BYTES)
    magic, token = received[:-TOKEN_BYTES], received[-TOKEN_BYTES:]
    if magic not in (KEEPALIVE_MAGIC, DATA_MAGIC):
        raise AuthenticationError(f"the peer's first bytes are {magic!r}, which no rank sends")
    return magic, token


def _binding(tls: ssl.SSLSocket) -> bytes:
    """Return the value that is unique to this TLS session."""
    binding = tls.get_channel_binding("tls-unique")
    if not binding or tls.session_reused:
        raise AuthenticationError("the TLS session has nothing unique to prove the key over")
    return binding


def _proof(key: bytes, role: bytes, binding: bytes) -> bytes:
    return hmac.digest(key, role + b"\0" + binding, "sha256")


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    deadline_s = monotonic() + HANDSHAKE_TIMEOUT_S  # for all bytes: each one alone may arrive within a socket timeout
    while len(data) < size:
        connection.settimeout(max(deadline_s - monotonic(), 0.01))
        more = connection.recv(size - len(data))
        if not more:
            raise AuthenticationError("the peer hung up before it had proved that it knows the key")
        data += more
    return data

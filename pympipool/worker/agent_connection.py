"""The agent's connection to the relay: opened when the agent starts, and again when the network was cut off."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable

from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import encode_body
from pympipool.transport.tcp.agent_stream import AgentStream
from pympipool.transport.tcp.client import open_connections
from pympipool.transport.tcp.handshake import HANDSHAKE_TIMEOUT_S
from pympipool.transport.tcp.sockets import State, state_of
from pympipool.transport.tcp.stream import AGENT

RECONNECT_TIMEOUT_S = 20.0
"""Seconds that an agent tries to connect again: longer than the relay waits for that, which refuses it then."""

HANG_UP_S = 1.0
"""Seconds within which the keepalive connection ends after the one for frames, if the relay has hung up."""


class AgentConnection:
    """The agent's connection to the relay, which is opened again when the network was cut off.

    Args:
        config: Addresses and key of the master. Of the addresses only the one that works is kept.
        report: Describes this host.

    Attributes:
        frames: What is sent and received.
        keepalive: The keepalive connection; it ends with the relay's process, or when the network is cut off.

    Raises:
        OSError: The master cannot be reached from here.
    """

    def __init__(self, config: WorkerConfig, report: dict[str, object]) -> None:
        self._config = config
        self._report = report
        self._name = b""
        self.frames = AgentStream()
        self.keepalive = self._connect(_is_abandoned)

    def _connect(self, is_abandoned: Callable[[], bool] = lambda: False) -> socket.socket:
        stream, keepalive, address, _ = open_connections(self._config, is_abandoned)
        try:
            stream.set_timeout(HANDSHAKE_TIMEOUT_S)  # the network may be cut off again
            report = encode_body(("agent", {**self._report, "addresses": _addresses(keepalive)}))
            stream.send(AGENT, 0, self.frames.received_bytes, [report, self._name])
            _, _, received_bytes, (name,) = stream.receive()
            self._name = bytes(name)
            self.frames.detach()
            connection, rest = stream.detach()
            self.frames.attach(connection, rest, received_bytes)  # type: ignore[arg-type]
        except BaseException:
            stream.close()
            keepalive.close()
            raise
        self._config.tcp_addresses = (address,)  # others that do not answer would use up the time that the relay waits
        return keepalive

    def reconnect(self) -> None:
        """Connect again, if the relay has not ended.

        Raises:
            EOFError: The relay has hung up, or has given this agent up.
            OSError: It cannot be reached.
        """
        poll = select.poll()
        poll.register(self.keepalive, select.POLLIN)
        if poll.poll(HANG_UP_S * 1000) and state_of(self.keepalive) is State.CLOSED:
            raise EOFError("the relay has ended")
        self._config.connect_timeout_s = RECONNECT_TIMEOUT_S
        keepalive = self._connect()
        self.keepalive.close()
        self.keepalive = keepalive


def _addresses(connection: socket.socket) -> tuple[str, str]:
    """Return the addresses of both ends of a connection, without ports; "" and "" if it is a Unix socket."""
    if connection.family == socket.AF_UNIX:
        return "", ""
    return connection.getsockname()[0], connection.getpeername()[0]


def _is_abandoned() -> bool:
    """Return True if no process reads what this one prints: its launcher has ended, and so has the master, or it starts another.

    The master reads and drops what agents print. An ssh notices by this byte that its master is gone.
    """
    try:
        os.write(1, b"\n")
    except BrokenPipeError:
        return True
    except OSError:  # there is no stdout
        pass
    return False

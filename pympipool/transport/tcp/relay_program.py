"""The relay's program: it takes the socket that its master listens on, and imports what the relay needs (`relay.py`).

    master                                     relay
    listens; now programs on other hosts can be started, which takes as long as this one
    address, key, listening socket ──────────►
                    ◄── "ready"                or "failed" and the reason, and the end of the process
                    ◄─── pings, agents ──────► `Relay.run`

Connections that come before the relay is ready wait in the queue of the listening socket.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
from typing import NoReturn

from pympipool._core import ring
from pympipool._util import signals
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.fork_requests import receive_descriptors

_LINE_BYTES = 4096


def main() -> NoReturn:
    """Run the relay on the socket whose descriptor the environment names.

    The master sends its address and the key through this socket, and the listening socket. When it ends, the relay ends.
    """
    signals.reset()
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_RELAY")))
    ring.start_watchdog(master.fileno())
    line, (listener,) = receive_descriptors(master, _LINE_BYTES)
    address, key = line.decode().split()
    try:
        from pympipool.transport.tcp.relay import Relay  # with OpenSSL

        config = WorkerConfig(address, bytes.fromhex(key), 0, 1, "")
        relay = Relay(config, socket.socket(fileno=listener), master)
    except (OSError, ImportError) as error:  # SSLError, too
        master.sendall(f"failed {' '.join(str(error).split())}\n".encode())  # in one line
        sys.exit(1)
    _allow_many_descriptors()
    master.sendall(b"ready\n")
    relay.run()


def _allow_many_descriptors() -> None:
    """Raise the limit of open descriptors to its maximum.

    Each rank that no agent has forked takes three or four, and the usual limit is a thousand.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # the system announces more than it grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))

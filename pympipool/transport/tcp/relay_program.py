"""The relay's program: it listens, tells the master where, and only then imports what the relay needs (`relay.py`).

    master                                    relay
    address and key ─────────────────────────►
                    ◄── "listening", addresses   now programs on other hosts can be started, which takes as long
                    ◄── "ready"                  or "failed" and the reason, and the end of the process
                    ◄─── pings, agents ──────►   `Relay.run`

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
from pympipool.transport.tcp.sockets import own_addresses

_BACKLOG = 1024


def main() -> NoReturn:
    """Run the relay on the socket whose descriptor the environment names.

    The master sends its address and the key through this socket and receives the relay's addresses. When the socket
    ends, the relay ends.
    """
    signals.reset()
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_RELAY")))
    ring.start_watchdog(master.fileno())
    with master.makefile("rw") as file:
        address, key, local_only = file.readline().split()
        try:
            listener = socket.create_server(("127.0.0.1" if local_only == "1" else "", 0), backlog=_BACKLOG)
            hosts = ["127.0.0.1"] if local_only == "1" else own_addresses() or ["127.0.0.1"]
            port = listener.getsockname()[1]
            print("listening", *(f"{host}:{port}" for host in hosts), file=file, flush=True)

            from pympipool.transport.tcp.relay import Relay  # with OpenSSL: half of the time that the start takes

            relay = Relay(WorkerConfig(address, bytes.fromhex(key), 0, 1, ""), listener, master)
        except (OSError, ImportError) as error:  # SSLError, too
            print("failed", *str(error).split(), file=file, flush=True)  # in one line
            sys.exit(1)
        _allow_many_descriptors()
        print("ready", file=file, flush=True)
    relay.run()


def _allow_many_descriptors() -> None:
    """Raise the limit of open descriptors to its maximum.

    Each rank that no agent has forked takes three or four, and the usual limit is a thousand.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # the system announces more than it grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))

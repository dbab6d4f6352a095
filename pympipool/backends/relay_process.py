"""Starts and ends the relay (see `pympipool.transport.tcp.relay`), through which workers on other hosts reach the master.

Relay.environment(order) ── starts it with the first order ──> what a worker must know to reach it
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping

from pympipool._util import subprocesses
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

START_S = 30.0
"""How long the relay may take to start; usually 0.1 s."""


class Relay:
    """The relay of one executor.

    Args:
        local_only: It listens on 127.0.0.1 only.
    """

    def __init__(self, *, local_only: bool) -> None:
        self._local_only = local_only
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._addresses = ""

    def environment(self, order: LaunchRequest) -> dict[str, str]:
        """The variables of a worker that may run on another host.

        Raises:
            WorkerStartError: The relay does not start; says why.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start(order)
        return {
            "PYMPIPOOL_TCP": self._addresses,
            "PYMPIPOOL_HOST": socket.gethostname(),
            "PYMPIPOOL_CONNECT_S": str(order.connect_limit_s),
        }

    def _start(self, order: LaunchRequest) -> None:
        command = program_command("pympipool.transport.tcp.relay")
        try:
            self._process, ours = subprocesses.popen_with_socket(
                command, _own_environment(order), "PYMPIPOOL_RELAY", stdout=subprocess.DEVNULL
            )
        except OSError as error:
            raise WorkerStartError(f"the relay to workers on other hosts does not start: {error}") from error
        self._socket = ours
        self._addresses = self._ask(ours, order.environment)

    def _ask(self, relay: socket.socket, orders: Mapping[str, str]) -> str:
        relay.settimeout(START_S)
        try:
            with relay.makefile("rw") as file:
                address, key = orders["PYMPIPOOL_ADDRESS"], orders["PYMPIPOOL_KEY"]
                print(address, key, int(self._local_only), file=file, flush=True)
                word, _, rest = file.readline().strip().partition(" ")
        except OSError as error:
            word, rest = "failed", str(error)
        if word != "ready":
            self.close()
            raise WorkerStartError(
                f"the relay to workers on other hosts does not start: {rest or 'it ended at once'}. Workers of this"
                ' host only need none: backend="mpi"'
            )
        return rest

    def close(self) -> None:
        """Ends the relay, and with it the workers behind it."""
        self.after_fork_in_child()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _own_environment(order: LaunchRequest) -> dict[str, str]:
    """Without the key: the relay gets it through its socket."""
    return {name: value for name, value in worker_environment(order).items() if name != "PYMPIPOOL_KEY"}

"""What the program of a worker learns from its environment.

    spawner: environment ─► WorkerConfig.from_environ(os.environ) ─► the worker knows how to reach the master

`control_server.Listener.environment` and the relay set these variables, a spawner hands them to the processes of the
worker, and the worker removes them as soon as it has read them.
"""

from __future__ import annotations

import os

from pympipool.transport.frames import KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

NUMBER = "PYMPIPOOL_WORKER"
"""The variable with a worker's number: all that tells the workers apart that are forked for one request after the other."""

_VARIABLES = (
    "PYMPIPOOL_ADDRESS",
    "PYMPIPOOL_KEY",
    NUMBER,
    "PYMPIPOOL_RANKS",
    "PYMPIPOOL_PATH",  # already used by the first lines of the program, see backends/program.py
    "PYMPIPOOL_LAUNCHER",
    "PYMPIPOOL_TCP",
    "PYMPIPOOL_HOST",
    "PYMPIPOOL_CONNECT_S",
    "PYMPIPOOL_CWD",
    "PYMPIPOOL_ERROR_LOG",
    "PYMPIPOOL_RESULT_OF",
    "PYMPIPOOL_AGENT",
)
_REQUIRED = _VARIABLES[:4]


class WorkerConfig:
    """The configuration of a worker, as its environment brings it.

    Attributes:
        address: Address of the master's listener: `@name` for an abstract Unix socket, else a path; "": it is on another host.
        key: The executor's key. It proves to the master that this process is one of its workers.
        worker: Number of the worker.
        ranks: Number of processes of the worker.
        launcher: Path of the mpiexec that started the worker, "" if none did.
        tcp_addresses: Addresses of the master's relay (see `transport/tcp/sockets.py`); empty if all workers run on the
            master's host.
        master_host: Name of the master's host, for error messages.
        connect_timeout_s: Seconds to keep trying to reach the relay.
        cwd: The working directory to change to where the launcher cannot be relied on to set it, else "".
        error_log_file: Path of the file to which failed calls are written, "" for none.
        agent_sockets: Descriptors of two connections to the agent that has started the worker, for messages and for requests to
            recall calls; empty if none has.
        root_only: The result of a call is that of rank 0, not a list of those of all ranks.
    """

    __slots__ = (
        "address",
        "agent_sockets",
        "connect_timeout_s",
        "cwd",
        "error_log_file",
        "key",
        "launcher",
        "master_host",
        "ranks",
        "root_only",
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
        connect_timeout_s: float = 60.0,
        cwd: str = "",
        error_log_file: str = "",
        root_only: bool = False,
        agent_sockets: Sequence[int] = (),
    ) -> None:
        self.address = address
        self.key = key
        self.worker = worker
        self.ranks = ranks
        self.launcher = launcher
        self.tcp_addresses = tuple(tcp_addresses)
        self.master_host = master_host
        self.connect_timeout_s = connect_timeout_s
        self.cwd = cwd
        self.error_log_file = error_log_file
        self.root_only = root_only
        self.agent_sockets = tuple(agent_sockets)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> WorkerConfig:
        """Read the variables of a worker and remove them: programs that the user's code starts must not see them.

        Raises:
            ValueError: A variable is missing or invalid.
        """
        variables = {name: environ.pop(name, "") for name in _VARIABLES}
        for name in _REQUIRED:
            if not variables[name]:
                raise ValueError(f"{name} is not set: this program is started by a pympipool.Executor, not by hand")
        key = bytes.fromhex(variables["PYMPIPOOL_KEY"])
        if len(key) != KEY_BYTES:
            raise ValueError(f"PYMPIPOOL_KEY has {len(key)} bytes; it must have {KEY_BYTES}")
        return cls(
            address=variables["PYMPIPOOL_ADDRESS"],
            key=key,
            worker=int(variables["PYMPIPOOL_WORKER"]),
            ranks=int(variables["PYMPIPOOL_RANKS"]),
            launcher=variables["PYMPIPOOL_LAUNCHER"],
            tcp_addresses=variables["PYMPIPOOL_TCP"].split(),
            master_host=variables["PYMPIPOOL_HOST"],
            connect_timeout_s=float(variables["PYMPIPOOL_CONNECT_S"] or 60.0),
            cwd=variables["PYMPIPOOL_CWD"],
            error_log_file=variables["PYMPIPOOL_ERROR_LOG"],
            root_only=variables["PYMPIPOOL_RESULT_OF"] == "root",
            agent_sockets=agent_sockets(variables["PYMPIPOOL_AGENT"]),
        )


def forget_variables(environ: MutableMapping[str, str]) -> None:
    """Remove the variables of a worker from the environment of a program that is none, and forks workers."""
    for name in _VARIABLES:
        environ.pop(name, None)


def agent_sockets(variable: str) -> list[int]:
    """Return the descriptors in a variable that is for the process with the id before them, and for no child of it."""
    pid, *descriptors = map(int, variable.split() or ["0"])
    return descriptors if pid == os.getpid() else []

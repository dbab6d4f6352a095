"""What a worker's program learns from its environment.

spawner: environment ─► from_environ(os.environ) ─► WorkerConfig ─► how to reach the master, and what to be
"""

from __future__ import annotations

from pympipool.transport.frames import KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_VARIABLES = (
    "PYMPIPOOL_ADDRESS",
    "PYMPIPOOL_KEY",
    "PYMPIPOOL_WORKER",
    "PYMPIPOOL_RANKS",
    "PYMPIPOOL_PATH",  # read by the first lines of the program, see spawners/base.py
    "PYMPIPOOL_LAUNCHER",
    "PYMPIPOOL_TCP",
    "PYMPIPOOL_HOST",
    "PYMPIPOOL_CONNECT_S",
    "PYMPIPOOL_CWD",
    "PYMPIPOOL_ERROR_LOG",
)


class WorkerConfig:
    """What a worker's program learns from its environment.

    Attributes:
        address: Of the master's listener: `@name` for an abstract Unix socket, else a path.
        key: What proves to the master that we are one of his.
        worker: Our number.
        ranks: How many processes we are.
        launcher: Path of the mpiexec that started us, "" when there is none.
        tcp_addresses: Of the master's relay, `host:port` each; none where all workers are on the master's host.
        master_host: Name of the master's host, for error messages.
        connect_limit_s: How long to try to reach the relay.
        cwd: The folder to work in, where the launcher cannot be relied on for it; else "".
        error_log_file: Where calls that fail are written down; "": nowhere.
    """

    __slots__ = (
        "address",
        "connect_limit_s",
        "cwd",
        "error_log_file",
        "key",
        "launcher",
        "master_host",
        "ranks",
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
        connect_limit_s: float = 60.0,
        cwd: str = "",
        error_log_file: str = "",
    ) -> None:
        self.address = address
        self.key = key
        self.worker = worker
        self.ranks = ranks
        self.launcher = launcher
        self.tcp_addresses = tuple(tcp_addresses)
        self.master_host = master_host
        self.connect_limit_s = connect_limit_s
        self.cwd = cwd
        self.error_log_file = error_log_file


def from_environ(environ: MutableMapping[str, str]) -> WorkerConfig:
    """Reads the variables of a worker and removes them: what the user's code starts must not see them.

    Raises:
        ValueError: they are missing or make no sense.
    """
    taken = {name: environ.pop(name, "") for name in _VARIABLES}
    for name in _VARIABLES[:4]:
        if not taken[name]:
            raise ValueError(f"{name} is not set: this program is started by a pympipool.Executor, not by hand")
    key = bytes.fromhex(taken["PYMPIPOOL_KEY"])
    if len(key) != KEY_BYTES:
        raise ValueError(f"PYMPIPOOL_KEY has {len(key)} bytes; it must have {KEY_BYTES}")
    return WorkerConfig(
        address=taken["PYMPIPOOL_ADDRESS"],
        key=key,
        worker=int(taken["PYMPIPOOL_WORKER"]),
        ranks=int(taken["PYMPIPOOL_RANKS"]),
        launcher=taken["PYMPIPOOL_LAUNCHER"],
        tcp_addresses=taken["PYMPIPOOL_TCP"].split(),
        master_host=taken["PYMPIPOOL_HOST"],
        connect_limit_s=float(taken["PYMPIPOOL_CONNECT_S"] or 60.0),
        cwd=taken["PYMPIPOOL_CWD"],
        error_log_file=taken["PYMPIPOOL_ERROR_LOG"],
    )

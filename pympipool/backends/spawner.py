"""What every spawner promises.

    pool -- LaunchRequest --> Spawner.start() --> WorkerProcess -- fileno, poll, stdout, stderr --> pool

A new way to start workers is one more `Spawner`; the pool knows nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.errors import WorkerStartError
    from pympipool.transport.inbox import Inbox
    from pympipool.transport.relayed_connection import RelayedConnection


@dataclass(frozen=True)
class LaunchRequest:
    """The parameters with which the processes of a worker are started.

    Attributes:
        number: The worker's number, unique in its executor.
        ranks: The number of the worker's processes.
        environment: Variables that are set in addition to the master's environment: those of a worker's program (see
            docs/design.md), and those of the user.
        cwd: The folder that the worker runs in; None: the master's.
        preload: Modules that processes which fork workers import before; None: those that calls have imported.
        connect_timeout_s: Seconds that its ranks may take, from the start of their processes, until they have connected.
    """

    number: int
    ranks: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    preload: tuple[str, ...] | None = None
    connect_timeout_s: float = 60.0


class WorkerProcess(ABC):
    """The processes of one worker, which live and end as one.

    Attributes:
        pid: The id of the process that stands for all: the only one, or the launcher of the ranks.
        host: The name of the host where that process runs.
        stdout: What the worker prints: a raw pipe that does not block (`read` returns None when there is no data
            yet, b"" at the end). The reader closes it.
        stderr: What the worker prints to stderr, as a pipe like stdout.
        delivery_delay_s: Seconds after the worker's end in which messages that its ranks sent before may still arrive.
            0 where all ranks run on this host.
        direct_output: The writing ends of stdout and stderr for the ranks on this host, where the launcher is a slow
            way for what ranks print. The ranks get them with their settings. None: ranks print through the launcher.
        exit_code_is_known: False once the process has ended, and its exit code could not be found out: the user's program
            has waited for it.
        start_failure: Why its processes could not be started, if a helper was to start them and did not. None: another
            reason, or they were.
        exit_grace_s: Seconds that the processes may outlive the connection of a rank before they are killed.
        kill_timeout_s: Seconds that the processes may take to end after `kill`. Those that take longer hang in the kernel.
        noisy_exit: True if the launcher writes long messages to stderr when it is ended. These are of no use to the
            user.
    """

    delivery_delay_s = 0.0
    exit_code_is_known = True
    noisy_exit = False
    exit_grace_s = 1.0
    kill_timeout_s = 5.0
    start_failure: WorkerStartError | None = None
    direct_output: tuple[int, int] | None = None

    pid: int
    host: str
    stdout: BinaryIO
    stderr: BinaryIO

    @abstractmethod
    def fileno(self) -> int | None:
        """Return a descriptor, for selectors, that becomes readable at the end; None where the system has none."""

    def waitable(self) -> int | Inbox | None:
        """Return what the event loop watches to notice the end: a descriptor, or what stands for one."""
        return self.fileno()

    @abstractmethod
    def poll(self) -> int | None:
        """Return the exit code (-N: ended by signal N), or None while the worker runs."""

    def pending_reason(self) -> str:
        """Return why the processes are not started yet, as the end of a sentence; "" if they are, or nothing is known."""
        return ""

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """Return the rank that ended first, as far as is known here, and its exit code.

        To be called after the end, when `stdout` has been read to its end.

        Args:
            rank: The rank whose connection ended first. It need not be the rank that ended first: other ranks are
                killed because of that one, and their connections may end sooner.
        """
        code = self.poll()
        return rank, code if self.exit_code_is_known else None

    def loss_reason(self) -> str | None:
        """Return, after the end, why nothing is known of the way in which the ranks ended; None if it is known."""
        return None

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        """Return True if the worker has ended because the request can never be met, so that another try is of no use.

        Args:
            last_stderr: The last lines that the worker wrote to stderr.
        """
        return False

    def launch_failure(self, last_stderr: Sequence[str]) -> str:
        """Return, for what was to start an agent, why none has connected, with the remedy; "": nothing more is known."""
        return ""

    def has_started(self) -> bool:
        """Return False while the worker waits in a queue, and its processes do not run.

        Raises:
            WorkerStartError: The scheduler has lost the request.
        """
        return True

    def is_delivering(self) -> bool:
        """Return True, after the end, if a helper holds up what the ranks sent before their end."""
        return False

    def on_connected(self) -> None:  # noqa: B027  most spawners need not know
        """Take note that all ranks have connected to the master."""

    def outage(self, last_stderr: Iterable[str]) -> str | None:
        """Return, as a sentence, which outage of a scheduler has kept the worker from starting; None: another reason.

        Args:
            last_stderr: The last lines that the worker wrote to stderr.
        """
        return None

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None on timeout."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask all of the worker's processes to end."""

    @abstractmethod
    def kill(self) -> None:
        """Kill all of the worker's processes and what they have started.

        After the worker's end, kill what it has left behind.
        """

    def kill_unreachable(self) -> None:
        """Kill at once what can be reached from here of a worker, one of whose hosts does not answer."""
        self.kill()

    def add_rank(self, rank: int, pid: int) -> None:  # noqa: B027  most spawners know their processes
        """Take the process id, on its host, of a rank that is ready."""

    @abstractmethod
    def close(self) -> None:
        """Release process id, descriptors and pipes. To be called after the end; `kill` does nothing from then on."""


class Helper(Protocol):
    """A process that the spawner keeps running besides workers, or the code that asks it."""

    def check(self) -> float | None:
        """Replace the process if it does not answer. Must not wait for it.

        Called after each `Spawner.start`, and then for as long as this asks for it.

        Returns:
            The seconds until the next check; None: there is nothing to check until the next start.
        """


class Loop(Protocol):
    """What a spawner needs of the supervisor's event loop."""

    def watch(self, readable: Any, handler: Callable[[], None]) -> None:
        """Call handler() whenever something is readable."""

    def unwatch(self, readable: Any) -> None:
        """Stop watching."""

    def call(self, function: Callable[[], None]) -> None:
        """Call function() in the loop's thread, soon. From any thread."""

    def call_later(self, delay_s: float, function: Callable[[], None]) -> Any:
        """Call function() after delay_s seconds."""


class SpawnerEvents(Protocol):
    """What the supervisor does for a spawner."""

    @property
    def loop(self) -> Loop: ...

    def admit(self, connection: RelayedConnection) -> None:
        """Take the control connection of a worker, or close it if there is no such worker."""

    def check_soon(self, helper: Helper) -> None:
        """Have a helper checked in this round of the loop, and then for as long as the check asks for that."""


class Spawner(ABC):
    """A way to start workers.

    Attributes:
        is_queued: True if a worker may wait in a queue, for any time, before its processes start (see
            `WorkerProcess.has_started`).
        helpers: The processes besides workers that may fail to answer.
        has_links_of_its_own: False if workers get their rings when they have connected: usually on another host, where they
            need no large ones.
    """

    is_queued = False
    has_links_of_its_own = True
    helpers: Sequence[Helper] = ()

    def attach(self, events: SpawnerEvents) -> None:  # noqa: B027  most spawners watch nothing
        """Take note of the supervisor. Called before each `start`."""

    def prepare(self, request: LaunchRequest) -> bool:
        """Start what workers need besides their own processes, without waiting for it.

        Args:
            request: With the master's address and key.

        Returns:
            False while it starts: `start` must not be called yet.
        """
        return True

    @abstractmethod
    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Start the processes of a worker, without waiting for them.

        Raises:
            WorkerStartError: The processes cannot be started; tells why, and what to do.
        """

    def close(self) -> None:  # noqa: B027  most spawners have nothing to end
        """End the processes that the spawner keeps running besides workers."""

    def after_fork_in_child(self) -> None:  # noqa: B027
        """Close in a forked child the connections to these processes, which stay the parent's."""

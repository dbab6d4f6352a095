"""What every spawner promises.

    pool -- LaunchRequest --> Spawner.start() --> WorkerProcess -- fileno, poll, stdout, stderr --> pool

A new backend is one more Spawner; the pool knows nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True)
class LaunchRequest:
    """What a worker's processes are started with.

    Attributes:
        number: Of the worker, unique in its executor.
        ranks: How many processes it has.
        environment: What is set there besides the master's environment: the variables of a worker's program (see
            docs/design.md), and the user's.
        cwd: Folder it runs in; None: the master's.
        connect_limit_s: How long its ranks may take, from the start of their processes, until they have connected.
    """

    number: int
    ranks: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    connect_limit_s: float = 60.0


class WorkerProcess(ABC):
    """The processes of one worker, as one thing that lives and ends.

    Attributes:
        pid: Of the process that stands for all: the only one, or the launcher of the ranks.
        host: Name of the host where that process runs.
        stdout: What the worker prints: a raw pipe that does not block (`read` returns None when there is nothing
            yet, b"" at the end). The reader closes it.
        stderr: Likewise.
        last_words_s: How long after its end what its ranks have sent before may still be on its way: on this host
            nothing is.
        direct_output: Descriptors behind stdout and stderr for its ranks on this host, where whatever starts them is a slow
            way for what they print. They get them with their settings. None: they print through what started them.
        noisy_exit: When it is ended, its launcher says so to stderr, at length; nobody wants to read that.
    """

    last_words_s = 0.0
    noisy_exit = False
    direct_output: tuple[int, int] | None = None

    pid: int
    host: str
    stdout: BinaryIO
    stderr: BinaryIO

    @abstractmethod
    def fileno(self) -> int | None:
        """A descriptor that becomes readable at the end, for selectors; None where the system has no such thing."""

    @abstractmethod
    def poll(self) -> int | None:
        """The exit code (-N: ended by signal N), None as long as it runs."""

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """After the end, `stdout` read to its end: which rank ended first, as far as is known here, and its exit code.

        Args:
            rank: The one whose connection ended first. Those of ranks that are ended with it may be quicker.
        """
        return rank, self.poll()

    def refused(self, last_stderr: Iterable[str]) -> bool:
        """Whether it has ended because what was ordered can never be had, so that another try is of no use.

        Args:
            last_stderr: The last lines that it wrote there.
        """
        return False

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits for the end; the exit code, or None when the time was over before."""

    @abstractmethod
    def terminate(self) -> None:
        """Asks all of its processes to end."""

    @abstractmethod
    def kill(self) -> None:
        """Ends all of its processes, and what they have started; also what a process that has ended left behind."""

    def kill_unreachable(self) -> None:
        """Ends what of it can be reached from here, at once: the host of some of its processes does not answer."""
        self.kill()

    def add_rank(self, pid: int) -> None:  # noqa: B027  most know their processes
        """A rank is ready, which is this process on its host."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the system keeps of it. For after the end; `kill` does nothing from here on."""


class Spawner(ABC):
    """Starts workers of one kind.

    Attributes:
        queues: A worker may have to wait, for any time, before its processes start.
    """

    queues = False

    @abstractmethod
    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Starts the processes of a worker, and does not wait for them.

        Raises:
            WorkerStartError: They cannot be started; says why and what to do.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to end
        """Ends what it keeps running besides workers."""

    def after_fork_in_child(self) -> None:  # noqa: B027
        """In a forked child: lets go of that."""

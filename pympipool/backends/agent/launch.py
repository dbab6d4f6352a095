"""One launch of agents as its master sees it: the launcher's process, until an agent has connected, and its end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pympipool._util.clocks import RunningClock
from pympipool.errors import WorkerStartError, describe_exit

if TYPE_CHECKING:
    from pympipool.backends.spawner import WorkerProcess

LAUNCH_TIMEOUT_S = 70.0
"""Seconds that agents may take to connect after their launcher has started them: more than they try to (`connect_timeout`)."""

END_TIMEOUT_S = 0.2
"""Seconds that a launcher has to end by itself after its agents at the end of the executor; usually it takes 50 ms."""

EXIT_TIMEOUT_S = 1.0
"""Seconds that it may take to end after it was asked to."""

_STDERR_BYTES = 1 << 16
_STDERR_LINES = 20


class LaunchFailure(NamedTuple):
    """Why agents did not start.

    Attributes:
        error: The error of a worker that has waited for them.
        outage: Which outage of a scheduler was the reason; None: another one.
        is_permanent: Another launch is of no use.
    """

    error: WorkerStartError
    outage: str | None
    is_permanent: bool


class Launch:
    """A launcher's process, the hosts on which it is to start agents (None: all), and the id of the relay that they connect to."""

    def __init__(self, process: WorkerProcess, hosts: Sequence[str] | None, relay_pid: int | None) -> None:
        self.process = process
        self.is_connected = False
        self.hosts = hosts
        self.relay_pid = relay_pid
        self._arrived: set[str] = set()  # the hosts whose agents have connected
        self._since_start = RunningClock()  # or since the first agent has connected
        self._stderr = b""

    def agent_connected(self, host: str) -> None:
        """Take note that an agent has connected."""
        if self.hosts is not None and host not in self.hosts:
            return
        self._arrived.add(host)
        if not self.is_connected:
            self.is_connected = True
            self._since_start.restart()
            self.process.on_connected()

    def is_over(self) -> bool:
        """Return True if the first agent has connected so long ago that no other one will."""
        return self.is_connected and self._since_start.elapsed() > LAUNCH_TIMEOUT_S

    def awaits(self, host: str) -> bool:
        """Return True if the agent of a host may still connect."""
        return (self.hosts is None or host in self.hosts) and host not in self._arrived and not self.is_over()

    def check(self) -> LaunchFailure | None:
        """Return why no agent will connect; None while one may, or has. To be called now and then: it reads what is printed."""
        self._read()
        if self.is_connected:
            return None
        try:
            if not self.process.has_started():
                self._since_start.restart()
        except WorkerStartError as error:
            return LaunchFailure(error, None, is_permanent=False)
        if self._since_start.elapsed() < LAUNCH_TIMEOUT_S:
            return None
        where = f" from {', '.join(self.hosts)}" if self.hosts else ""
        return LaunchFailure(
            WorkerStartError(f"no agent has connected{where} within {LAUNCH_TIMEOUT_S:g} s", last_stderr=self._lines),
            None,
            is_permanent=False,
        )

    def failure(self) -> LaunchFailure:
        """Return why no agent has connected. To be called after the end of the process."""
        lines = self._lines
        reason = self.process.launch_failure(lines)
        error = WorkerStartError(
            reason or "the agents, which start workers on the hosts of the job, do not start",
            exit_code=None if reason else self.process.poll(),
            last_stderr=() if lines and lines[-1] in reason else lines,
        )
        return LaunchFailure(error, self.process.outage(lines), self.process.failed_permanently(lines))

    @property
    def last_words(self) -> str:
        """How the process has ended, if it has, and the last line of its stderr; "": it runs, and has printed nothing."""
        code = self.process.poll()
        self._read()
        end = [] if code is None else [describe_exit(code)]
        return "; ".join(end + [f"says: {line}" for line in self._lines[-1:]])

    @property
    def _lines(self) -> tuple[str, ...]:
        return tuple(self._stderr.decode(errors="replace").splitlines()[-_STDERR_LINES:])

    def _read(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            with contextlib.suppress(ValueError):  # it is closed
                while data := stream.read(_STDERR_BYTES):
                    if stream is self.process.stderr:
                        self._stderr = (self._stderr + data)[-_STDERR_BYTES:]

    def end(self, grace_s: float) -> None:
        """End the process; its agents end too.

        Args:
            grace_s: Seconds that it has to end by itself before.
        """
        self._read()
        if self.process.wait(grace_s) is None:
            self.process.kill()
        if grace_s and self.process.wait(EXIT_TIMEOUT_S) is None:  # it waits for a host that does not answer
            self.process.kill_unreachable()
            self.process.wait(EXIT_TIMEOUT_S)
        self.process.close()

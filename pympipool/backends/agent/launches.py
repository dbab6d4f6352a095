"""The launches of the agents of one executor: one for all hosts of a job, and later for those that lack one; or one for each host.

start_missing ── launcher.start ──> Launch ── agent_connected ──> it stands for the agents until they end
                                      └────── check: it has failed ──> a pause, before these hosts are launched again
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from pympipool._util.clocks import RunningClock
from pympipool.backends.agent.launch import Launch, LaunchFailure
from pympipool.backends.program import worker_environment
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import LaunchRequest

RELAUNCH_PAUSE_S = 1.0
"""Pause before another launch after one that has failed, or whose agent has ended; doubles with each further failure."""

RELAUNCH_PAUSE_MAX_S = 60.0
"""Longest such pause."""

END_TIMEOUT_MIN_S = 0.01
"""Seconds that a launcher has to end by itself, after others have taken their time."""

_ALL = ""
"""Stands for all hosts, where one launch starts all agents."""


class Launches:
    """The launches of one executor. Only for the supervisor's thread.

    Args:
        launcher: Starts agents.
        relay: They connect to it.
    """

    def __init__(self, launcher: Launcher, relay: Relay) -> None:
        self._launcher = launcher
        self._relay = relay
        self._launches: list[Launch] = []
        self._count = 0
        self._last_words = ""  # of the launcher that has ended last
        self._known: set[str] = set()  # the names of all hosts that have had an agent
        self._is_told = False  # that some lack one
        self._pauses: dict[str, _Pause] = {}  # by host

    @property
    def are_pending(self) -> bool:
        """True if a launch may still bring agents."""
        return any(not launch.is_connected for launch in self._launches)

    @property
    def are_running(self) -> bool:
        """True if a launcher may print something."""
        return bool(self._launches)

    def last_words(self) -> str:
        """Return the last words of a launcher: of one that has not been released, or else of the one that was last; "": none."""
        words = [launch.last_words for launch in self._launches] + [self._last_words]
        return next(filter(None, words), "")

    def agent_connected(self, host: str) -> None:
        """Take note that an agent has connected."""
        self._known.add(host)
        self._pauses.pop(host, None)
        self._pauses.pop(_ALL, None)
        for launch in self._launches:
            launch.agent_connected(host)

    def incomplete(self) -> str:
        """Return which hosts have an agent if others lack one long after the first came, once; otherwise ""."""
        if self._is_told or not any(launch.hosts is None and launch.is_over() for launch in self._launches):
            return ""
        self._is_told = True
        if len(self._known) >= self._launcher.host_count:
            return ""
        missing = ", ".join(name for name in self._names() if name not in self._known)
        return (
            f"{len(self._known)} of {self._launcher.host_count} hosts have an agent ({', '.join(sorted(self._known))}):"
            f" workers run on these only{f', until another launch brings one on {missing}' if missing else ''}"
        )

    def may_bring_more(self, connected: Collection[str]) -> bool:
        """Return True if a host, of those that are known by name, lacks an agent and has not failed to start one lately.

        Args:
            connected: The hosts that have an agent.
        """
        if self._launcher.hosts is None:
            return False
        missing = self._missing(connected)
        return self.are_pending or any(name not in self._pauses or self._pauses[name].is_over() for name in missing)

    def failure(self, connected: Collection[str]) -> LaunchFailure | None:
        """Return why hosts that are known by name lack an agent, an outage before others; None: no launch has failed.

        Args:
            connected: The hosts that have an agent.
        """
        away = [name for name in self._launcher.hosts or () if name not in connected]
        pauses = [self._pauses[name] for name in away if name in self._pauses]
        failures = [pause.failure for pause in pauses if pause.failure is not None]
        outages = [failure for failure in failures if failure.outage is not None]
        return next(iter([*outages, *failures]), None)

    def start_missing(self, request: LaunchRequest, connected: Collection[str]) -> list[LaunchFailure]:
        """Launch agents on the hosts that lack one, except where a launch is under way or has just failed.

        Args:
            request: What an agent needs to know of the master.
            connected: The hosts that have an agent.

        Returns:
            The failures of launches that could not even begin.
        """
        ready = [name for name in self._missing(connected) if self._pauses.setdefault(name, _Pause()).is_over()]
        alone = [name for name in ready if self._launcher.hosts is not None or self._pauses[name].is_alone]
        together = [name for name in ready if name not in alone]
        groups = [[name] for name in alone] + ([together] if together else [])
        failures = []
        for names in groups:
            for name in names:
                self._pauses[name].begin()
            if (failure := self._start(request, None if names == [_ALL] else names)) is not None:
                failures.append(failure)
                self._extend_pauses(names, failure)
        return failures

    def _names(self) -> list[str]:
        """Return the hosts that are to have an agent, as far as their names are known."""
        if self._launcher.hosts is not None:
            return list(self._launcher.hosts)
        if self._known.issubset(self._launcher.job_hosts):
            return list(self._launcher.job_hosts)
        return sorted(self._known)  # agents have other names than the job's hosts, or these are not known

    def _missing(self, connected: Collection[str]) -> list[str]:
        """Return the hosts that lack an agent and where none is being launched; `_ALL` if all do, and one launch starts them."""
        if self._launcher.hosts is None and not self._known:
            return [] if self.are_pending else [_ALL]
        lacking = [name for name in self._names() if name not in connected]
        return [name for name in lacking if not any(launch.awaits(name) for launch in self._launches)]

    def _extend_pauses(self, names: Sequence[str], failure: LaunchFailure) -> None:
        for name in names:
            self._pauses.setdefault(name, _Pause()).extend(failure)

    def _start(self, request: LaunchRequest, hosts: Sequence[str] | None) -> LaunchFailure | None:
        self._count += 1
        request = replace(request, number=self._count)
        try:
            environment = {**worker_environment(request), **self._relay.environment(request)}
            if self._launcher.cores_variable:
                environment["PYMPIPOOL_CORES_VARIABLE"] = self._launcher.cores_variable
            if self._launcher.name_variable:
                environment["PYMPIPOOL_NAME_VARIABLE"] = self._launcher.name_variable
            process = self._launcher.start(request, self._launcher.environment(environment), hosts)
        except (WorkerStartError, OSError) as error:
            failed = error if isinstance(error, WorkerStartError) else WorkerStartError(f"agents do not start: {error}")
            return LaunchFailure(failed, None, is_permanent=False)
        self._launches.append(Launch(process, hosts, self._relay.pid))
        return None

    def check(self) -> list[LaunchFailure]:
        """Return the failures of launches that have ended, or take too long, without an agent."""
        failures = []
        for launch in list(self._launches):
            failure = launch.check()
            if failure is None and launch.process.poll() is None:
                continue
            self._launches.remove(launch)
            self._last_words = launch.last_words
            launch.end(0.0)
            if not launch.is_connected and self._relay.pid not in {None, launch.relay_pid}:
                self.end_pauses()  # it has failed as its relay did, and the next one has none of this
            elif launch.is_connected:
                self._note_absent(launch)
            else:
                failures.append(failure or launch.failure())
                self._extend_pauses(launch.hosts or [_ALL], failures[-1])
        return failures

    def _note_absent(self, launch: Launch) -> None:
        """Take note that a launch has ended that has brought some agents. The others may have ended it, and with it all agents."""
        for name in filter(launch.awaits, self._names()):
            pause = self._pauses.setdefault(name, _Pause())
            pause.is_alone = True
            pause.extend(launch.failure())

    def end_pauses(self) -> None:
        """Launch at once when the next worker needs it: the pool has its own pauses."""
        self._pauses.clear()

    def close(self) -> None:
        """End all launches, and with them the agents."""
        launches, self._launches = self._launches, []
        deadline_s = monotonic() + self._launcher.end_timeout_s
        for launch in launches:
            launch.end(max(deadline_s - monotonic(), END_TIMEOUT_MIN_S))


class _Pause:
    """The time in which no other launch begins.

    Attributes:
        failure: Why the last one has failed; None: it has not.
        is_alone: Each further one is for no other host.
    """

    def __init__(self) -> None:
        self.failure: LaunchFailure | None = None
        self.is_alone = False
        self._seconds = 0.0
        self._since = RunningClock()

    def is_over(self) -> bool:
        """Return True if a launch may begin."""
        return self._since.elapsed() >= self._seconds

    def begin(self) -> None:
        """Take note that a launch begins."""
        self._seconds = self._seconds or RELAUNCH_PAUSE_S
        self._since.restart()

    def extend(self, failure: LaunchFailure) -> None:
        """Take note that it has failed."""
        self.failure = failure
        self._seconds = min(max(2 * self._seconds, RELAUNCH_PAUSE_S), RELAUNCH_PAUSE_MAX_S)
        self._since.restart()

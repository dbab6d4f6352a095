"""The agents of one executor: launched once, they fork workers on their hosts.

    submit(process) ──> waiting ── a host has room ──> unanswered ── pid ──> forked ── close ──> release: room again
                          ▲                                │
                          └──────── the agent is gone ─────┘

    check ── launch ──> srun ... agent ──> relay ──> accept: a host more
    invite ── join file ──> an agent that was started elsewhere ──┘

Nothing here waits: `check` is called again and again while there is something to wait for. An agent that ends, or does not
answer, is given up with its workers. The next worker that finds no room has agents launched on the hosts that lack one.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

from pympipool._util.service_threads import ServiceLogger
from pympipool.backends.agent.host import AgentHost, short_name
from pympipool.backends.agent.launch import LaunchFailure
from pympipool.backends.agent.launches import Launches
from pympipool.backends.agent.placement import place
from pympipool.backends.agent.process import AgentProcess
from pympipool.backends.agent.spanning import SpanningProcess
from pympipool.backends.program import worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.hosts.join_file import JoinFile
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import SpawnerEvents

LOGGER = ServiceLogger("pympipool.backends")

ANSWER_TIMEOUT_S = 20.0
"""Seconds after which an agent that does not answer is given up; usually it answers in milliseconds. More than the relay waits
for one that is cut off (`HOST_GONE_S` and `RECONNECT_TIMEOUT_S`), whose answer comes afterwards."""

FIRST_ANSWER_TIMEOUT_S = 30.0
"""Seconds that the first answer of an agent may take: its forkserver has modules to import."""

LAUNCH_CHECK_S = 0.01
"""Seconds between two checks while the first agents start."""

CHECK_INTERVAL_S = 0.2
"""Seconds between two checks while workers wait for room or an answer."""

HOST_CHECK_S = 0.05
"""Seconds, at least, between two checks whether agents have ended."""

READ_INTERVAL_S = 5.0
"""Seconds between two checks otherwise: launchers would stand still if what they print were not read."""

FAILURES_MAX = 2
"""Launches in a row that may bring no agent, until workers are started without agents."""

_OF_MASTER = ("PYMPIPOOL_ADDRESS", "PYMPIPOOL_KEY", "PYMPIPOOL_PATH")


class Agents:
    """The agents of one executor. Only for the supervisor's thread.

    Args:
        launcher: Starts them.
        relay: They connect to it.

    Attributes:
        is_unusable: True if agents do not start here, so that workers must be started without them.
    """

    def __init__(self, launcher: Launcher, relay: Relay) -> None:
        self.launcher = launcher
        self.relay = relay
        self.is_unusable = False
        self._checked_s = 0.0  # when it was last looked whether agents have ended
        self._request: LaunchRequest | None = None
        self._base: dict[str, str] = {}
        self._hosts: dict[str, AgentHost] = {}  # by their keys
        self._join_files: list[JoinFile] = []
        self._watched_relay: socket.socket | None = None
        self._waiting: dict[AgentProcess, None] = {}
        self._launches = Launches(launcher, relay)
        self._failures = 0
        self._events: SpawnerEvents | None = None

    def attach(self, events: SpawnerEvents) -> None:
        """Take note of the supervisor, before the first `submit`."""
        self._events = events

    def changes(self, request: LaunchRequest, environment: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the variables of a worker that differ from those of agents, and the names of those that it has not.

        Args:
            request: The worker's request; agents get address and key of the master from the first one.
            environment: The worker's environment.
        """
        self.learn_master(request)
        changed = {name: value for name, value in environment.items() if self._base.get(name) != value}
        return changed, [name for name in self._base if name not in environment]

    def learn_master(self, request: LaunchRequest) -> LaunchRequest:
        """Return what agents are launched with. It is made from the first request."""
        if self._request is None:
            master = {name: request.environment[name] for name in _OF_MASTER}
            self._request = LaunchRequest(0, environment={**master, "PYMPIPOOL_WORKER": "0", "PYMPIPOOL_RANKS": "1"})
            base = self.launcher.environment(worker_environment(self._request))
            self._base = {name: value for name, value in base.items() if not name.startswith("PYMPIPOOL_")}
        return self._request

    def invite(self, request: LaunchRequest, join_file: JoinFile) -> None:
        """Write what agents need that are started elsewhere. They are accepted from now on.

        Args:
            request: Has address and key of the master.
            join_file: Where it is written, also when it changes; removed at the end.

        Raises:
            OSError: It cannot be written.
            WorkerStartError: The relay does not start.
        """
        join_file.write(self._environment_to_join(self.learn_master(request)))
        self._join_files.append(join_file)
        self._check_soon()

    def _environment_to_join(self, request: LaunchRequest) -> dict[str, str]:
        return {**self._base, **request.environment, **self.relay.environment(request)}

    def _update_join_files(self) -> None:
        """Write the files again if there is another relay by now."""
        if self._join_files and self._request is not None and self.relay.is_listening:
            environment = self._environment_to_join(self._request)
            for join_file in self._join_files:
                join_file.update(environment)

    def submit(self, process: AgentProcess) -> None:
        """Have a worker forked as soon as a host has room for it."""
        self._waiting[process] = None

    def check(self) -> float | None:
        """Do what has become possible: accept agents, send requests, launch missing agents, give up silent ones.

        Returns:
            The seconds until the next check; None: there is nothing to wait for.
        """
        self._watch_relay()
        self._accept()
        self._update_join_files()
        if self._waiting and self.relay.has_failed:  # agents that are being launched will not reach it
            self._fail_waiting(LaunchFailure(self.relay.start_error(), None, is_permanent=False))
        if monotonic() - self._checked_s > HOST_CHECK_S:  # not with each of many workers that are started
            self._checked_s = monotonic()
            for host in list(self._hosts.values()):
                self.check_host(host)
        for failure in self._launches.check():
            self._failed(failure)
        if incomplete := self._launches.incomplete():
            LOGGER.warning("%s%s", incomplete, self.last_words())
        self._dispatch()
        if self._waiting:
            self._launch_missing()
            return LAUNCH_CHECK_S if self._launches.are_pending and not self._hosts else CHECK_INTERVAL_S
        if any(host.unanswered for host in self._hosts.values()):
            return CHECK_INTERVAL_S
        return READ_INTERVAL_S if self._launches.are_running else None

    # ---- for the processes ----

    def on_answer(self, process: AgentProcess) -> None:
        """Take note that a worker was forked, or has ended."""
        if process.agent is not None:
            process.agent.unanswered.discard(process)
            process.agent.has_answered = True
            process.agent.silence.restart()

    def on_lost(self, process: AgentProcess) -> None:
        """Send a request again that an agent has not answered which is gone."""
        process.agent = None
        self._waiting[process] = None
        self._check_soon()

    def withdraw(self, process: AgentProcess) -> None:
        """Forget the request of a worker that is not needed any more."""
        self._waiting.pop(process, None)
        if process.agent is not None:
            process.agent.unanswered.discard(process)

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call function() after delay_s seconds, in the supervisor's thread."""
        assert self._events is not None
        self._events.loop.call_later(delay_s, function)

    def _check_soon(self) -> None:
        if self._events is not None:
            self._events.check_soon(self)

    def last_words(self) -> str:
        """Return how a launcher has ended, if it has, and what it has printed last, to be added to a message."""
        words = self._launches.last_words()
        return f"; its launcher {words}" if words else ""

    def release(self, process: AgentProcess) -> None:
        """Give the slots of a worker that is gone to another one."""
        if process.agent is not None:
            process.agent.release(process)
            if self._waiting:
                self._dispatch()

    # ---- hosts ----

    def can_fit(self, cores: int, gpus: int, ranks: int = 1) -> bool:
        """Return False if no host has so many cores and devices, even when all are free; with several ranks, the hosts together.

        True while none of the launcher's hosts is known, or others may have more: what those have that have joined says nothing
        about these.

        Args:
            cores: The number of cores, for each rank.
            gpus: The number of devices, for each rank.
            ranks: The number of ranks, if they may be on several hosts.
        """
        hosts = self._hosts.values()
        if ranks == 1:
            is_enough = all(host.has_joined for host in hosts) or any(host.room(cores, gpus) for host in hosts)
        else:
            is_enough = place([host.room(cores, gpus) for host in hosts if not host.has_joined], ranks) is not None
        return is_enough or self._launches.may_bring_more(self._hosts.keys())

    def misfit(self, cores: int, gpus: int, ranks: int = 1) -> LaunchFailure:
        """Return why no host has room for a worker, or why hosts are away that may have. The arguments are those of `can_fit`."""
        hosts = [host for host in self._hosts.values() if ranks == 1 or not host.has_joined]
        have = ", ".join(f"{host.name} has {host.cores} and {host.gpus}" for host in hosts)
        away = ", ".join(self.missing_hosts())
        needs = f"{cores} cores and {gpus} GPUs of"
        what = f"a worker needs {needs} one host, and no host has as many"
        if ranks > 1:
            what = f"each of the {ranks} ranks of a worker needs {needs} a host, and the hosts have too few"
        failure = self._launches.failure(self._hosts.keys()) or LaunchFailure(
            WorkerStartError("use fewer"), None, is_permanent=self.launcher.is_only_way and not away
        )
        error = WorkerStartError(
            f"{what} ({have}{f'; {away} cannot be reached' if away else ''}): {failure.error.reason}",
            last_stderr=failure.error.last_stderr,
        )
        return failure._replace(error=error)

    def missing_hosts(self) -> list[str]:
        """Return the hosts that are known by name and have no agent: they may come back."""
        return [name for name in self.launcher.hosts or () if name not in self._hosts]

    def _watch_relay(self) -> None:
        """Have agents accepted as soon as they have connected."""
        connection = self.relay.connection
        if connection is not self._watched_relay:
            assert self._events is not None
            self._events.loop.unwatch(self._watched_relay)
            self._watched_relay = connection
            if connection is not None:
                self._events.loop.watch(connection, self._on_relay)

    def _on_relay(self) -> None:
        self._accept()
        if self.relay.connection is None:  # it would stay readable
            self._watch_relay()
        self._check_soon()

    def _accept(self) -> None:
        for connection in self.relay.accept_agents():
            try:
                assert self._events is not None
                host = AgentHost(connection, self._events, self._on_end, self.launcher.cores)
            except (OSError, ValueError, LookupError):  # it has ended already
                connection.close()
                continue
            if host.key in self._hosts:
                self._drop(self._hosts[host.key], "has been replaced")
            self._hosts[host.key] = host
            host.relay_pid = self.relay.pid
            if not host.has_joined:
                self._failures = 0
                self._launches.agent_connected(host.name)
            LOGGER.info("agent on %s (pid %d): %d cores, %d GPUs", host.name, host.agent_pid, host.cores, host.gpus)

    def check_host(self, host: AgentHost) -> None:
        """Give an agent up that has ended, or does not answer."""
        if not host.is_connected:
            self._drop(host, "has ended")
        elif host.unanswered:
            limit_s = ANSWER_TIMEOUT_S if host.has_answered else FIRST_ANSWER_TIMEOUT_S
            if host.silence.elapsed() > limit_s:
                self._drop(host, f"has not answered for {limit_s:g} s")

    def _on_end(self, host: AgentHost) -> None:
        self._drop(host, "has ended")

    def _drop(self, host: AgentHost, why: str) -> None:
        """Give an agent up. Its workers and its unanswered requests notice that by the end of their status."""
        if self._hosts.get(host.key) is not host:
            return
        del self._hosts[host.key]
        if (reason := self.relay.loss_reason(host.relay_pid)) is not None:
            host.loss = f": {reason}"
        host.close()
        self._check_soon()
        LOGGER.warning("the agent on %s (pid %d) %s%s", host.name, host.agent_pid, why, host.loss)

    def _dispatch(self) -> None:
        """Send waiting requests to hosts that have room, this host first."""
        own = short_name(os.uname().nodename)
        hosts = sorted(self._hosts.values(), key=lambda host: (short_name(host.name) != own, host.name))
        full: dict[tuple[int, int, int], int] = {}  # how many of the first hosts have no room for such a worker
        for process in list(self._waiting):
            needs = process.cores, process.gpus, process.ranks
            if not self.can_fit(*needs):
                self._refuse(process)
                continue
            if isinstance(process, SpanningProcess):
                self._spread(process, hosts)
                continue
            begin = full.get(needs, 0)
            while begin < len(hosts) and not hosts[begin].free_room(process.cores, process.gpus):
                begin += 1
            full[needs] = begin
            if begin < len(hosts):
                self._send(process, hosts[begin])

    def _refuse(self, process: AgentProcess) -> None:
        """Fail a worker that fits no host that is known. The next attempt may be made without agents."""
        del self._waiting[process]
        process.fail_launch(self.misfit(process.cores, process.gpus, process.ranks))

    def _spread(self, process: SpanningProcess, hosts: Sequence[AgentHost]) -> None:
        """Have a worker started whose ranks may be on several hosts, if these have room."""
        own = [host for host in hosts if not host.has_joined]
        placed = place([host.free_room(process.cores, process.gpus) for host in own], process.ranks)
        if placed is not None:
            process.begin([(host, ranks) for host, ranks in zip(own, placed, strict=True) if ranks])
            self._waiting.pop(process, None)

    def _send(self, process: AgentProcess, host: AgentHost) -> None:
        try:
            host.allocate(process)
            host.expect_answer(process)
            process.send_to_agent(host)
        except BaseException:  # no memory: it waits on
            host.release(process)
            host.unanswered.discard(process)
            raise
        del self._waiting[process]

    # ---- launches ----

    def _launch_missing(self) -> None:
        """Launch agents on all hosts of the job, or on those that have none."""
        assert self._request is not None
        for failure in self._launches.start_missing(self._request, self._hosts.keys()):
            self._failed(failure)

    def _failed(self, failure: LaunchFailure) -> None:
        """Fail the workers that wait, unless other agents can serve them."""
        if self.relay.has_failed:  # they could not reach it
            failure = failure._replace(error=self.relay.start_error())
        LOGGER.warning("agents do not start: %s", failure.error)
        if self._hosts or self._launches.are_pending:
            return
        self._launches.end_pauses()
        if failure.outage is None:
            self._failures += 1
        if self._failures >= FAILURES_MAX and not self.is_unusable and not self.launcher.is_only_way:
            self.is_unusable = True
            LOGGER.warning("workers are started without agents from now on, which takes longer")
        self._fail_waiting(failure)

    def _fail_waiting(self, failure: LaunchFailure) -> None:
        waiting, self._waiting = self._waiting, {}
        for process in waiting:
            process.fail_launch(failure)

    # ---- the end ----

    def close(self) -> None:
        """End the agents."""
        hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            host.close()
        while self._join_files:
            self._join_files.pop().remove()
        self.relay.close()  # so that agents end too that were not accepted yet
        self._launches.close()

    def after_fork_in_child(self) -> None:
        """Close the connections to agents in a forked child."""
        for host in self._hosts.values():
            host.after_fork_in_child()

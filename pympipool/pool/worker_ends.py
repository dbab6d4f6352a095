"""How the supervisor notices that a worker's processes have ended, or that they will not start or end.

process ── pidfd, or polling ──> process_ended ── last frames have arrived ──> reap
end_worker ── SIGKILL ──> await_end ── nothing ends it ──> abandoned, reap
start ── connect_timeout ──> end_worker
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

from pympipool._util.clocks import CHECK_INTERVAL_S, RunningClock
from pympipool._util.exit_codes import process_state
from pympipool._util.service_threads import ServiceLogger
from pympipool.errors import WorkerStartError
from pympipool.pool.worker_handle import State, WorkerHandle

if TYPE_CHECKING:
    from pympipool.pool.connections import ControlConnections
    from pympipool.pool.event_loop import EventLoop
    from pympipool.pool.reported_error import Failure
    from pympipool.transport.inbox import Inbox

LOGGER = ServiceLogger("pympipool.pool")

POLL_INTERVAL_S = 0.2
"""Polling interval for processes that no descriptor stands for."""

KILL_CHECK_S = 0.02
"""Delay of the first check whether a killed worker has ended; doubles with each further check."""

QUEUED_CONNECT_MARGIN_S = 5.0
"""Time beyond connect_timeout that a worker of a scheduler has to connect. It checks the limit itself, from the start of
its processes on, and its own message tells more."""

DELIVERY_CHECK_S = 0.5
"""Polling interval while the last messages of a worker may be on their way."""


class EndEvents(Protocol):
    """What the supervisor does when a worker has ended, or is to end."""

    def end_worker(self, worker: WorkerHandle, *, reason: Failure | None = None, grace_s: float = 0.0) -> None:
        """Kill a worker's processes."""

    def reap(self, worker: WorkerHandle) -> None:
        """Find out how a worker has ended, and tell the pool that it is gone."""


class ProcessWatch:
    """Watches the processes of workers. Only for the supervisor's thread.

    Args:
        loop: Waits for them.
        connections: The other half of a worker: it is gone when both have ended.
        events: The supervisor.
    """

    def __init__(self, loop: EventLoop, connections: ControlConnections, events: EndEvents) -> None:
        self._loop = loop
        self._connections = connections
        self._events = events

    def watch(self, worker: WorkerHandle) -> None:
        """Notice the end of a worker's process from now on."""
        waitable = worker.process.waitable()
        if waitable is not None:
            self._loop.watch(waitable, functools.partial(self._check, worker, waitable), worker.handlers)
        else:
            self._loop.call_later(POLL_INTERVAL_S, lambda: self._poll(worker), worker.handlers)

    def _check(self, worker: WorkerHandle, waitable: int | Inbox) -> None:
        """Handle the end of a worker's process, or watch what stands for it now: it may have outlived its parent."""
        if worker.process.poll() is None and worker.process.waitable() == waitable:
            return
        self._loop.unwatch(waitable)
        if worker.process.poll() is None:
            self.watch(worker)
        else:
            self.check_ended(worker)

    def _poll(self, worker: WorkerHandle) -> None:
        if worker.state is State.GONE:
            return
        if worker.process.poll() is None:
            self._loop.call_later(POLL_INTERVAL_S, lambda: self._poll(worker), worker.handlers)
        else:
            self.check_ended(worker)

    def check_ended(self, worker: WorkerHandle) -> None:
        """Have a worker reaped if its process has ended, as soon as its last messages have arrived."""
        if worker.process_ended or worker.process.poll() is None:
            return
        worker.process_ended = True
        waitable = worker.process.waitable()
        if waitable is not None:
            self._loop.unwatch(waitable)
        self._reap_if_disconnected(worker)
        if worker.state is State.GONE:
            return
        is_expected = worker.lost_reason is None and not worker.was_killed
        if worker.process.delivery_delay_s > 0 and is_expected:
            self._await_delivery(worker, worker.process.delivery_delay_s)
        else:
            self._events.reap(worker)

    def _await_delivery(self, worker: WorkerHandle, remaining_s: float) -> None:
        """Reap a worker after its last messages, or when none has arrived for a while, unless they are held up."""
        if worker.process.is_delivering():
            remaining_s = worker.process.delivery_delay_s
        if remaining_s <= 0:
            if worker.process.poll() == 0:  # not the exit code of processes that are still connected
                worker.lost_reason = "its launcher has ended, and its connection has not; its host may be down"
            self._events.reap(worker)
            return
        check = functools.partial(self._await_delivery, worker, remaining_s - DELIVERY_CHECK_S)
        self._loop.call_later(DELIVERY_CHECK_S, check, worker.handlers)

    def check_hung_up(self, worker: WorkerHandle, rank: int) -> None:
        """Have a worker end one of whose connections has."""
        if worker.state is State.GONE:
            return
        if worker.first_failed_rank is None:
            worker.first_failed_rank = rank
        worker.read_output_to_end()
        if worker.process_ended:
            self._reap_if_disconnected(worker)
            return
        self._loop.call_later(worker.process.exit_grace_s, lambda: self._events.end_worker(worker), worker.handlers)
        if worker.process.waitable() is None:
            self._poll(worker)

    def _reap_if_disconnected(self, worker: WorkerHandle) -> None:
        if self._connections.read_to_end(worker):  # nothing more can arrive
            self._events.reap(worker)

    def await_end(self, worker: WorkerHandle) -> None:
        """Notice the end of a worker that is killed, even if no helper reports it. Give up one that SIGKILL does not end."""
        worker.killed_for = worker.killed_for or RunningClock()
        if worker.end_check is None or worker.end_check.function is None:
            self._await_end(worker, worker.killed_for, KILL_CHECK_S)

    def _await_end(self, worker: WorkerHandle, since_kill: RunningClock, delay_s: float) -> None:
        def check() -> None:
            self.check_ended(worker)
            if worker.state is State.GONE:
                return
            if since_kill.elapsed() > worker.process.kill_timeout_s and not worker.process_ended:
                self._abandon(worker)
            else:
                self._await_end(worker, since_kill, min(2 * delay_s, CHECK_INTERVAL_S))

        worker.end_check = self._loop.call_later(delay_s, check, worker.handlers)

    def _abandon(self, worker: WorkerHandle) -> None:
        """Go on without a worker that hangs in the kernel. It never runs again: SIGKILL is the first thing it will notice."""
        LOGGER.error(
            "worker %d is abandoned: %s s after SIGKILL, process %d on %s still exists (state %s). It hangs in the kernel, in a"
            " file system or a driver, and ends when its system call returns. Its cores are given to other workers",
            worker.number,
            f"{worker.process.kill_timeout_s:g}",
            worker.process.pid,
            worker.process.host,
            process_state(worker.process.pid),
        )
        self._loop.unwatch(worker.process.waitable())
        self._events.reap(worker)

    def _warn_if_late(self, worker: WorkerHandle) -> None:
        """Tell of a worker whose ranks have connected long ago: nothing else would, if they wait for each other for ever."""
        if worker.state is State.STARTING and not worker.was_killed:
            LOGGER.warning(
                "the ranks of worker %d connected %g s ago and are not ready: they import modules, run init_function, or wait"
                " in MPI_Init. If it does not return, MPI may have taken a network that does not connect their hosts:"
                " UCX_NET_DEVICES or FI_TCP_IFACE names another one",
                worker.number,
                worker.request.connect_timeout_s,
            )

    def check_connected(self, worker: WorkerHandle, since_start: RunningClock, *, is_queued: bool) -> None:
        """Kill a worker that has not connected in time, as far as this process could have noticed it."""
        waitable = worker.process.waitable()
        if waitable is not None:  # it may have another one by now: see `ForkedProcess.forkserver_is_lost`
            self._check(worker, waitable)
        missing = worker.request.ranks - len(worker.connections)
        if worker.state is not State.STARTING or worker.was_killed:
            return
        limit_s = worker.request.connect_timeout_s
        if missing == 0:
            if worker.request.ranks > 1:
                self._loop.call_later(limit_s, functools.partial(self._warn_if_late, worker), worker.handlers)
            return
        delay_s = limit_s - since_start.elapsed()
        if is_queued:
            try:
                if worker.process.has_started():
                    delay_s += QUEUED_CONNECT_MARGIN_S
                else:
                    since_start.restart()
                    delay_s = CHECK_INTERVAL_S
            except WorkerStartError as lost:
                worker.process.start_failure = lost
                self._events.end_worker(worker)
                return
        if delay_s > 0:
            again = functools.partial(self.check_connected, worker, since_start, is_queued=is_queued)
            self._loop.call_later(min(delay_s, CHECK_INTERVAL_S), again, worker.handlers)
            return
        error = WorkerStartError(
            f"worker {worker.number} did not start: {missing} of {worker.request.ranks} ranks have not connected within"
            f" connect_timeout={limit_s:g} s{worker.process.pending_reason()}"
        )
        if is_queued:  # the next worker may start on other hosts
            worker.process.start_failure = error
        else:
            worker.start_error = error
        self._events.end_worker(worker)

"""The supervisor: starts workers and handles everything that happens to them, in one thread.

    event loop ◄── listener      a rank connects
               ◄── connections   a rank sends its hello, then "ready", "start_failed", "rank_error" or "exiting"; or hangs up
                                 (`connections.py`)
               ◄── processes     one exits (pidfd), or does not (`worker_ends.py`)
               ◄── outputs       stdout and stderr, handed to the threads that write to the user's streams
               ◄── timers        deadlines

The supervisor turns what happens into calls of its pool (`SupervisorEvents`), all in this thread, so a pool needs no locks.
If anything raises there, for lack of memory for example, the worker that it happened to is ended, and the pool is told of that.
A worker is gone when its process has exited or, where a process cannot be waited for, when its connection has ended. The
other of the two has a moment to follow before the supervisor kills the worker (`WorkerProcess.exit_grace_s`).
"""

from __future__ import annotations

import functools
import itertools
from contextlib import ExitStack
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

from pympipool._util.clocks import RunningClock
from pympipool._util.service_threads import ServiceLogger
from pympipool.backends.spawner import LaunchRequest, WorkerProcess
from pympipool.errors import signal_name
from pympipool.pool.connections import ControlConnections
from pympipool.pool.event_loop import EventLoop, Timer
from pympipool.pool.failures import start_error
from pympipool.pool.helper_checks import HelperChecks
from pympipool.pool.output import OutputWriter
from pympipool.pool.rank_services import RankServices
from pympipool.pool.reported_error import ReportedError
from pympipool.pool.worker_ends import ProcessWatch
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.transport.control_server import Connection, Listener
from pympipool.transport.shm import ShmLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.dispatcher import Dispatcher
    from pympipool.backends.spawner import Helper, Spawner
    from pympipool.pool.reported_error import Failure
    from pympipool.resources import Resources
    from pympipool.transport.relayed_connection import RelayedConnection

LOGGER = ServiceLogger("pympipool.pool")

PREPARE_CHECK_S = 0.002
"""Polling interval while helpers of workers start."""


class Preparable(Protocol):
    """What the supervisor asks before workers are started."""

    def prepare(self, request: LaunchRequest) -> bool:
        """Start what workers need besides their own processes; return False while it starts."""


class SupervisorEvents(Protocol):
    """What a pool does when something happens to a worker; called in the supervisor's thread."""

    def on_ready(self, worker: WorkerHandle) -> None:
        """All ranks of the worker are ready to serve."""

    def on_rank_error(self, worker: WorkerHandle, call: int) -> None:
        """A rank reported that the call raised there; its exception is in `worker.rank_errors[call]`."""

    def on_last_call(self, worker: WorkerHandle) -> None:
        """The worker begins its last call, and will then exit."""

    def on_gone(self, worker: WorkerHandle) -> None:
        """The worker is gone, for whatever reason."""

    def on_failure(self) -> None:
        """Something has raised in this thread: finish what may be left undone. Called again if this raises."""

    def on_crash(self, error: BaseException) -> None:
        """The supervisor has ended by an unexpected failure."""


class Supervisor:
    """Starts workers, and follows each of them until it is gone.

    Args:
        events: The pool.
        settings: What a rank is sent when it has connected (see docs/design.md).
        dispatcher: Has the master's doorbells.

    Attributes:
        loop: Its thread.
        workers: The workers that are not gone, by number.
        reaped: The workers that are gone, and whose end the pool has not dealt with.
        helper_request: What processes need that help to start workers: address and key of the master.
    """

    def __init__(self, events: SupervisorEvents, settings: dict[str, Any], dispatcher: Dispatcher) -> None:
        self.events = events
        self.settings = settings
        self.dispatcher = dispatcher
        self.workers: dict[int, WorkerHandle] = {}
        self.reaped: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count(1)
        self._free_ids: list[int] = []  # a heap: ids smaller than the number of workers that none of them has
        self.listener = Listener()
        try:
            self.loop = EventLoop("pympipool_supervisor", self.close, events.on_crash, self._repair)
        except OSError:
            self.listener.close()
            raise
        self._checks = HelperChecks(self.loop)
        self.helper_request = LaunchRequest(0, environment=self.listener.environment(0, 1))
        self._preparation: Timer | None = None
        self._connections = ControlConnections(self.listener, self.loop, self)
        self._processes = ProcessWatch(self.loop, self._connections, self)
        self._services = RankServices(self._connections, self.loop, settings, dispatcher)
        self._connections.listen()
        self._writers = {name: OutputWriter(name, self.loop) for name in ("stdout", "stderr")}

    # ---- for any thread ----

    def show(self, report: Callable[[], bytes]) -> None:
        """Let viewers see what a function returns: see `diagnostics/live`. The function is called in the supervisor's thread."""
        self._connections.report = report

    def describe_workers(self) -> list[dict[str, Any]]:
        """Describe each serving worker: its number, what its rank 0 reported, and the hosts of all its ranks."""
        return [
            {"worker": worker.number, **worker.ready_ranks[0], "hosts": worker.hosts}
            for worker in list(self.workers.values())
            if 0 in worker.ready_ranks
        ]

    def worker_states(self) -> list[dict[str, Any]]:
        """Return number, ranks, state ("starting", "serving", "ending"), hosts and pid (None until ready) of each worker."""
        return [
            {
                "worker": worker.number,
                "ranks": worker.request.ranks,
                "state": worker.state.name.lower(),
                "hosts": worker.hosts,
                "pid": worker.pid,
            }
            for worker in list(self.workers.values())
        ]

    def close_streams(self) -> None:
        """Wait until what workers have printed is written; see `OutputWriter.close`. After the end of the loop's thread."""
        for writer in self._writers.values():
            writer.close()

    def close(self) -> None:
        """Close all descriptors without sending anything to the workers. Also for forked children."""
        with ExitStack() as steps:  # all of them, last first, also if one raises
            for writer in self._writers.values():
                steps.callback(writer.end)  # here, as the end of this executor may not be waited for, or not for long
            steps.callback(self.listener.close)
            steps.callback(self.loop.close)
            authenticated = [
                connection for worker in self.workers.values() for connection in worker.connections.values()
            ]
            for connection in [*authenticated, *self.loop.watched()]:
                if isinstance(connection, Connection):
                    connection.close()

    # ---- for the pool, in the supervisor's thread ----

    def is_prepared(self, spawner: Preparable, start: Callable[[], None]) -> bool:
        """Return True if workers can be started. If helpers of them start first, call start() soon."""
        if spawner.prepare(self.helper_request):
            return True
        if self._preparation is None or self._preparation.function is None:
            self._preparation = self.loop.call_later(PREPARE_CHECK_S, start)
        return False

    def start_worker(self, spawner: Spawner, resources: Resources, environment: dict[str, str]) -> WorkerHandle:
        """Start a worker, and do not wait for it.

        Args:
            resources: What it needs: the number of ranks, the working directory.
            environment: Variables that are set for it besides the master's environment.

        Raises:
            WorkerStartError, OSError: Its process cannot be started, or there is no memory for its link.
        """
        number = next(self._numbers)
        link = ShmLink(self.dispatcher.doorbells) if spawner.has_links_of_its_own else None
        request = LaunchRequest(
            number=number,
            ranks=resources.cores,
            environment={
                **environment,
                **({"PYMPIPOOL_ERROR_LOG": resources.error_log_file} if resources.error_log_file else {}),
                **({"PYMPIPOOL_RESULT_OF": resources.result_of} if resources.result_of != "all" else {}),
                **self.listener.environment(number, resources.cores),
            },
            cwd=resources.cwd,
            preload=resources.preload,
            connect_timeout_s=resources.connect_timeout,
        )
        spawner.attach(self)
        process = spawner.start(request)
        worker_id = heappop(self._free_ids) if self._free_ids else len(self.workers)
        try:
            worker = WorkerHandle(request, process, link, self._writers, self.loop)
            worker.worker_id = worker_id
            for output in worker.outputs:
                output.watch()
            self._processes.watch(worker)
            for helper in spawner.helpers:
                self.check_soon(helper)  # not for each of many workers that are started
            check = functools.partial(
                self._processes.check_connected, worker, RunningClock(), is_queued=spawner.is_queued
            )
            self.workers[number] = worker
            self.loop.call_later(0.0, check, worker.handlers)  # not now: the pool does not know the worker yet
        except BaseException:  # there is no memory for that
            self.workers.pop(number, None)
            heappush(self._free_ids, worker_id)
            for descriptor in (process.stdout, process.stderr, process.waitable()):
                self.loop.unwatch(descriptor)
            process.kill()
            process.close()
            raise
        LOGGER.info("worker %d starts (ranks: %d)", number, resources.cores)
        return worker

    def admit(self, connection: RelayedConnection) -> None:
        """Take the control connection of a worker behind an agent."""
        self._connections.admit(connection)

    def check_soon(self, helper: Helper) -> None:
        """Have a helper checked at the end of this round of the loop."""
        self._checks.check_after(helper, 0.0)

    def end_worker(self, worker: WorkerHandle, *, reason: Failure | None = None, grace_s: float = 0.0) -> None:
        """Kill a worker's processes.

        Args:
            reason: The exception of the call that runs on the worker; None: that the worker died.
            grace_s: Time that the processes have to exit by themselves before.
        """
        if worker.state is State.GONE:
            return
        if grace_s > 0:
            self.loop.call_later(grace_s, lambda: self.end_worker(worker, reason=reason), worker.handlers)
            worker.state = State.ENDING
            worker.read_output_to_end()
            return
        worker.kill_reason = worker.kill_reason or reason
        if worker.process.noisy_exit:
            for output in worker.outputs:
                output.mute()
        worker.process.kill()
        self._processes.await_end(worker)
        worker.read_output_to_end()

    def _repair(self) -> None:
        """End the workers that something has failed for, and have the pool finish what is left undone."""
        self._checks.go_on()
        for worker in list(self.workers.values()):
            if worker.handlers.failure is not None:
                self._end_failed(worker, type(worker.handlers.failure).__name__)
        for worker in list(self.reaped.values()):
            self._report_gone(worker)
        self._connections.listen()
        self.events.on_failure()

    def _end_failed(self, worker: WorkerHandle, failure: str) -> None:
        """End a worker after a failure of this thread: what was to be done for it is not done, and nothing else would do it."""
        if worker.lost_reason is None:
            worker.lost_reason = (
                f"the master failed to handle an event of it ({failure}), and has ended it; the log tells more"
            )
            LOGGER.error("worker %d is ended, because of a failure of the master (%s)", worker.number, failure)
        self.end_worker(worker)
        if worker.process_ended:
            self.reap(worker)

    # ---- what ranks do ----

    def on_connected(self, worker: WorkerHandle, rank: int) -> None:
        """Send the ranks of a worker what they need, once all have connected: only then is known which run on this host."""
        if len(worker.connections) == worker.request.ranks:
            worker.process.on_connected()
            if not self._services.send_settings(worker):
                self.end_worker(worker)

    def on_hung_up(self, worker: WorkerHandle, rank: int) -> None:
        """Have a worker end that has lost a rank."""
        self._processes.check_hung_up(worker, rank)

    def on_frame(self, worker: WorkerHandle, rank: int, frame: tuple[Any, ...]) -> None:
        """Do what a rank asks for, and note what it reports."""
        match frame:
            case ("ready", rank_info):
                worker.ready_ranks[rank] = rank_info
                worker.process.add_rank(rank, rank_info["pid"])
                if len(worker.ready_ranks) == worker.request.ranks and worker.state is State.STARTING:
                    worker.state = State.SERVING
                    worker.hand_over_link()
                    LOGGER.info("worker %d is ready on %s (pid %s)", worker.number, worker.host, worker.pid)
                    try:
                        self.events.on_ready(worker)
                    except BaseException:
                        worker.state = State.STARTING  # it never served
                        raise
            case ("start_failed", parts, function):
                worker.start_error = worker.start_error or ReportedError(parts, function)
                worker.read_output_to_end()
                # It exits by itself, unless init_function left a thread behind, or an exit function that never returns.
                self.loop.call_later(WORKER_EXIT_GRACE_S, lambda: self.end_worker(worker), worker.handlers)
            case ("rank_error", raising_rank, call, parts):
                worker.rank_errors.setdefault(call, {})[raising_rank] = parts
                self.events.on_rank_error(worker, call)
            case ("resource_tracker" | "script_object" | "shared" | "keep_shared" | "stored_parts", *_):
                self._services.answer(worker, rank, frame)
            case ("last_call",):
                self.events.on_last_call(worker)
            case ("exiting", reason):
                worker.exit_reason = reason
                worker.read_output_to_end()
            case ("host_lost", reason):
                worker.lost_reason, worker.first_failed_rank = reason, rank
                worker.process.kill_unreachable()
            case _:
                LOGGER.warning("worker %d: unknown frame %r", worker.number, frame[:1])

    # ---- the end of a worker ----

    def reap(self, worker: WorkerHandle) -> None:
        """Find out how a worker has ended, and tell the pool that it is gone."""
        if worker.state is State.GONE:
            return
        try:
            self._examine_end(worker)
        except BaseException:  # without memory less is known of its end; it is gone all the same
            LOGGER.exception("the end of worker %d could not be examined", worker.number)
        self.reaped[worker.number] = worker
        worker.state_before_end = worker.state
        worker.state = State.GONE
        del self.workers[worker.number]
        heappush(self._free_ids, worker.worker_id)
        self._report_gone(worker)

    def _examine_end(self, worker: WorkerHandle) -> None:
        for connection in worker.connections.values():
            self._connections.drop(
                connection
            )  # ranks that have outlived their launcher are killed by their watchdogs now
        for output in worker.outputs:
            output.drain()
        if worker.first_failed_rank is None:
            _, worker.exit_code = WorkerProcess.exit_status_of(worker.process, 0)  # of the process, not of a rank
        else:
            worker.first_failed_rank, worker.exit_code = worker.process.exit_status_of(worker.first_failed_rank)
        worker.lost_reason = worker.lost_reason or worker.process.loss_reason()
        if worker.was_killed and signal_name(worker.exit_code) == "SIGKILL":
            worker.exit_code = None  # our own signal explains nothing
        worker.process.kill()  # whatever is left of its process group
        if worker.state is State.STARTING and worker.process.failed_permanently(worker.stderr_tail):
            worker.start_error = worker.start_error or start_error(worker)

    def _report_gone(self, worker: WorkerHandle) -> None:
        """Have the pool deal with the end of a worker. If that raises, it is done again: see `_repair`."""
        self.loop.cancel(worker.handlers)
        self.events.on_gone(worker)
        del self.reaped[worker.number]
        try:
            worker.process.close()
        finally:
            for connection in worker.connections.values():
                connection.close()
            worker.release()

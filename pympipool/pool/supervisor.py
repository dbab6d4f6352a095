"""The supervisor: starts workers and handles everything that happens to them, in one thread.

    event loop ◄── listener      a rank connects
               ◄── connections   a rank sends its hello, then "ready", "start_failed", "rank_error" or "exiting"; or hangs up
               ◄── processes     one exits (pidfd)
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
from typing import TYPE_CHECKING, Any, Protocol

from pympipool._util.clocks import CHECK_INTERVAL_S, RunningClock
from pympipool._util.exit_codes import process_state
from pympipool._util.service_threads import ServiceLogger, ServiceThread
from pympipool._util.signals import SigpipeBlocked
from pympipool.backends.spawner import LaunchRequest, WorkerProcess
from pympipool.errors import WorkerStartError, signal_name
from pympipool.pool.event_loop import EventLoop, Timer
from pympipool.pool.failures import start_error
from pympipool.pool.output import OutputWriter
from pympipool.pool.reported_error import ReportedError
from pympipool.pool.script_context import pickled_script_object, script_context
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.transport.control_server import SEND_TIMEOUT_S, Connection, HandshakeError, Listener, PeerClosed
from pympipool.transport.frames import Frame
from pympipool.transport.shm import ShmLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.ring import Segment
    from pympipool.backends.spawner import Helper, Spawner
    from pympipool.pool.reported_error import Failure
    from pympipool.resources import Resources

LOGGER = ServiceLogger("pympipool.pool")

HANDSHAKE_TIMEOUT_S = 10.0
"""Time that an unauthenticated connection has to complete the handshake."""

ACCEPT_PAUSE_S = 0.1
"""Pause before connections are accepted again after there was no descriptor for one."""

FINAL_READS_MAX = 64
"""Reads from a connection whose process has exited, at most."""

POLL_INTERVAL_S = 0.2
"""Polling interval for processes that no descriptor stands for."""

SEND_PATIENCE_S = 0.02
"""Time that the thread waits at once for a rank to read what is sent to it. A rank that reads makes room in microseconds."""

SEND_RETRY_S = 0.05
"""Time until the next attempt to send the rest to a rank that does not read."""

PREPARE_CHECK_S = 0.01
"""Polling interval while helpers of workers start."""

KILL_CHECK_S = 0.02
"""Delay of the first check whether a killed worker has ended; doubles with each further check."""


QUEUED_CONNECT_MARGIN_S = 5.0
"""Time beyond connect_timeout that a worker of a scheduler has to connect. It checks the limit itself, from the start of
its processes on, and its own message tells more."""

DELIVERY_CHECK_S = 0.5
"""Polling interval while the last messages of a worker may be on their way."""


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
        doorbells: The segment with the master's doorbells.

    Attributes:
        loop: Its thread.
        workers: The workers that are not gone, by number.
        reaped: The workers that are gone, and whose end the pool has not dealt with.
    """

    def __init__(self, events: SupervisorEvents, settings: dict[str, Any], doorbells: Segment) -> None:
        self.events = events
        self.settings = settings
        self.doorbells = doorbells
        self.workers: dict[int, WorkerHandle] = {}
        self.reaped: dict[int, WorkerHandle] = {}
        self._checked_helpers: set[Helper] = set()  # those for which a timer runs
        self._numbers = itertools.count(1)
        self.listener = Listener()
        try:
            self.loop = EventLoop("pympipool_supervisor", self.close, events.on_crash, self._repair)
        except OSError:
            self.listener.close()
            raise
        self._helper_request = LaunchRequest(0, environment=self.listener.environment(0, 1))
        self._preparation: Timer | None = None
        self._watch_listener()
        self._writers = {name: OutputWriter(name, self.loop) for name in ("stdout", "stderr")}

    # ---- for any thread ----

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
        authenticated = [connection for worker in self.workers.values() for connection in worker.connections.values()]
        for connection in [*authenticated, *self.loop.watched()]:
            if isinstance(connection, Connection):
                connection.close()
        self.loop.close()
        self.listener.close()
        for writer in self._writers.values():
            writer.end()  # here, because nobody may wait for the end of this executor, or not for long

    # ---- for the pool, in the supervisor's thread ----

    def is_prepared(self, spawner: Preparable, start: Callable[[], None]) -> bool:
        """Return True if workers can be started. If helpers of them start first, call start() soon."""
        if spawner.prepare(self._helper_request):
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
        link = ShmLink(self.doorbells)
        request = LaunchRequest(
            number=number,
            ranks=resources.cores,
            environment={
                **environment,
                **({"PYMPIPOOL_ERROR_LOG": resources.error_log_file} if resources.error_log_file else {}),
                **self.listener.environment(number, resources.cores),
            },
            cwd=resources.cwd,
            connect_timeout_s=resources.connect_timeout,
        )
        process = spawner.start(request)
        try:
            worker = WorkerHandle(request, process, link, self._writers, self.loop)
            for output in worker.outputs:
                output.watch()
            self._watch_process(worker)
            for helper in spawner.helpers:
                self._check_helper(helper)
            check = functools.partial(self._check_connected, worker, RunningClock(), is_queued=spawner.is_queued)
            self.workers[number] = worker
            self.loop.call_later(0.0, check, worker.handlers)  # not now: the pool does not know the worker yet
        except BaseException:  # there is no memory for that
            self.workers.pop(number, None)
            for descriptor in (process.stdout, process.stderr, process.fileno()):
                self.loop.unwatch(descriptor)
            process.kill()
            process.close()
            raise
        LOGGER.info("worker %d starts (ranks: %d)", number, resources.cores)
        return worker

    def _check_helper(self, helper: Helper) -> None:
        """Have a helper checked, now and for as long as the check asks for that."""
        delay_s = helper.check()
        if delay_s is None or helper in self._checked_helpers:
            return
        self._checked_helpers.add(helper)

        def check_again() -> None:
            self._checked_helpers.discard(helper)
            self._check_helper(helper)

        self.loop.call_later(delay_s, check_again)

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
        worker.killed_for = worker.killed_for or RunningClock()
        if worker.end_check is None or worker.end_check.function is None:
            self._await_end(worker, worker.killed_for, KILL_CHECK_S)
        worker.read_output_to_end()

    def _await_end(self, worker: WorkerHandle, since_kill: RunningClock, delay_s: float) -> None:
        """Notice the end of a killed worker, even if no helper reports it. Give up one that SIGKILL does not end."""

        def check() -> None:
            self._process_ended(worker)
            if worker.state is State.GONE:
                return
            if since_kill.elapsed() > worker.process.kill_timeout_s and not worker.process_ended:
                self._abandon(worker)
            else:
                self._await_end(worker, since_kill, min(2 * delay_s, CHECK_INTERVAL_S))

        worker.end_check = self.loop.call_later(delay_s, check, worker.handlers)

    def _repair(self) -> None:
        """End the workers that something has failed for, and have the pool finish what is left undone."""
        for worker in list(self.workers.values()):
            if worker.handlers.failure is not None:
                self._end_failed(worker, type(worker.handlers.failure).__name__)
        for worker in list(self.reaped.values()):
            self._report_gone(worker)
        self._watch_listener()
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
            self._reap(worker)

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
        self.loop.unwatch(worker.process.fileno())
        self._reap(worker)

    # ---- connections ----

    def _watch_listener(self) -> None:
        if self.listener not in self.loop.watched():
            self.loop.watch(self.listener, self._accept)

    def _accept(self) -> None:
        try:
            connection = self.listener.accept()
        except OSError as error:  # no descriptor is free: the peer waits, and the listener would stay readable
            LOGGER.warning("a connection has to wait: %s", error)
            self.loop.call_later(ACCEPT_PAUSE_S, self._watch_listener)
            self.loop.unwatch(self.listener)
            return
        if connection is None:
            return
        deadline = self.loop.call_later(HANDSHAKE_TIMEOUT_S, lambda: self._drop(connection))
        self.loop.watch(connection, lambda: self._handshake(connection, deadline))

    def _drop(self, connection: Connection) -> None:
        self.loop.unwatch(connection)
        connection.close()

    def _handshake(self, connection: Connection, deadline: Timer) -> None:
        try:
            self._authenticate(connection, deadline)
        except BaseException:  # its worker ends with it
            self._drop(connection)
            raise

    def _authenticate(self, connection: Connection, deadline: Timer) -> None:
        try:
            hello = connection.handshake()
        except (HandshakeError, OSError, EOFError) as error:
            if isinstance(error, PeerClosed):
                LOGGER.info("a connection ended before its hello: usually of a worker that was killed while it started")
            else:
                LOGGER.warning("dropped a connection that is not from one of our workers: %s", error)
            self.loop.cancel((deadline,))
            self._drop(connection)
            return
        if hello is None:
            return
        self.loop.cancel((deadline,))
        number, rank = hello
        worker = self.workers.get(number)
        if worker is None or rank >= worker.request.ranks or rank in worker.connections:
            self._drop(connection)
            return
        worker.connections[rank] = connection
        self.loop.run(lambda: self._greet(worker, rank, connection), worker.handlers)

    def _greet(self, worker: WorkerHandle, rank: int, connection: Connection) -> None:
        """Send an authenticated rank what it needs, and listen to it."""
        if len(worker.connections) == worker.request.ranks:
            worker.process.on_connected()
        self.loop.unwatch(connection)
        self.loop.watch(connection, lambda: self._read(worker, rank, connection), worker.handlers)
        output = worker.process.direct_output or ()
        descriptors = (*(worker.link.descriptors() if rank == 0 else ()), *output)
        settings = {**self.settings, **script_context(), "direct_output": bool(output)}
        self._send(worker, rank, ("setup", settings), descriptors)

    def _read(self, worker: WorkerHandle, rank: int, connection: Connection) -> None:
        try:
            frames = connection.receive_available()
        except (EOFError, OSError):
            self._hung_up(worker, rank, connection)
            return
        for frame in frames:
            self._handle_frame(worker, rank, frame)

    def _handle_frame(self, worker: WorkerHandle, rank: int, frame: tuple[Any, ...]) -> None:
        match frame:
            case ("ready", rank_info):
                worker.ready_ranks[rank] = rank_info
                worker.process.add_rank(rank_info["pid"])
                if len(worker.ready_ranks) == worker.request.ranks and worker.state is State.STARTING:
                    worker.state = State.SERVING
                    worker.link.handed_over()
                    LOGGER.info("worker %d is ready on %s (pid %s)", worker.number, worker.host, worker.pid)
                    try:
                        self.events.on_ready(worker)
                    except BaseException:
                        worker.state = State.STARTING  # it never served
                        raise
            case ("start_failed", parts):
                worker.start_error = worker.start_error or ReportedError(parts)
                worker.read_output_to_end()
                # It exits by itself, unless init_function left a thread behind, or an exit function that never returns.
                self.loop.call_later(WORKER_EXIT_GRACE_S, lambda: self.end_worker(worker), worker.handlers)
            case ("rank_error", raising_rank, call, parts):
                worker.rank_errors.setdefault(call, {})[raising_rank] = parts
                self.events.on_rank_error(worker, call)
            case ("resource_tracker",):
                self._share_resource_tracker(worker, rank)
            case ("script_object", name):
                self._look_up_script_object(worker, rank, name)
            case ("exiting", reason):
                worker.exit_reason = reason
                worker.read_output_to_end()
            case ("host_lost", reason):
                worker.lost_reason, worker.first_failed_rank = reason, rank
                worker.process.kill_unreachable()
            case _:
                LOGGER.warning("worker %d: unknown frame %r", worker.number, frame[:1])

    def _share_resource_tracker(self, worker: WorkerHandle, rank: int) -> None:
        """Send a rank the descriptor of this process's resource tracker; none if the tracker does not start."""
        from multiprocessing import resource_tracker

        try:
            with SigpipeBlocked():  # it writes to the pipe of a tracker that may have ended
                tracker = resource_tracker.getfd()
        except Exception as error:
            LOGGER.warning("the resource tracker of multiprocessing does not start: %r", error)
            tracker = None
        self._send(worker, rank, ("resource_tracker",), () if tracker is None else (tracker,))

    def _look_up_script_object(self, worker: WorkerHandle, rank: int, name: str) -> None:
        """Send a rank a class or function of the script, pickled in a thread of its own: that may run code of the user."""

        def look_up() -> None:
            pickled = pickled_script_object(name)
            send = functools.partial(self._send, worker, rank, ("script_object", pickled))
            self.loop.call(lambda: self.loop.run(send, worker.handlers))

        try:
            ServiceThread("pympipool_script_object", look_up, may_wait=True).start()
        except RuntimeError as error:  # no more threads
            LOGGER.warning("a worker looks for %s of the script, which cannot be pickled now: %s", name, error)
            self._send(worker, rank, ("script_object", None))

    def _send(self, worker: WorkerHandle, rank: int, frame: Frame, descriptors: tuple[int, ...] = ()) -> None:
        """Send a frame to a rank, or as much of it as the rank has room for now, and the rest later."""
        connection = worker.connections[rank]
        connection.post(frame, descriptors)
        unread_for = RunningClock()

        def flush(left_before: int) -> None:
            if connection.fileno() < 0:
                return
            try:
                left = connection.flush(SEND_PATIENCE_S)
            except OSError:
                self._hung_up(worker, rank, connection)
                return
            if left != left_before:
                unread_for.restart()
            if unread_for.elapsed() > SEND_TIMEOUT_S:
                LOGGER.warning("worker %d: rank %d left a frame unread for %g s", worker.number, rank, SEND_TIMEOUT_S)
                self._hung_up(worker, rank, connection)
            elif left:
                delay_s = SEND_RETRY_S if left == left_before else 0.0
                self.loop.call_later(delay_s, lambda: flush(left), worker.handlers)

        flush(0)

    def _check_connected(self, worker: WorkerHandle, since_start: RunningClock, *, is_queued: bool) -> None:
        """Kill a worker that has not connected in time, as far as this process could have noticed it."""
        descriptor = worker.process.fileno()
        if descriptor is not None:  # it may have another one by now: see `ForkedProcess.forkserver_is_lost`
            self._check_process(worker, descriptor)
        missing = worker.request.ranks - len(worker.connections)
        if worker.state is not State.STARTING or missing == 0 or worker.was_killed:
            return
        limit_s = worker.request.connect_timeout_s
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
                self.end_worker(worker)
                return
        if delay_s > 0:
            again = functools.partial(self._check_connected, worker, since_start, is_queued=is_queued)
            self.loop.call_later(min(delay_s, CHECK_INTERVAL_S), again, worker.handlers)
            return
        error = WorkerStartError(
            f"worker {worker.number} did not start: {missing} of {worker.request.ranks} ranks have not connected within"
            f" connect_timeout={limit_s:g} s{worker.process.pending_reason()}"
        )
        if is_queued:  # the next worker may start on other hosts
            worker.process.start_failure = error
        else:
            worker.start_error = error
        self.end_worker(worker)

    def _hung_up(self, worker: WorkerHandle, rank: int, connection: Connection) -> None:
        self._drop(connection)
        if worker.state is State.GONE:
            return
        if worker.first_failed_rank is None:
            worker.first_failed_rank = rank
        worker.read_output_to_end()
        if worker.process_ended:
            self._reap_if_disconnected(worker)
            return
        self.loop.call_later(worker.process.exit_grace_s, lambda: self.end_worker(worker), worker.handlers)
        if worker.process.fileno() is None:
            self._poll_process(worker)

    # ---- processes and their output ----

    def _watch_process(self, worker: WorkerHandle) -> None:
        descriptor = worker.process.fileno()
        if descriptor is not None:
            self.loop.watch(descriptor, lambda: self._check_process(worker, descriptor), worker.handlers)
        else:
            self.loop.call_later(POLL_INTERVAL_S, lambda: self._poll_process(worker), worker.handlers)

    def _check_process(self, worker: WorkerHandle, descriptor: int) -> None:
        """Handle the end of a worker's process, or watch its new descriptor: it may have outlived its parent."""
        if worker.process.poll() is None and worker.process.fileno() == descriptor:
            return
        self.loop.unwatch(descriptor)
        if worker.process.poll() is None:
            self._watch_process(worker)
        else:
            self._process_ended(worker)

    def _poll_process(self, worker: WorkerHandle) -> None:
        if worker.state is State.GONE:
            return
        if worker.process.poll() is None:
            self.loop.call_later(POLL_INTERVAL_S, lambda: self._poll_process(worker), worker.handlers)
        else:
            self._process_ended(worker)

    def _process_ended(self, worker: WorkerHandle) -> None:
        if worker.process_ended or worker.process.poll() is None:
            return
        worker.process_ended = True
        descriptor = worker.process.fileno()
        if descriptor is not None:
            self.loop.unwatch(descriptor)
        self._reap_if_disconnected(worker)
        if worker.state is State.GONE:
            return
        is_expected = worker.lost_reason is None and not worker.was_killed
        if worker.process.delivery_delay_s > 0 and is_expected:
            self._await_delivery(worker, worker.process.delivery_delay_s)
        else:
            self._reap(worker)

    def _await_delivery(self, worker: WorkerHandle, remaining_s: float) -> None:
        """Reap a worker after its last messages, or when none has arrived for a while, unless they are held up."""
        if worker.process.is_delivering():
            remaining_s = worker.process.delivery_delay_s
        if remaining_s <= 0:
            if worker.process.poll() == 0:  # not the exit code of processes that are still connected
                worker.lost_reason = "its launcher has ended, and its connection has not; its host may be down"
            self._reap(worker)
            return
        check = functools.partial(self._await_delivery, worker, remaining_s - DELIVERY_CHECK_S)
        self.loop.call_later(DELIVERY_CHECK_S, check, worker.handlers)

    def _reap_if_disconnected(self, worker: WorkerHandle) -> None:
        """Reap a worker whose process has exited if all its connections have ended too: nothing more can arrive."""
        for rank, connection in list(worker.connections.items()):
            for _ in range(
                FINAL_READS_MAX
            ):  # frames, then the hang-up, unless a surviving child holds the connection open
                if connection.fileno() < 0:
                    break
                self._read(worker, rank, connection)
        if all(connection.fileno() < 0 for connection in worker.connections.values()):
            self._reap(worker)

    def _reap(self, worker: WorkerHandle) -> None:
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
        self._report_gone(worker)

    def _examine_end(self, worker: WorkerHandle) -> None:
        for connection in worker.connections.values():
            self._drop(connection)  # ranks that have outlived their launcher are killed by their watchdogs now
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
            worker.release()

"""The supervisor: one thread that waits for everything that can happen to workers.

    selector ◄── listener         a rank connects
             ◄── connections      it greets, says ready / failed / raised / leaving, or hangs up
             ◄── processes        one ends (pidfd)
             ◄── outputs          stdout and stderr, passed on to the user's
             ◄── wake-up socket   another thread wants something done (`call`)
             ◄── timers           deadlines

What happens is turned into calls of the pool's policy (`SupervisorEvents`), all in this thread, so a pool
needs no locks. A worker is gone when its process has ended or, where processes cannot be waited for, when its
connection has; the other of the two has then `EXIT_GRACE_S` to follow before it is made to.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError
from pympipool.pool.failures import start_error
from pympipool.pool.output import Output
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, Timer, WorkerHandle
from pympipool.serialization.exceptions import load_exception
from pympipool.transport.control_server import Connection, HandshakeError, Listener, PeerClosed
from pympipool.transport.shm import ShmLink

if TYPE_CHECKING:
    from pympipool._core.ring import Segment
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Resources

LOGGER = logging.getLogger("pympipool.pool")

HANDSHAKE_TIMEOUT_S = 10.0
"""How long a stranger may take to prove that he is none."""

EXIT_GRACE_S = 1.0
"""How long a worker's process may outlive its connection, or the other way round."""

FINAL_READS_MAX = 64
"""Reads from the connection of a process that has ended."""

POLL_S = 0.2
"""How often processes are looked at that cannot be waited for."""

LONGEST_SLEEP_S = 86_400.0
"""Longer waits are refused by the system: by epoll after 24 days. Waking in between costs nothing."""

CANCELLED_TIMERS_MAX = 1000
"""Timers of workers that are gone, before they are swept out of the queue."""


class SupervisorEvents(Protocol):
    """What a pool decides; called in the supervisor's thread."""

    def on_ready(self, worker: WorkerHandle) -> None:
        """All ranks of the worker are ready to serve."""

    def on_rank_error(self, worker: WorkerHandle, call: int) -> None:
        """A rank of the worker says that the call raised there (`worker.rank_errors[call]`)."""

    def on_gone(self, worker: WorkerHandle) -> None:
        """The worker is gone, for whatever reason."""


class Supervisor:
    """Runs the thread, and keeps the workers that were started with it.

    Args:
        settings: what workers are told when they have connected (see docs/design.md).
        doorbells: the segment with the master's doorbells.
    """

    def __init__(self, events: SupervisorEvents, settings: dict[str, Any], doorbells: Segment) -> None:
        self.events = events
        self.settings = settings
        self.doorbells = doorbells
        self.listener = Listener()
        self.workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = itertools.count()
        self._left_over = 0  # timers in the queue that were forgotten
        self._stopping = False
        self._watch(self._wake_receiver, self._run_calls)
        self._watch(self.listener, self._accept)
        self.thread = threading.Thread(target=self._run, name="pympipool_supervisor", daemon=True)

    # ---- for any thread ----

    def start(self) -> None:
        """Starts the thread."""
        self.thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Has function() called in the supervisor's thread, soon."""
        self._calls.append(function)
        try:
            self._wake_sender.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or has ended

    def describe_workers(self) -> list[dict[str, Any]]:
        """What each serving worker's rank 0 said of itself, its number, and the hosts of all its ranks."""
        workers = list(self.workers.values())
        return [
            {"worker": worker.number, **worker.ready_ranks[0], "hosts": worker.hosts}
            for worker in workers
            if 0 in worker.ready_ranks
        ]

    def worker_states(self) -> list[dict[str, Any]]:
        """Number, ranks, state ("starting", "serving", "ending"), hosts, and pid (None until it is ready) of each worker."""
        return [
            {
                "worker": worker.number,
                "ranks": worker.order.ranks,
                "state": worker.state.name.lower(),
                "hosts": worker.hosts,
                "pid": worker.pid,
            }
            for worker in list(self.workers.values())
        ]

    # ---- for the policy, in the supervisor's thread ----

    def stop(self) -> None:
        """Ends the thread after what it is doing."""
        self._stopping = True

    def after(self, delay_s: float, function: Callable[[], None], worker: WorkerHandle | None = None) -> Timer:
        """Has function() called after delay_s seconds; if it is for a worker, only as long as that is not gone."""
        timer = Timer(function, worker)
        heapq.heappush(self._timers, (monotonic() + delay_s, next(self._timer_numbers), timer))
        return timer

    def start_worker(self, spawner: Spawner, resources: Resources, environment: dict[str, str]) -> WorkerHandle:
        """Starts a worker.

        Args:
            resources: what it needs: the number of ranks, the working directory.
            environment: what is set there besides the master's environment.

        Raises:
            WorkerStartError, OSError: its process cannot be started, or there is no memory for its link.
        """
        number = next(self._numbers)
        link = ShmLink(self.doorbells)
        order = LaunchRequest(
            number=number,
            ranks=resources.cores,
            environment={
                **environment,
                **({"PYMPIPOOL_ERROR_LOG": resources.error_log_file} if resources.error_log_file else {}),
                **self.listener.environment(number, resources.cores),
            },
            cwd=resources.cwd,
            connect_limit_s=resources.connect_timeout,
        )
        worker = WorkerHandle(order, spawner.start(order), link)
        self.workers[number] = worker
        LOGGER.info("worker %d starts (ranks: %d)", number, resources.cores)
        for output in worker.outputs:
            if output.pipe is not None:
                self._watch(output.pipe, functools.partial(self._forward, output))
        descriptor = worker.process.fileno()
        if descriptor is not None:
            self._watch(descriptor, functools.partial(self._process_ended, worker))
        else:
            self.after(POLL_S, lambda: self._poll_process(worker), worker)
        if not spawner.is_queued:  # else only the worker itself knows when its time begins
            self.after(order.connect_limit_s, lambda: self._check_connected(worker), worker)
        return worker

    def end_worker(self, worker: WorkerHandle, *, reason: BaseException | None = None, grace_s: float = 0.0) -> None:
        """Ends a worker's processes: at once, or if they have not ended by themselves in grace_s."""
        if worker.state is State.GONE:
            return
        if grace_s > 0:
            worker.state = State.ENDING
            self.after(grace_s, lambda: self.end_worker(worker, reason=reason), worker)
            return
        worker.kill_reason = worker.kill_reason or reason
        if worker.process.noisy_exit:
            for output in worker.outputs:
                output.mute()
        worker.process.kill()

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._next_timer_s()):
                    if self._selector.get_map().get(key.fd) is key:  # not ended by an event before it
                        self._protected(key.data)
                self._run_timers()
        finally:
            self.close()

    def _protected(self, function: Callable[[], None]) -> None:
        """Runs one handler; no failure may end the thread that everybody relies on."""
        try:
            function()
        except Exception:
            LOGGER.exception("keeping workers: unexpected failure")

    def _next_timer_s(self) -> float | None:
        return min(max(self._timers[0][0] - monotonic(), 0.0), LONGEST_SLEEP_S) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= monotonic():
            self._protected(heapq.heappop(self._timers)[2].run)

    def _forget(self, timers: Collection[Timer]) -> None:
        self._left_over += len(timers)
        for timer in timers:
            timer.forget()
        if self._left_over > max(CANCELLED_TIMERS_MAX, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if entry[2].function is not None]
            heapq.heapify(self._timers)
            self._left_over = 0

    def _run_calls(self) -> None:
        try:
            self._wake_receiver.recv(4096)
        except BlockingIOError:
            pass
        while self._calls:
            self._protected(self._calls.popleft())

    def close(self) -> None:
        """Closes all descriptors, without a word to the workers (also in forked children)."""
        greeted = [connection for worker in self.workers.values() for connection in worker.connections.values()]
        watched = [key.fileobj for key in (self._selector.get_map() or {}).values()]  # none when it is closed already
        for connection in [*greeted, *watched]:
            if isinstance(connection, Connection):
                connection.close()
        self._selector.close()
        self.listener.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _watch(self, what: Any, handler: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, handler)

    def _unwatch(self, what: Any) -> None:
        try:
            self._selector.unregister(what)
        except (KeyError, ValueError):
            pass  # it was not watched, or is closed

    # ---- connections ----

    def _accept(self) -> None:
        connection = self.listener.accept()
        if connection is None:
            return
        patience = self.after(HANDSHAKE_TIMEOUT_S, lambda: self._drop(connection))
        self._watch(connection, lambda: self._greet(connection, patience))

    def _drop(self, connection: Connection) -> None:
        self._unwatch(connection)
        connection.close()

    def _greet(self, connection: Connection, patience: Timer) -> None:
        try:
            greeting = connection.handshake()
        except (HandshakeError, OSError, EOFError) as error:
            if isinstance(error, PeerClosed):
                LOGGER.info("a connection ended without a word: of a worker that was ended while it started, as a rule")
            else:
                LOGGER.warning("dropped a connection that is none of our workers': %s", error)
            self._forget((patience,))
            self._drop(connection)
            return
        if greeting is None:
            return
        self._forget((patience,))
        number, rank = greeting
        worker = self.workers.get(number)
        if worker is None or rank >= worker.order.ranks or rank in worker.connections:
            self._drop(connection)
            return
        worker.connections[rank] = connection
        self._unwatch(connection)
        self._watch(connection, lambda: self._read(worker, rank, connection))
        output = worker.process.direct_output or ()
        descriptors = (*(worker.link.descriptors() if rank == 0 else ()), *output)
        settings = {**self.settings, "direct_output": bool(output)}
        try:
            connection.send(("setup", settings), descriptors)
        except OSError:
            self._hung_up(worker, rank, connection)

    def _read(self, worker: WorkerHandle, rank: int, connection: Connection) -> None:
        try:
            frames = connection.receive_available()
        except (EOFError, OSError):
            self._hung_up(worker, rank, connection)
            return
        for frame in frames:
            self._take_frame(worker, rank, frame)

    def _take_frame(self, worker: WorkerHandle, rank: int, frame: tuple[Any, ...]) -> None:
        match frame:
            case ("ready", said):
                worker.ready_ranks[rank] = said
                worker.process.add_rank(said["pid"])
                if len(worker.ready_ranks) == worker.order.ranks and worker.state is State.STARTING:
                    worker.state = State.SERVING
                    worker.link.handed_over()
                    LOGGER.info("worker %d is ready on %s (pid %s)", worker.number, worker.host, worker.pid)
                    self.events.on_ready(worker)
            case ("failed", parts):
                worker.start_error = worker.start_error or load_exception(parts)
                # It ends by itself, unless init_function has left a thread behind, or an exit function that never returns.
                self.after(WORKER_EXIT_GRACE_S, lambda: self.end_worker(worker), worker)
            case ("raised", raising_rank, call, parts):
                worker.rank_errors.setdefault(call, {})[raising_rank] = parts
                self.events.on_rank_error(worker, call)
            case ("leaving", why):
                worker.exit_reason = why
            case ("lost", how):
                worker.lost_reason, worker.first_failed_rank = how, rank
                worker.process.kill_unreachable()
            case _:
                LOGGER.warning("worker %d: unknown frame %r", worker.number, frame[:1])

    def _check_connected(self, worker: WorkerHandle) -> None:
        missing = worker.order.ranks - len(worker.connections)
        if worker.state is not State.STARTING or missing == 0:
            return
        worker.start_error = WorkerStartError(
            f"worker {worker.number} did not start: {missing} of {worker.order.ranks} ranks have not connected within"
            f" connect_timeout={worker.order.connect_limit_s:g} s"
        )
        self.end_worker(worker)

    def _hung_up(self, worker: WorkerHandle, rank: int, connection: Connection) -> None:
        self._drop(connection)
        if worker.state is State.GONE:
            return
        if worker.first_failed_rank is None:
            worker.first_failed_rank = rank
        if worker.process_ended:
            self._reap_if_disconnected(worker)
            return
        self.after(EXIT_GRACE_S, lambda: self.end_worker(worker), worker)
        if worker.process.fileno() is None:
            self._poll_process(worker)

    # ---- processes and their output ----

    def _forward(self, output: Output) -> None:
        pipe = output.pipe
        if not output.forward():
            self._unwatch(pipe)

    def _poll_process(self, worker: WorkerHandle) -> None:
        if worker.state is State.GONE:
            return
        if worker.process.poll() is None:
            self.after(POLL_S, lambda: self._poll_process(worker), worker)
        else:
            self._process_ended(worker)

    def _process_ended(self, worker: WorkerHandle) -> None:
        if worker.process_ended or worker.process.poll() is None:
            return
        worker.process_ended = True
        descriptor = worker.process.fileno()
        if descriptor is not None:
            self._unwatch(descriptor)
        self._reap_if_disconnected(worker)
        if worker.process.delivery_delay_s > 0 and worker.lost_reason is None and worker.state is not State.GONE:
            self.after(worker.process.delivery_delay_s, lambda: self._reap(worker), worker)
        else:
            self._reap(worker)

    def _reap_if_disconnected(self, worker: WorkerHandle) -> None:
        """Once all connections have ended, nothing more will be heard of a worker whose process has ended."""
        for rank, connection in list(worker.connections.items()):
            for _ in range(FINAL_READS_MAX):  # then the hang-up; a child that survives it may hold the connection open
                if connection.fileno() < 0:
                    break
                self._read(worker, rank, connection)
        if all(connection.fileno() < 0 for connection in worker.connections.values()):
            self._reap(worker)

    def _reap(self, worker: WorkerHandle) -> None:
        if worker.state is State.GONE:
            return
        for connection in worker.connections.values():
            self._drop(connection)  # to a process that has outlived what started it, this is the end
        for output in worker.outputs:
            self._unwatch(output.pipe)
            output.drain()
        if worker.first_failed_rank is None:
            worker.exit_code = worker.process.poll()
        else:
            worker.first_failed_rank, worker.exit_code = worker.process.exit_status_of(worker.first_failed_rank)
        worker.process.kill()  # whatever is left of its group
        if worker.state is State.STARTING and worker.process.failed_permanently(worker.stderr_tail):
            worker.start_error = worker.start_error or start_error(worker)
        worker.state_before_end = worker.state
        worker.state = State.GONE
        del self.workers[worker.number]
        self._forget(tuple(worker.timers))
        try:
            self.events.on_gone(worker)
        finally:
            worker.process.close()
            worker.release()

"""What the master sends to the ranks of a worker: settings and link at the start, and later what they ask for.

all ranks have connected ──► send_settings: on this host, all of them? ──► settings, and the descriptors of the link
("resource_tracker",)    ──► send_resource_tracker
("script_object", name)  ──► send_script_object
("shared", key)          ──► send_shared
("keep_shared", key, ..) ──► keep_shared, for the result of the call that the rank runs
("stored_parts", call)   ──► send_stored_parts: large arguments of a call that lie in shared memory once for all ranks
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pympipool._core.ring import RANKS_MAX
from pympipool._util.service_threads import ServiceLogger, ServiceThread
from pympipool._util.signals import SigpipeBlocked
from pympipool.errors import WorkerStartError
from pympipool.pool.script_context import pickled_script_object, script_context
from pympipool.transport.shm import ShmLink

if TYPE_CHECKING:
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.ring import Segment
    from pympipool.pool.connections import ControlConnections
    from pympipool.pool.event_loop import EventLoop
    from pympipool.pool.worker_handle import WorkerHandle

RELAYED_RING_CAPACITY = 1 << 16
"""Bytes of each ring of a worker on another host: the network, not the ring, limits large messages, and there may be thousands."""

LOGGER = ServiceLogger("pympipool.pool")


class RankServices:
    """Sends to the ranks of one executor's workers. Only for the supervisor's thread.

    Args:
        connections: The connections to them.
        loop: Runs what other threads have prepared.
        settings: What each rank is sent when its worker has connected (see docs/design.md).
        dispatcher: Has the master's doorbells, and tells workers of the end of shared data.
    """

    def __init__(
        self, connections: ControlConnections, loop: EventLoop, settings: dict[str, Any], dispatcher: Dispatcher
    ) -> None:
        self._connections = connections
        self._loop = loop
        self._settings = settings
        self._dispatcher = dispatcher

    def send_settings(self, worker: WorkerHandle) -> bool:
        """Send all ranks of a worker their settings, and the link to those that use it; return False without room for it."""
        if self._may_share_link(worker):
            try:
                worker.link = ShmLink(self._dispatcher.doorbells, worker.request.ranks)
            except OSError as error:
                LOGGER.warning("worker %d: rank 0 shares its calls by MPI, which is slower: %s", worker.number, error)
        if worker.link is None:
            try:
                worker.link = ShmLink(self._dispatcher.doorbells, capacity=self._capacity(worker))
            except OSError as error:
                worker.process.start_failure = WorkerStartError(f"worker {worker.number} has no rings: {error}")
                return False
        output = worker.process.direct_output or ()
        inheritance = self._settings["inheritance"]
        inherited = () if inheritance is None else inheritance.descriptors
        settings = {
            **self._settings,
            **script_context(),
            "worker_id": worker.worker_id,
            "direct_output": bool(output),
            "inheritance": len(inherited),
            "shared": None,
        }
        link: ShmLink = (
            worker.link
        )  # the worker has none any more if one of its connections turns out to have been the last
        for rank in worker.connections:
            descriptors = (*inherited, *link.descriptors(rank), *output)
            self._connections.send(worker, rank, ("setup", settings), descriptors)
        if all(connection.is_relayed for connection in worker.connections.values()):
            worker.hand_over_link()
        return True

    def _capacity(self, worker: WorkerHandle) -> int | None:
        """Return the size of the rings of a worker."""
        is_elsewhere = any(connection.is_relayed for connection in worker.connections.values())
        return RELAYED_RING_CAPACITY if is_elsewhere else None

    def _may_share_link(self, worker: WorkerHandle) -> bool:
        """Return True for a worker of several ranks, all on this host."""
        if not 1 < worker.request.ranks <= RANKS_MAX:
            return False
        return not any(connection.is_relayed for connection in worker.connections.values())

    def answer(self, worker: WorkerHandle, rank: int, frame: tuple[Any, ...]) -> None:
        """Answer a request of a rank."""
        match frame:
            case ("resource_tracker",):
                self.send_resource_tracker(worker, rank)
            case ("script_object", name):
                self.send_script_object(worker, rank, name)
            case ("shared", key):
                self.send_shared(worker, rank, key)
            case ("keep_shared", key, part_keys):
                self.keep_shared(worker, rank, key, part_keys)
            case ("stored_parts", call):
                self.send_stored_parts(worker, rank, call)

    def send_resource_tracker(self, worker: WorkerHandle, rank: int) -> None:
        """Send a rank the descriptor of this process's resource tracker; none if the tracker does not start."""
        from multiprocessing import resource_tracker

        try:
            with SigpipeBlocked():  # it writes to the pipe of a tracker that may have ended
                tracker = resource_tracker.getfd()
        except Exception as error:
            LOGGER.warning("the resource tracker of multiprocessing does not start: %r", error)
            tracker = None
        self._connections.send(worker, rank, ("resource_tracker",), () if tracker is None else (tracker,))

    def send_script_object(self, worker: WorkerHandle, rank: int, name: str) -> None:
        """Send a rank a class or function of the script, pickled in a thread of its own: that may run code of the user."""

        def look_up() -> None:
            pickled = pickled_script_object(name)
            send = functools.partial(self._connections.send, worker, rank, ("script_object", pickled))
            self._loop.call(lambda: self._loop.run(send, worker.handlers))

        try:
            ServiceThread("pympipool_script_object", look_up, may_wait=True).start()
        except RuntimeError as error:  # no more threads
            LOGGER.warning("a worker looks for %s of the script, which cannot be pickled now: %s", name, error)
            self._connections.send(worker, rank, ("script_object", None))

    def send_shared(self, worker: WorkerHandle, rank: int, key: bytes) -> None:
        """Send a rank a descriptor of the memory of shared data; none if they have been released."""
        from pympipool.serialization import shared

        found = shared.find(key)
        if found is None or found.owner is None:
            self._connections.send(worker, rank, ("shared", False))
            return
        found.owner.add_announcer(self._dispatcher.notices)
        self._connections.send(worker, rank, ("shared", True), (found.mapping.fileno(),))

    def keep_shared(self, worker: WorkerHandle, rank: int, key: bytes, part_keys: list[bytes]) -> None:
        """Own what a call has put into shared memory for its result, whose descriptor has come with the rank's request."""
        from pympipool.serialization import shared

        problem = ""
        try:
            kept = shared.adopt(key, worker.connections[rank].take_descriptor(), part_keys)
            self._dispatcher.keep_shared(worker.number, kept)
        except (OSError, MemoryError) as error:  # no descriptor is free, for example
            problem = str(error) or type(error).__name__
        self._connections.send(worker, rank, ("keep_shared", problem))

    def send_stored_parts(self, worker: WorkerHandle, rank: int, call: int) -> None:
        """Send a rank descriptors of the large arguments of its call; none if none is free."""
        segments: list[Segment] = []
        try:
            segments = self._dispatcher.stored_parts(worker.number, call)
        except OSError as error:
            LOGGER.warning("worker %d: %s", worker.number, error)
        self._connections.send(worker, rank, ("stored_parts",), segments)

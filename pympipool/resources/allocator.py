"""Allocates the cores and devices of an executor to its workers.

A `ResourceAllocator` counts free cores and devices, and queues the calls that wait for them. Calls start in the order
in which they came, but a call that fits may pass others that wait for more than is free. So that these do not wait for
ever, calls that take what the longest-waiting call needs may pass it at most `PASSES_PER_CORE` times per core. After
that only calls pass it that leave enough for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pympipool._util.devices import DEVICE_VARIABLES
from pympipool.resources.discovery import Devices, available_cores, available_devices
from pympipool.resources.request import Resources

PASSES_PER_CORE = 8
"""Number of times, for each core of an executor, that smaller calls may pass the call that has waited longest.

The number is large enough that a machine full of small calls is not drained for every large call, and small enough that
the wait of a large call is bounded by the time of this many calls per core."""

Ticket = TypeVar("Ticket", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Allocation:
    """Cores and devices that belong to a worker until `ResourceAllocator.release`.

    Attributes:
        resources: What the worker needs.
        devices: The names of its devices, those of rank 0 first.
    """

    resources: Resources
    devices: tuple[str, ...] = ()
    _all_devices: Devices = Devices()

    def environment(self, rank: int | None = None) -> dict[str, str]:
        """Return the variables with which a worker, or one of its ranks, sees its own devices and no others.

        Empty for a worker that needs no device: such a worker sees the devices that the user's own process sees.

        Args:
            rank: One of the worker's ranks; None: all of them.
        """
        if not self.devices:
            return {}
        each = self.resources.gpus_per_core
        own = self.devices if rank is None else self.devices[rank * each : (rank + 1) * each]
        return self._all_devices.environment(own)


class ResourceAllocator(Generic[Ticket]):
    """The free cores and devices of an executor, and the queue of calls that wait for them. Thread-safe.

    A ticket stands for a call in the queue. `check`, `devices`, `resize` and `free_cores`, which the threads of users call,
    take no lock and change at most one attribute. So an exception of a signal handler interrupts no change, and a slow
    discovery of devices delays no other thread. Which devices are free is derived from the allocations.

    Args:
        cores: The number of cores. Default: those that this process may use.
        are_default: These are the cores that this process may use, as the user has set no number; for messages.
        devices: The devices. Default: those that this process may use.
        counts_devices: False where a scheduler gives workers their devices, so that none are allocated here.

    Examples:
        >>> allocator = ResourceAllocator(cores=2, devices=Devices())
        >>> allocator.enqueue("large", Resources(cores=2))
        >>> ticket, allocation = allocator.next()
        >>> ticket, allocator.free_cores
        ('large', 0)
        >>> allocator.release(allocation)
        >>> allocator.free_cores
        2
    """

    def __init__(
        self,
        cores: int | None = None,
        devices: Devices | None = None,
        *,
        are_default: bool = False,
        counts_devices: bool = True,
    ) -> None:
        self._are_default = are_default
        self._counts_devices = counts_devices
        self.cores = available_cores() if cores is None else cores
        self._devices = devices
        self._used_cores = 0
        # A queue for each size, as only the first call of each size can be the next to start.
        self._queues: dict[tuple[int, int], OrderedDict[int, tuple[Ticket, Resources]]] = {}
        self._positions: dict[Ticket, tuple[tuple[int, int], int]] = {}  # size and arrival of each queued ticket
        self._arrivals = 0
        self._allocations: set[Allocation] = set()
        self._passes = 0  # how often the ticket that has waited longest was passed
        self._lock = threading.RLock()

    def check(self, resources: Resources) -> None:
        """Raise ValueError for resources that exceed those of the executor.

        Raises:
            ValueError: They exceed what there is, even when all is free.
        """
        if resources.total_cores > self.cores:
            threads = resources.threads_per_core
            of_threads = (
                f" with threads_per_core={threads}, {resources.total_cores} cores together" if threads > 1 else ""
            )
            limit = (
                f"the cores that this process may use: give Executor() max_cores={resources.total_cores} for more"
                if self._are_default
                else "the executor's max_cores"
            )
            raise ValueError(f"cores is {resources.cores}{of_threads}; it must be at most {self.cores}, {limit}")
        if self._gpus(resources) > 0 and resources.gpus > len(self.devices.names):
            raise ValueError(
                f"gpus_per_core is {resources.gpus_per_core} with {resources.cores} cores, {resources.gpus} GPUs "
                f"together; this process may use {len(self.devices.names)} (as {', '.join(DEVICE_VARIABLES)} or the "
                "drivers of NVIDIA and AMD say)"
            )

    @property
    def devices(self) -> Devices:
        """All devices. They are discovered when they are first needed."""
        if self._devices is None:
            self._devices = available_devices()  # two threads that come here at once find the same
        return self._devices

    @property
    def free_cores(self) -> int:
        """The number of free cores. Negative if after `resize` more cores are allocated than there are."""
        return self.cores - self._used_cores

    def resize(self, cores: int) -> None:
        """Change the number of cores. Existing allocations stay until they are released.

        Raises:
            ValueError: A queued ticket needs more.
        """
        most = max((size[0] for size in list(self._queues)), default=0)
        if most > cores:
            raise ValueError(f"{cores} cores are too few: a call that waits asks for {most}")
        self.cores = cores

    def allocate(self, resources: Resources) -> Allocation | None:
        """Allocate cores and devices at once, without regard to the queue; return None if too few are free.

        Raises:
            ValueError: They exceed what there is, even when all is free.
        """
        self.check(resources)
        with self._lock:
            return self._allocate(resources) if self._fits(resources.total_cores, self._gpus(resources)) else None

    def release(self, allocation: Allocation) -> None:
        """Make allocated cores and devices free again. A second release does nothing."""
        with self._lock:
            if allocation not in self._allocations:
                return
            self._allocations.remove(allocation)
            self._used_cores -= allocation.resources.total_cores

    def enqueue(self, ticket: Ticket, resources: Resources) -> None:
        """Put a ticket at the end of the queue.

        Raises:
            ValueError: It needs more than there is, even when all is free.
        """
        self.check(resources)
        with self._lock:
            self._arrivals += 1
            size = (resources.total_cores, self._gpus(resources))
            self._queues.setdefault(size, OrderedDict())[self._arrivals] = (ticket, resources)
            self._positions[ticket] = (size, self._arrivals)

    def next(self) -> tuple[Ticket, Allocation] | None:
        """Remove the next ticket from the queue and return it with its allocation; None if no ticket may start now."""
        with self._lock:
            if self.free_cores <= 0:
                return None
            size = self._next_size()
            if size is None:
                return None
            ticket, resources = next(iter(self._queues[size].values()))
            allocation = self._allocate(resources)  # first: without memory for it, the ticket keeps its place
            self._queues[size].popitem(last=False)
            if not self._queues[size]:
                del self._queues[size]
            del self._positions[ticket]
            return ticket, allocation

    def _next_size(self) -> tuple[int, int] | None:
        """Return the size of the ticket that may start now, and count if it passes the one that has waited longest."""
        sizes = sorted(self._queues, key=self._first_arrival)
        for size in sizes:
            if not self._fits(*size):
                continue
            if size == sizes[0]:
                self._passes = 0
            elif not self._leaves_enough(size, sizes[0]):
                if self._passes >= PASSES_PER_CORE * self.cores:
                    continue
                self._passes += 1
            return size
        return None

    def _leaves_enough(self, size: tuple[int, int], first: tuple[int, int]) -> bool:
        """Return True if an allocation of this size leaves enough for the first size in the queue."""
        free = (self.free_cores, len(self._free_devices()))
        return all(not taken or have - taken >= needed for taken, needed, have in zip(size, first, free, strict=True))

    def _first_arrival(self, size: tuple[int, int]) -> int:
        return next(iter(self._queues[size]))

    def is_queued(self, ticket: Ticket) -> bool:
        """Return True if the ticket is in the queue."""
        return ticket in self._positions

    def withdraw(self, ticket: Ticket) -> bool:
        """Remove a ticket from the queue; return False if it is not there any more."""
        with self._lock:
            if ticket not in self._positions:
                return False
            size, arrival = self._positions.pop(ticket)
            if arrival == min(map(self._first_arrival, self._queues)):
                self._passes = 0
            del self._queues[size][arrival]
            if not self._queues[size]:
                del self._queues[size]
            return True

    def withdraw_too_large(self) -> list[Ticket]:
        """Remove and return the tickets that need more cores than there are since `resize`, even when all are free."""
        with self._lock:
            sizes = [size for size in self._queues if size[0] > self.cores]
            tickets = [ticket for size in sizes for ticket, _ in self._queues[size].values()]
            for ticket in tickets:
                self.withdraw(ticket)
            return tickets

    def __len__(self) -> int:
        """Return the number of queued tickets."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    def _fits(self, cores: int, gpus: int) -> bool:
        return cores <= self.free_cores and (not gpus or gpus <= len(self._free_devices()))

    def _free_devices(self) -> list[str]:
        """Return the names of the devices that no allocation has, in the order of `devices`."""
        if self._devices is None:
            return []
        used = {name for allocation in self._allocations for name in allocation.devices}
        return [name for name in self._devices.names if name not in used]

    def _gpus(self, resources: Resources) -> int:
        """Return the number of devices that must be allocated here for these resources."""
        return resources.gpus if self._counts_devices else 0

    def _allocate(self, resources: Resources) -> Allocation:
        gpus = self._gpus(resources)
        names = tuple(self._free_devices()[:gpus]) if gpus else ()
        allocation = Allocation(resources, names, self._devices or Devices())
        used_cores = self._used_cores + resources.total_cores
        self._allocations.add(allocation)
        self._used_cores = used_cores
        return allocation

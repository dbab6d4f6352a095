"""Who gets what this machine has.

A `ResourceAllocator` counts the cores and devices of an executor. Calls that wait for them stand in its line: they start in the
order in which they came, but a call that fits may pass others that wait for more than is free. So that these do not
wait for ever, the call that has waited longest is passed at most `PASSES_PER_CORE` times per core by calls that take
what it waits for; after that only those pass that leave enough for it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from pympipool.resources.discovery import DEVICE_VARIABLES, Devices, available_cores, available_devices
from pympipool.resources.request import Resources

PASSES_PER_CORE = 8
"""How often, for each core of a ledger, smaller calls may pass the one that has waited longest.

Enough that a machine full of small calls is not drained for every large one, few enough that the large one's wait
is bounded by the time of this many calls per core."""

Ticket = TypeVar("Ticket")


@dataclass(frozen=True, eq=False)
class Allocation:
    """Cores and devices that belong to a worker until `ResourceAllocator.give_back`.

    Attributes:
        resources: What was asked for.
        devices: Names of the devices, those of rank 0 first.
    """

    resources: Resources
    devices: tuple[str, ...] = ()
    _all_devices: Devices = Devices()

    def environment(self, rank: int | None = None) -> dict[str, str]:
        """The variables that make a worker, or one of its ranks, see its devices and no others.

        Empty when the worker asked for none: it sees what the user's own process sees.
        """
        if not self.devices:
            return {}
        each = self.resources.gpus_per_core
        own = self.devices if rank is None else self.devices[rank * each : (rank + 1) * each]
        return self._all_devices.environment(own)


class ResourceAllocator(Generic[Ticket]):
    """The free cores and devices of an executor, and the line of those who wait for them. Any thread may use it.

    Args:
        cores: By default those that this process may use.
        devices: By default those that this process may use.
        counts_devices: Whether it gives out devices; not where a scheduler does.

    Examples:
        >>> ledger = ResourceAllocator(cores=2, devices=Devices())
        >>> ledger.enqueue("large", Resources(cores=2))
        >>> ticket, grant = ledger.next()
        >>> ticket, ledger.free_cores
        ('large', 0)
        >>> ledger.give_back(grant)
        >>> ledger.free_cores
        2
    """

    def __init__(
        self, cores: int | None = None, devices: Devices | None = None, *, counts_devices: bool = True
    ) -> None:
        self._counts_devices = counts_devices
        self.cores = available_cores() if cores is None else cores
        self._devices = devices
        self._free_cores = self.cores
        self._free_devices: list[str] | None = None if devices is None else list(devices.names)
        # One line for each size: only the first of each can be next, however many wait behind it.
        self._lines: dict[tuple[int, int], deque[tuple[int, Ticket, Resources]]] = {}
        self._arrivals = 0
        self._granted: set[Allocation] = set()
        self._passes = 0  # of the ticket that has waited longest
        self._lock = threading.RLock()

    def check(self, resources: Resources) -> None:
        """Raises what is wrong with asking for so much.

        Raises:
            ValueError: It is more than there is, even when all is free.
        """
        if resources.cores > self.cores:
            raise ValueError(f"cores is {resources.cores}; it must be at most {self.cores}, the executor's max_cores")
        if self._gpus(resources) > 0 and resources.gpus > len(self.devices.names):
            raise ValueError(
                f"gpus_per_core is {resources.gpus_per_core} with {resources.cores} cores, {resources.gpus} GPUs "
                f"together; this process may use {len(self.devices.names)} (as {', '.join(DEVICE_VARIABLES)} or the "
                "drivers of NVIDIA and AMD say)"
            )

    @property
    def devices(self) -> Devices:
        """All devices; looked for when somebody first asks for one."""
        with self._lock:
            if self._devices is None:
                self._devices = available_devices()
                self._free_devices = list(self._devices.names)
            return self._devices

    @property
    def free_cores(self) -> int:
        """Cores that nobody has now; negative when more are granted than there are since `resize`."""
        return self._free_cores

    def resize(self, cores: int) -> None:
        """Changes the number of cores; what was granted stays so until it is given back.

        Raises:
            ValueError: A ticket in the line asks for more.
        """
        with self._lock:
            most = max((size[0] for size in self._lines), default=0)
            if most > cores:
                raise ValueError(f"{cores} cores are too few: a call that waits asks for {most}")
            self._free_cores += cores - self.cores
            self.cores = cores

    def take(self, resources: Resources) -> Allocation | None:
        """Cores and devices, at once and past the line; None when not so many are free.

        Raises:
            ValueError: They never will be.
        """
        self.check(resources)
        with self._lock:
            return self._grant(resources) if self._fits(resources.cores, self._gpus(resources)) else None

    def give_back(self, grant: Allocation) -> None:
        """Makes what was granted free again. Giving back twice does nothing."""
        with self._lock:
            if grant not in self._granted:
                return
            self._granted.remove(grant)
            self._free_cores += grant.resources.cores
            if grant.devices and self._free_devices is not None:
                self._free_devices += grant.devices
                self._free_devices.sort(key=self.devices.names.index)

    def enqueue(self, ticket: Ticket, resources: Resources) -> None:
        """Puts a ticket, which stands for a call, at the end of the line.

        Raises:
            ValueError: It asks for more than there is.
        """
        self.check(resources)
        with self._lock:
            self._arrivals += 1
            line = self._lines.setdefault((resources.cores, self._gpus(resources)), deque())
            line.append((self._arrivals, ticket, resources))

    def next(self) -> tuple[Ticket, Allocation] | None:
        """Takes the next ticket out of the line, with what it asked for; None when none may start now."""
        with self._lock:
            if self._free_cores <= 0:
                return None
            size = self._next_size()
            if size is None:
                return None
            _, ticket, resources = self._lines[size].popleft()
            if not self._lines[size]:
                del self._lines[size]
            return ticket, self._grant(resources)

    def _next_size(self) -> tuple[int, int] | None:
        """The size of the ticket that may start now; counts its passing of the one that has waited longest."""
        sizes = sorted(self._lines, key=lambda size: self._lines[size][0][0])
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
        """Whether a grant of this size takes nothing that the first in line waits for."""
        free = (self._free_cores, len(self._free_devices or ()))
        return all(not mine or have - mine >= its for mine, its, have in zip(size, first, free, strict=True))

    def waiting(self) -> list[Ticket]:
        """The tickets in the line, in the order in which they came."""
        with self._lock:
            entries = [entry for line in self._lines.values() for entry in line]
        return [ticket for _, ticket, _ in sorted(entries, key=lambda entry: entry[0])]

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes a ticket out of the line; False when it is not there any more."""
        with self._lock:
            for size, line in self._lines.items():
                for place, entry in enumerate(line):
                    if entry[1] is ticket:
                        self._passes = 0 if self._is_first(entry) else self._passes
                        del line[place]
                        if not line:
                            del self._lines[size]
                        return True
        return False

    def __len__(self) -> int:
        """Number of tickets in the line."""
        with self._lock:
            return sum(map(len, self._lines.values()))

    def _is_first(self, entry: tuple[int, Ticket, Resources]) -> bool:
        return entry[0] == min(line[0][0] for line in self._lines.values())

    def _fits(self, cores: int, gpus: int) -> bool:
        return cores <= self._free_cores and (not gpus or gpus <= len(self._free_devices or ()))

    def _gpus(self, resources: Resources) -> int:
        """The devices that must be free here for this."""
        return resources.gpus if self._counts_devices else 0

    def _grant(self, resources: Resources) -> Allocation:
        names: tuple[str, ...] = ()
        gpus = self._gpus(resources)
        if gpus and self._free_devices is not None:
            names = tuple(self._free_devices[:gpus])
            del self._free_devices[:gpus]
        self._free_cores -= resources.cores
        grant = Allocation(resources, names, self._devices or Devices())
        self._granted.add(grant)
        return grant

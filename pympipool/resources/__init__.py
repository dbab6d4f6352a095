"""What a call or a worker needs, and what this machine has left.

    Executor(...) ─► Resources of the executor ─┐
    resource_dict ─► Resources.from_dict ───────┴► Resources of a call ─► ResourceAllocator ─► Allocation
                     checks each value                                    released when the worker has ended

    validation.py      checks of single values
    request.py         `Resources`: each parameter declared, checked and documented once
    discovery.py       the cores and devices that this process may use
    hosts.py           hosts that the user names
    process_limits.py  the limits of open files and processes, which many workers reach
    allocator.py       `ResourceAllocator`: which call gets cores and devices, and in which order

All other packages import the names below from here.
"""

from pympipool.resources.allocator import Allocation, ResourceAllocator
from pympipool.resources.discovery import Devices, available_cores, available_devices, bound_cores
from pympipool.resources.hosts import Host
from pympipool.resources.process_limits import FILES_BESIDE, FILES_PER_WORKER, raise_limits
from pympipool.resources.request import OF_CALLS, Resources
from pympipool.resources.validation import positive_seconds

__all__ = [
    "FILES_BESIDE",
    "FILES_PER_WORKER",
    "OF_CALLS",
    "Allocation",
    "Devices",
    "Host",
    "ResourceAllocator",
    "Resources",
    "available_cores",
    "available_devices",
    "bound_cores",
    "positive_seconds",
    "raise_limits",
]

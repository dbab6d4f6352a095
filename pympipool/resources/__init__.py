"""What a call or a worker needs, and what this machine has left.

    Executor(...) ─► Resources: the executor's ─┐
    resource_dict ─► Resources.from_dict ───────┴► Resources of a call ─► ResourceAllocator ─► Allocation: cores and devices
                     checked where they are said                                    given back when the worker ends

    checks.py      what a value may be
    needed.py      `Resources`: each parameter declared, checked and documented once
    available.py   the cores and devices that this process may use
    ledger.py      `ResourceAllocator`: who gets them, and in which order

Everybody else imports from here.
"""

from pympipool.resources.allocator import Allocation, ResourceAllocator
from pympipool.resources.discovery import Devices, available_cores, available_devices
from pympipool.resources.request import Resources
from pympipool.resources.validation import positive_seconds

__all__ = [
    "Allocation",
    "Devices",
    "ResourceAllocator",
    "Resources",
    "available_cores",
    "available_devices",
    "positive_seconds",
]

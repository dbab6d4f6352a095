"""Objects of multiprocessing among the initargs: queues, locks, events, barriers, shared values and pipes.

    pickle ── number of a descriptor ──> initializer in the settings ─> worker: InheritedDescriptor.detach()
    descriptor ── duplicate ───────────> beside the settings ─────────> worker: InheritedDescriptor.received

multiprocessing lets these objects travel only to a process that it starts itself, while it starts it. `Inheritance` takes the
place of such a process: it collects the descriptors that the objects consist of. Each worker gets them when it has connected, so
it must be on this machine. Locks are opened by their names, which exist as long as the objects do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from pympipool._util.platform import need_unix
from pympipool.transport.frames import INHERITED_DESCRIPTORS_MAX
from pympipool.worker.inherited import InheritedDescriptor


class Inheritance:
    """What the workers of an executor inherit besides their settings.

    Args:
        objects: The objects, which are kept as long as this one.

    Attributes:
        descriptors: Duplicates of the descriptors of these objects, in the order of their numbers.
    """

    def __init__(self, objects: object) -> None:
        self.descriptors: list[int] = []
        self._objects = objects

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    @contextlib.contextmanager
    def pickling(self) -> Iterator[None]:
        """Let objects of multiprocessing be pickled by this thread, and collect their descriptors."""
        context: Any = sys.modules.get("multiprocessing.context")
        if context is None:  # there are no such objects
            yield
            return
        before = context.get_spawning_popen()
        context.set_spawning_popen(self)
        try:
            yield
        finally:
            context.set_spawning_popen(before)

    def duplicate_for_child(self, descriptor: int) -> int:
        """Collect a descriptor; return its number. Called by multiprocessing, as on its own representation of a process."""
        need_unix("the initargs have objects of multiprocessing")
        if len(self.descriptors) == INHERITED_DESCRIPTORS_MAX:
            raise ValueError(f"the initargs have more than {INHERITED_DESCRIPTORS_MAX} file descriptors")
        self.descriptors.append(os.dup(descriptor))
        return len(self.descriptors) - 1

    def DupFd(self, number: int) -> InheritedDescriptor:  # noqa: N802  multiprocessing calls it by this name
        """Return what a collected descriptor is pickled as. Called by multiprocessing."""
        return InheritedDescriptor(number)

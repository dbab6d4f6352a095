"""The control groups of this process, and the memory that their limits leave.

Version 2 of the cgroup interface has one tree of folders, version 1 has one for each controller (the kernel's
admin-guide/cgroup-v2 and cgroup-v1). Containers see their own cgroup as the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeAlias

StrPath: TypeAlias = "str | os.PathLike[str]"

UNLIMITED = 1 << 60
"""Numbers from here on mean "no limit".

Version 1 of the cgroup interface writes the largest multiple of a page that it can hold.
"""


def cgroup_folders(controller: str | None = None, root: StrPath = "/") -> Iterator[tuple[str, int]]:
    """Yield the folders of this process's cgroups and of those above them, each with the version of its interface.

    Args:
        controller: The controller whose tree of version 1 to include; None: version 2 only.
        root: The root of the file system.
    """
    try:
        lines = read_text(root, "proc/self/cgroup").splitlines()
    except OSError:
        return
    top = os.path.join(root, "sys/fs/cgroup")
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tree, version = top, 2
        elif controller is not None and controller in controllers.split(","):
            tree, version = os.path.join(top, controller), 1
        else:
            continue
        names = [name for name in path.split("/") if name]
        yield from ((os.path.join(tree, *names[:depth]), version) for depth in range(len(names), -1, -1))


def memory_left(root: StrPath = "/") -> int | None:
    """Return the bytes of memory that this process's cgroups still allow; None if there is no limit.

    What files take in the page cache counts as free: the kernel gives it up before it ends a process. Shared memory does not.
    """
    left = (_memory_left(folder, version) for folder, version in cgroup_folders("memory", root))
    return min((size_bytes for size_bytes in left if size_bytes is not None), default=None)


def _memory_left(folder: str, version: int) -> int | None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    cache, shared = ("file", "shmem") if version == 2 else ("total_cache", "total_shmem")
    try:
        limit, used = (int(read_text(folder, name)) for name in names)
        figures = dict(line.split() for line in read_text(folder, "memory.stat").splitlines())
        reclaimable = int(figures[cache]) - int(figures[shared])
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return None
    return None if limit >= UNLIMITED else max(limit - used + reclaimable, 0)


def read_text(folder: StrPath, *names: str) -> str:
    """Return the text of a file. pathlib could do that too, but takes as long to import as a twentieth of the package."""
    with open(os.path.join(folder, *names)) as file:
        return file.read()

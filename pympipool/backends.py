"""The registry of backends: how workers are started, by name, and how "auto" chooses.

To add one: its spawner in `spawners/`, and its line in `_SPAWNERS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pympipool.spawners.base import Spawner


def _on_this_machine(ranks: int) -> Spawner:
    if ranks == 1:
        from pympipool.spawners.local import LocalSpawner

        return LocalSpawner()
    from pympipool.spawners.mpiexec import MpiexecSpawner

    return MpiexecSpawner()


_SPAWNERS: dict[str, Callable[[int], Spawner]] = {"mpi": _on_this_machine}


def make_spawner(backend: str, ranks: int) -> Spawner:
    """The spawner of a backend for workers of this many ranks.

    Raises:
        TypeError, ValueError: there is no such backend.
        WorkerStartError: what it needs is not installed.
    """
    if not isinstance(backend, str):
        raise TypeError(f"backend is {backend!r}; it must be a string: {', '.join(['auto', *_SPAWNERS])}")
    if backend == "auto":
        backend = "mpi"
    if backend not in _SPAWNERS:
        known = ["auto", *_SPAWNERS]
        near = difflib.get_close_matches(backend, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"backend is {backend!r}; it can be {', '.join(map(repr, known))}{meant}")
    return _SPAWNERS[backend](ranks)

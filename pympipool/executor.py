"""The public face: `Executor`, a `concurrent.futures.Executor` to up-scale one function at a time.

What it takes is checked here (and in `Resources`), what works behind it is an `Engine`, and the workers
come from the backend (`pympipool.backends`).
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle

from pympipool import backends
from pympipool.engine import Engine
from pympipool.mapping import map_calls
from pympipool.pool.block import BlockPool

if TYPE_CHECKING:
    from pympipool._dispatch import Dispatcher
    from pympipool._future import Future

T = TypeVar("T")


class Executor(futures.Executor):
    """Runs Python functions, serial or MPI-parallel, on workers of this machine.

    Args:
        max_workers: number of workers. Default: as many as fit the cores this process may use.
        max_cores: total number of cores; the number of workers times cores_per_worker.
        cores_per_worker: MPI ranks of each worker. With 2 or more, a call's result is the list of
            what its ranks returned, in rank order.
        cwd: working directory of the workers. Default: the master's.
        backend: "auto" or "mpi": workers on this machine.
        block_allocation: workers start once and serve many calls.
        init_function: called once in each worker (on every rank) before its first call; returns a
            dict, whose items fill the parameters of calls that are not given.
        disable_dependencies: do not look for futures among the arguments of calls.

    Raises:
        ValueError, TypeError: a parameter is wrong; says which, its value, and what is allowed.
        pympipool.errors.WorkerStartError: what the workers need is not installed.

    Examples:
        >>> with Executor(max_workers=1, block_allocation=True) as exe:
        ...     exe.submit(pow, 2, 5).result()
        32
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_cores: int | None = None,
        cores_per_worker: int = 1,
        cwd: str | None = None,
        backend: str = "auto",
        block_allocation: bool = False,
        init_function: Callable[[], dict[str, Any]] | None = None,
        disable_dependencies: bool = False,
    ) -> None:
        workers = _count_workers(max_workers, max_cores, cores_per_worker)
        spawner = backends.make_spawner(backend, cores_per_worker)
        settings = {
            "cwd": cwd,
            "main_path": sys.argv[0] if sys.argv else "",
            "init_function": None if init_function is None else cloudpickle.dumps(init_function),
            "one_call": False,
        }

        def make_pool(dispatcher: Dispatcher) -> BlockPool:
            return BlockPool(
                dispatcher,
                spawner,
                max_workers=workers,
                ranks=cores_per_worker,
                settings=settings,
                cwd=cwd,
                environment={},
            )

        self._max_workers = workers
        self._cores_per_worker = cores_per_worker
        self._engine = Engine(make_pool, resolve_dependencies=not disable_dependencies)
        self._forgotten = weakref.finalize(self, self._engine.close, wait=False)
        self._forgotten.atexit = False  # then the engine is closed too, but waited for

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # type: ignore[override]
        """Queues fn(*args, **kwargs) and returns the future of its result.

        Futures among the arguments are replaced by their results before the call runs.

        Raises:
            RuntimeError: after `shutdown`.
            TypeError: fn cannot be called.
        """
        return self._engine.submit(fn, args, kwargs)

    def map(  # type: ignore[override]
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Like map(fn, *iterables), but the calls run on the workers.

        All calls are submitted now; the iterator waits for their results, in order.

        Args:
            timeout: seconds from now until the last result must be there.
            chunksize: calls that travel together.

        Raises:
            ValueError, TypeError: chunksize is no positive integer.
            concurrent.futures.TimeoutError: while iterating, when the time is over.
            Exception: while iterating, what a call raised; the calls after it are cancelled.
        """
        return map_calls(self.submit, fn, iterables, timeout=timeout, chunksize=chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers when those that are there have ended.

        Args:
            wait: return only when the workers are gone.
            cancel_futures: cancel the calls that no worker has begun.
        """
        self._engine.close(wait=wait, cancel=cancel_futures)

    @property
    def info(self) -> dict[str, Any]:
        """What this executor was made with, and its workers."""
        return {
            "backend": "mpi",
            "max_workers": self._max_workers,
            "max_cores": self._max_workers * self._cores_per_worker,
            "cores_per_worker": self._cores_per_worker,
            "block_allocation": True,
            "workers": self._engine.pool.hosts(),
        }

    def __len__(self) -> int:
        """Number of calls that no worker has been given yet."""
        return self._engine.waiting_count()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Executor max_workers={self._max_workers} cores_per_worker={self._cores_per_worker}>"


def _count_workers(max_workers: int | None, max_cores: int | None, cores_per_worker: int) -> int:
    """The number of workers that the parameters say together."""
    if cores_per_worker < 1:
        raise ValueError(f"cores_per_worker must be greater than 0, not {cores_per_worker}")
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")  # the standard library's words
    if max_cores is not None and max_cores <= 0:
        raise ValueError("max_cores must be greater than 0")
    if max_workers is not None and max_cores is not None and max_workers * cores_per_worker != max_cores:
        raise ValueError(
            f"max_workers={max_workers} with cores_per_worker={cores_per_worker} contradicts max_cores={max_cores}"
        )
    if max_workers is not None:
        return max_workers
    cores = len(os.sched_getaffinity(0)) if max_cores is None else max_cores
    if max_cores is not None and max_cores < cores_per_worker:
        raise ValueError(f"cores_per_worker={cores_per_worker} is more than max_cores={max_cores}")
    return max(cores // cores_per_worker, 1)

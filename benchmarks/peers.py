"""Ours and its peers behind one small interface.

    peer.missing(request)                   why it cannot be measured here; None when it can
    with peer.opened(request) as pool:      workers are there and have answered
        pool.submit(noop, 1).result()
        list(pool.map(noop, items, chunksize=1000))

Whatever an adapter does for a call is measured too, so an executor's own methods are used as they are where
they have this shape.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from benchmarks.calls import noop, who
from pympipool import __version__

READY_WITHIN_S = 60.0
"""How long the workers of a peer may take until each of them has answered."""


class Handle(Protocol):
    def result(self) -> Any: ...


class Pool(Protocol):
    @property
    def submit(self) -> Callable[..., Handle]: ...

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]: ...
    def shutdown(self) -> None: ...


class Ability(Flag):
    """What not every executor can."""

    NOTHING = 0
    MPI = auto()  # functions of several ranks
    FUTURES_AS_ARGUMENTS = auto()
    ONE_PROCESS_PER_CALL = auto()
    MANY_WORKERS = auto()  # 64 workers on a few cores, within seconds


INABILITIES = {
    Ability.MPI: "no functions of several ranks",
    Ability.FUTURES_AS_ARGUMENTS: "no futures as arguments",
    Ability.ONE_PROCESS_PER_CALL: "no process of its own for each call",
    Ability.MANY_WORKERS: "64 workers take too long to start",
}


@dataclass(frozen=True)
class Request:
    """The workers that a case needs."""

    workers: int = 1
    ranks: int = 1  # of each worker
    block: bool = True  # workers serve many calls; else each serves one
    needs: Ability = Ability.NOTHING


@dataclass(frozen=True)
class Peer:
    """An executor to be measured.

    Args:
        name: what it is called in tables.
        package: the distribution that it comes from; "" for the standard library.
        make: makes it. The peer is missing when this raises ImportError.
        abilities: what it can.
        heavy: takes a second or more to start, and so gets fewer rounds.
    """

    name: str
    package: str
    make: Callable[[Request], Pool]
    abilities: Ability = Ability.NOTHING
    heavy: bool = False

    @property
    def version(self) -> str | None:
        """What is installed; None when nothing is."""
        if not self.package:
            return "standard library"
        if self is OURS:
            return __version__  # also where it is used as it lies here, without an installation
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def missing(self, request: Request) -> str | None:
        """Why this peer cannot be measured with this request, and the remedy; None when it can."""
        lacks = request.needs & ~self.abilities
        if lacks:
            return ", ".join(reason for ability, reason in INABILITIES.items() if ability in lacks)
        if self.version is None:
            return f"not installed: pip install {self.package}"
        return None

    @contextmanager
    def opened(self, request: Request) -> Iterator[Pool]:
        """The executor while it is open, all its workers awake."""
        pool = self.make(request)
        try:
            wait_until_ready(pool, request)
            yield pool
        finally:
            pool.shutdown()


def wait_until_ready(pool: Pool, request: Request) -> None:
    """Waits until each worker has answered."""
    pool.submit(noop, 0).result()
    if not request.block or request.workers == 1:
        return
    workers: set[Any] = set()
    deadline_s = time.monotonic() + READY_WITHIN_S
    while len(workers) < request.workers and time.monotonic() < deadline_s:
        answers = [pool.submit(who, 0.005) for _ in range(2 * request.workers)]
        workers.update(str(answer.result()) for answer in answers)


# ---- adapters ----


class StandardPool:
    """An executor with the interface of concurrent.futures, as it is."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.submit = executor.submit

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        return self.executor.map(fn, items) if chunksize is None else self.executor.map(fn, items, chunksize=chunksize)

    def shutdown(self) -> None:
        self.executor.shutdown()


class AppliedCall:
    """What apply_async returns, with the name that its method has elsewhere."""

    __slots__ = ("result",)

    def __init__(self, applied: Any) -> None:
        self.result = applied.get


class MultiprocessingPool:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        return AppliedCall(self.pool.apply_async(fn, args))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        result: list[Any] = self.pool.map(fn, items, chunksize)
        return result

    def shutdown(self) -> None:
        self.pool.close()
        self.pool.join()


class DaskPool:
    def __init__(self, workers: int) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        self.client = Client(self.cluster)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        handle: Handle = self.client.submit(fn, *args, pure=False)  # else equal calls would run once
        return handle

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        result: list[Any] = self.client.gather(self.client.map(fn, items, pure=False, batch_size=chunksize))
        return result

    def shutdown(self) -> None:
        self.client.close()
        self.cluster.close()


class RayCall:
    __slots__ = ("reference",)

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def result(self) -> Any:
        import ray

        return ray.get(self.reference)


class RayPool:
    def __init__(self, workers: int) -> None:
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        self.remote: dict[Callable[..., Any], Any] = {}

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        import ray

        if fn not in self.remote:
            self.remote[fn] = ray.remote(fn)
        return RayCall(self.remote[fn].remote(*(arg.reference if type(arg) is RayCall else arg for arg in args)))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        return [call.result() for call in [self.submit(fn, item) for item in items]]

    def shutdown(self) -> None:
        import ray

        ray.shutdown()


class ParslPool:
    def __init__(self, workers: int) -> None:
        import parsl
        from parsl.executors import HighThroughputExecutor

        self.folder = tempfile.TemporaryDirectory(prefix="pympipool-bench-")
        executor = HighThroughputExecutor(max_workers_per_node=workers, address="127.0.0.1")
        self.kernel = parsl.load(parsl.Config(executors=[executor], run_dir=self.folder.name))
        self.apps: dict[Callable[..., Any], Any] = {}

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        import parsl

        if fn not in self.apps:
            self.apps[fn] = parsl.python_app(fn, data_flow_kernel=self.kernel)
        handle: Handle = self.apps[fn](*args)
        return handle

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        return [call.result() for call in [self.submit(fn, item) for item in items]]

    def shutdown(self) -> None:
        import parsl

        self.kernel.cleanup()
        parsl.clear()
        self.folder.cleanup()


# ---- who there is ----


def make_ours(request: Request) -> StandardPool:
    from pympipool import Executor as PympipoolExecutor

    return StandardPool(
        PympipoolExecutor(max_workers=request.workers, cores_per_worker=request.ranks, block_allocation=request.block)
    )


def make_multiprocessing_pool(request: Request) -> MultiprocessingPool:
    return MultiprocessingPool(multiprocessing.Pool(request.workers, maxtasksperchild=None if request.block else 1))


def make_process_pool(request: Request) -> StandardPool:
    return StandardPool(ProcessPoolExecutor(request.workers))


def make_loky(request: Request) -> StandardPool:
    from loky import ProcessPoolExecutor as LokyExecutor

    return StandardPool(LokyExecutor(request.workers))


def make_mpi4py(request: Request) -> StandardPool:
    from mpi4py.futures import MPIPoolExecutor

    return StandardPool(MPIPoolExecutor(request.workers))


def make_executorlib(request: Request, *, disable_dependencies: bool = False) -> StandardPool:
    from executorlib import SingleNodeExecutor

    executor: Executor = SingleNodeExecutor(
        max_cores=request.workers * request.ranks,
        resource_dict={"cores": request.ranks},
        block_allocation=request.block,
        disable_dependencies=disable_dependencies,
        hostname_localhost=True,
    )
    return StandardPool(executor)


def make_executorlib_without_dependencies(request: Request) -> StandardPool:
    return make_executorlib(request, disable_dependencies=True)


OURS = Peer(
    "pympipool",
    "pympipool",
    make_ours,
    Ability.MPI | Ability.FUTURES_AS_ARGUMENTS | Ability.ONE_PROCESS_PER_CALL | Ability.MANY_WORKERS,
)

PEERS = (
    OURS,
    Peer(
        "multiprocessing.Pool",
        "",
        make_multiprocessing_pool,
        Ability.ONE_PROCESS_PER_CALL | Ability.MANY_WORKERS,
    ),
    Peer("ProcessPoolExecutor", "", make_process_pool, Ability.MANY_WORKERS),
    Peer("loky", "loky", make_loky, Ability.MANY_WORKERS),
    Peer("mpi4py.futures", "mpi4py", make_mpi4py, heavy=True),
    Peer(
        "executorlib",
        "executorlib",
        make_executorlib,
        Ability.MPI | Ability.FUTURES_AS_ARGUMENTS | Ability.ONE_PROCESS_PER_CALL,
    ),
    Peer(
        "executorlib, dependencies off",
        "executorlib",
        make_executorlib_without_dependencies,
        Ability.MPI | Ability.ONE_PROCESS_PER_CALL,
    ),
    Peer("dask", "distributed", lambda request: DaskPool(request.workers), Ability.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer("ray", "ray", lambda request: RayPool(request.workers), Ability.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer("parsl", "parsl", lambda request: ParslPool(request.workers), Ability.FUTURES_AS_ARGUMENTS, heavy=True),
)
"""In the order of the tables."""


def find_peer(name: str) -> Peer:
    """The peer of this name.

    Raises:
        ValueError: there is none.
    """
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise ValueError(f"there is no peer {name!r}; it can be one of {', '.join(peer.name for peer in PEERS)}")

"""Pympipool and its peers behind one small interface.

    peer.unavailable_reason(request)        why the peer cannot be measured here, or None
    with peer.opened(request) as pool:      all workers have started and answered
        pool.submit(noop, 1).result()
        list(pool.map(noop, items, chunksize=1000))

The measured times include the work of an adapter. So an adapter uses the executor's own methods unchanged if they have
this signature.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from benchmarks.calls import noop, sleep_and_thread
from pympipool import __version__

READY_TIMEOUT_S = 60.0
"""Seconds after which a peer is measured even if not all its workers have answered."""


PAYLOADS_SECTION = "Real payloads"
"""Title of the section in which threads are measured too: they send nothing, so they show what sending costs."""


class Handle(Protocol):
    def result(self) -> Any: ...


class Pool(Protocol):
    @property
    def submit(self) -> Callable[..., Handle]: ...

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]: ...
    def shutdown(self) -> None: ...


class Feature(Flag):
    """Features that some executors lack."""

    NOTHING = 0
    MPI = auto()  # functions that run on several ranks
    FUTURES_AS_ARGUMENTS = auto()
    ONE_PROCESS_PER_CALL = auto()
    MANY_WORKERS = auto()  # 64 workers on a few cores, within seconds
    EXECUTOR = auto()  # a concurrent.futures.Executor, as asyncio and dask take it
    JOBLIB = auto()  # a backend of joblib


MISSING_FEATURES = {
    Feature.MPI: "no functions of several ranks",
    Feature.FUTURES_AS_ARGUMENTS: "no futures as arguments",
    Feature.ONE_PROCESS_PER_CALL: "no process of its own for each call",
    Feature.MANY_WORKERS: "64 workers take too long to start",
    Feature.EXECUTOR: "no concurrent.futures.Executor",
    Feature.JOBLIB: "no backend of joblib",
}

JOBLIB_BACKENDS = {
    "pympipool": "pympipool",
    "multiprocessing.Pool": "multiprocessing",
    "loky": "loky",
    "ThreadPoolExecutor": "threading",
}
"""The backend of joblib that uses a peer, by the name of the peer."""


@dataclass(frozen=True)
class Request:
    """The workers that a case needs."""

    workers: int = 1
    ranks: int = 1  # of each worker
    block: bool = True  # a worker serves many calls; if False, one call
    needs: Feature = Feature.NOTHING


@dataclass(frozen=True)
class Peer:
    """An executor to be measured.

    Args:
        name: its name in tables.
        package: the distribution that provides it; "" for the standard library.
        make: creates the executor.
        features: the features that it has.
        heavy: True if it takes a second or more to start; it then gets fewer rounds.
        only_section: the only section of cases in which it is measured; "" if it is measured in all.
    """

    name: str
    package: str
    make: Callable[[Request], Pool]
    features: Feature = Feature.NOTHING
    heavy: bool = False
    only_section: str = ""

    @property
    def version(self) -> str | None:
        """The installed version; None if the package is not installed."""
        if not self.package:
            return "standard library"
        if self is OURS:
            return __version__  # also if the repository is used without an installation
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def unavailable_reason(self, request: Request) -> str | None:
        """Return why this peer cannot be measured with this request, with the remedy, or None if it can."""
        missing = request.needs & ~self.features
        if missing:
            return ", ".join(reason for feature, reason in MISSING_FEATURES.items() if feature in missing)
        if self.version is None:
            return f"not installed: pip install {self.package}"
        return None

    @contextmanager
    def opened(self, request: Request) -> Iterator[Pool]:
        """Open the executor, wait until its workers have started, and close it at the end of the context."""
        pool = self.make(request)
        try:
            wait_until_ready(pool, request)
            yield pool
        finally:
            pool.shutdown()


def wait_until_ready(pool: Pool, request: Request) -> None:
    """Wait until each worker has answered."""
    pool.submit(noop, 0).result()
    if not request.block or request.workers == 1:
        return
    workers: set[Any] = set()
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while len(workers) < request.workers and time.monotonic() < deadline_s:
        answers = [pool.submit(sleep_and_thread, 0.005) for _ in range(2 * request.workers)]
        workers.update(str(answer.result()) for answer in answers)


# ---- adapters ----


class StandardPool:
    """An executor with the interface of concurrent.futures."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.submit = executor.submit

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        return self.executor.map(fn, items) if chunksize is None else self.executor.map(fn, items, chunksize=chunksize)

    def shutdown(self) -> None:
        self.executor.shutdown()


class AsyncResultHandle:
    """A result of apply_async, whose method get is called result as in the other executors."""

    __slots__ = ("result",)

    def __init__(self, applied: Any) -> None:
        self.result = applied.get


class MultiprocessingPool:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        return AsyncResultHandle(self.pool.apply_async(fn, args))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        result: list[Any] = self.pool.map(fn, items, chunksize)
        return result

    def shutdown(self) -> None:
        self.pool.close()
        self.pool.join()


class MpirePool:
    def __init__(self, workers: int) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(workers, keep_alive=True)
        # In mpire 2.10, the first map after an apply passes wrong arguments.
        self.pool_for_apply = WorkerPool(workers, keep_alive=True)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        return AsyncResultHandle(self.pool_for_apply.apply_async(fn, args))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        # A tuple for each item: mpire passes the contents of tuples and dicts as separate arguments.
        result: list[Any] = self.pool.map(fn, [(item,) for item in items], chunk_size=chunksize)
        return result

    def shutdown(self) -> None:
        for pool in (self.pool, self.pool_for_apply):
            pool.stop_and_join()
            pool.terminate()


class DaskPool:
    def __init__(self, workers: int) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        self.client = Client(self.cluster)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        handle: Handle = self.client.submit(fn, *args, pure=False)  # with pure=True, equal calls would run once
        return handle

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        result: list[Any] = self.client.gather(self.client.map(fn, items, pure=False, batch_size=chunksize))
        return result

    def shutdown(self) -> None:
        self.client.close()
        self.cluster.close()


class RayHandle:
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
        return RayHandle(self.remote[fn].remote(*(arg.reference if type(arg) is RayHandle else arg for arg in args)))

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


# ---- the peers ----


def make_ours(request: Request) -> StandardPool:
    from pympipool import Executor as PympipoolExecutor

    return StandardPool(
        PympipoolExecutor(
            max_cores=request.workers * request.ranks, cores_per_worker=request.ranks, block_allocation=request.block
        )
    )


def make_multiprocessing_pool(request: Request) -> MultiprocessingPool:
    return MultiprocessingPool(multiprocessing.Pool(request.workers, maxtasksperchild=None if request.block else 1))


def make_process_pool(request: Request) -> StandardPool:
    return StandardPool(ProcessPoolExecutor(request.workers))


def make_thread_pool(request: Request) -> StandardPool:
    return StandardPool(ThreadPoolExecutor(request.workers))


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
    Feature.MPI
    | Feature.FUTURES_AS_ARGUMENTS
    | Feature.ONE_PROCESS_PER_CALL
    | Feature.MANY_WORKERS
    | Feature.EXECUTOR
    | Feature.JOBLIB,
)

PEERS = (
    OURS,
    Peer(
        "multiprocessing.Pool",
        "",
        make_multiprocessing_pool,
        Feature.ONE_PROCESS_PER_CALL | Feature.MANY_WORKERS | Feature.JOBLIB,
    ),
    Peer("ProcessPoolExecutor", "", make_process_pool, Feature.MANY_WORKERS | Feature.EXECUTOR),
    Peer("loky", "loky", make_loky, Feature.MANY_WORKERS | Feature.EXECUTOR | Feature.JOBLIB),
    Peer("mpire", "mpire", lambda request: MpirePool(request.workers), Feature.MANY_WORKERS),
    Peer("mpi4py.futures", "mpi4py", make_mpi4py, heavy=True),
    Peer(
        "executorlib",
        "executorlib",
        make_executorlib,
        Feature.MPI | Feature.FUTURES_AS_ARGUMENTS | Feature.ONE_PROCESS_PER_CALL | Feature.EXECUTOR,
    ),
    Peer(
        "executorlib, dependencies off",
        "executorlib",
        make_executorlib_without_dependencies,
        Feature.MPI | Feature.ONE_PROCESS_PER_CALL,
    ),
    Peer("dask", "distributed", lambda request: DaskPool(request.workers), Feature.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer("ray", "ray", lambda request: RayPool(request.workers), Feature.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer("parsl", "parsl", lambda request: ParslPool(request.workers), Feature.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer(
        "ThreadPoolExecutor",
        "",
        make_thread_pool,
        Feature.EXECUTOR | Feature.JOBLIB,
        only_section=PAYLOADS_SECTION,
    ),
)
"""All peers, in the order of the tables."""


def find_peer(name: str) -> Peer:
    """Return the peer of this name.

    Raises:
        ValueError: there is no such peer.
    """
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise ValueError(f"there is no peer {name!r}; it can be one of {', '.join(peer.name for peer in PEERS)}")

"""Pympipool and its peers behind one small interface.

peer.unavailable_reason(request)        why the peer cannot be measured here, or None
with peer.opened(request) as pool:      all workers have started and answered
    pool.submit(noop, 1).result()
    list(pool.map(noop, items, chunksize=1000))
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.calls import noop, sleep_and_thread
from benchmarks.pools import (
    DaskPool,
    JoblibPool,
    MpirePool,
    MultiprocessingPool,
    ParslPool,
    Pool,
    RayPool,
    StandardPool,
)
from pympipool import __version__

READY_TIMEOUT_S = 60.0
"""Seconds after which a peer is measured even if not all its workers have answered."""


PAYLOADS_SECTION = "Real payloads"
"""Title of the section in which threads are measured too: they send nothing, so they show what sending costs."""

SHARED_SECTION = "Shared data"
"""Title of the section in which joblib itself is a peer."""


class Feature(Flag):
    """Features that some executors lack."""

    NOTHING = 0
    MPI = auto()  # functions that run on several ranks
    FUTURES_AS_ARGUMENTS = auto()
    ONE_PROCESS_PER_CALL = auto()
    MANY_WORKERS = auto()  # 64 workers on a few cores, within seconds
    EXECUTOR = auto()  # a concurrent.futures.Executor, as asyncio and dask take it
    JOBLIB = auto()  # a backend of joblib
    SHARED_DATA = auto()  # data that its calls read, sent once (see `shared_data`)
    SHARED_ARRAYS = auto()  # arrays that its calls write in place


MISSING_FEATURES = {
    Feature.MPI: "no functions of several ranks",
    Feature.FUTURES_AS_ARGUMENTS: "no futures as arguments",
    Feature.ONE_PROCESS_PER_CALL: "no process of its own for each call",
    Feature.MANY_WORKERS: "64 workers take too long to start",
    Feature.EXECUTOR: "no concurrent.futures.Executor",
    Feature.JOBLIB: "no backend of joblib",
    Feature.SHARED_DATA: "no data that calls share",
    Feature.SHARED_ARRAYS: "no arrays of its own that calls write in place",
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
        launcher: the command under which its process runs.
        only_section: the only section of cases in which it is measured; "" if it is measured in all.
    """

    name: str
    package: str
    make: Callable[[Request], Pool]
    features: Feature = Feature.NOTHING
    heavy: bool = False
    launcher: tuple[str, ...] = ()
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


DRAGON_LAUNCHER = ("sh", "-c", 'dragon --single-node-override "$@"; exit $?', "sh")
"""Its launcher waits for ever if it is the leader of a session, so the shell is that."""


def make_dragon(request: Request) -> MultiprocessingPool:
    """Make a pool whose processes talk over channels in shared memory. DragonHPC puts it in the place of the standard one."""
    import dragon  # noqa: F401  it registers the start method

    multiprocessing.set_start_method("dragon", force=True)
    return MultiprocessingPool(multiprocessing.Pool(request.workers))


def make_executorlib(request: Request, **options: Any) -> StandardPool:
    from executorlib import SingleNodeExecutor

    executor: Executor = SingleNodeExecutor(
        max_cores=request.workers * request.ranks,
        resource_dict={"cores": request.ranks},
        block_allocation=request.block,
        hostname_localhost=True,
        **options,
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
    | Feature.JOBLIB
    | Feature.SHARED_DATA
    | Feature.SHARED_ARRAYS,
)

PEERS = (
    OURS,
    Peer(
        "multiprocessing.Pool",
        "",
        make_multiprocessing_pool,
        Feature.ONE_PROCESS_PER_CALL | Feature.MANY_WORKERS | Feature.JOBLIB | Feature.SHARED_DATA,
    ),
    Peer("ProcessPoolExecutor", "", make_process_pool, Feature.MANY_WORKERS | Feature.EXECUTOR | Feature.SHARED_DATA),
    Peer(
        "loky",
        "loky",
        make_loky,
        Feature.MANY_WORKERS | Feature.EXECUTOR | Feature.JOBLIB | Feature.SHARED_DATA,
    ),
    Peer("mpire", "mpire", lambda request: MpirePool(request.workers), Feature.MANY_WORKERS | Feature.SHARED_DATA),
    Peer("mpi4py.futures", "mpi4py", make_mpi4py, Feature.SHARED_DATA, heavy=True),
    Peer(
        "executorlib",
        "executorlib",
        make_executorlib,
        Feature.MPI
        | Feature.FUTURES_AS_ARGUMENTS
        | Feature.ONE_PROCESS_PER_CALL
        | Feature.EXECUTOR
        | Feature.SHARED_DATA,
    ),
    Peer(
        "executorlib, dependencies off",
        "executorlib",
        make_executorlib_without_dependencies,
        Feature.MPI | Feature.ONE_PROCESS_PER_CALL | Feature.SHARED_DATA,
    ),
    Peer("dragonhpc", "dragonhpc", make_dragon, heavy=True, launcher=DRAGON_LAUNCHER),
    Peer(
        "dask",
        "distributed",
        lambda request: DaskPool(request.workers),
        Feature.FUTURES_AS_ARGUMENTS | Feature.SHARED_DATA,
        heavy=True,
    ),
    Peer(
        "ray",
        "ray",
        lambda request: RayPool(request.workers),
        Feature.FUTURES_AS_ARGUMENTS | Feature.SHARED_DATA,
        heavy=True,
    ),
    Peer("parsl", "parsl", lambda request: ParslPool(request.workers), Feature.FUTURES_AS_ARGUMENTS, heavy=True),
    Peer(
        "ThreadPoolExecutor",
        "",
        make_thread_pool,
        Feature.EXECUTOR | Feature.JOBLIB,
        only_section=PAYLOADS_SECTION,
    ),
    Peer(
        "joblib",
        "joblib",
        lambda request: JoblibPool(request.workers),
        Feature.SHARED_DATA,
        only_section=SHARED_SECTION,
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

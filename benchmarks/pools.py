"""The adapters: one small interface for the executors of all peers.

The measured times include the work of an adapter. So an adapter uses the executor's own methods unchanged if they have
this signature.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol


class Handle(Protocol):
    def result(self) -> Any: ...


class Pool(Protocol):
    @property
    def submit(self) -> Callable[..., Handle]: ...

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]: ...
    def shutdown(self) -> None: ...


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


class JoblibPool:
    """A `joblib.Parallel` that keeps its workers. It has no single calls: `submit` runs a loop of one."""

    def __init__(self, workers: int) -> None:
        from joblib import Parallel

        self.parallel = Parallel(workers)
        self.parallel.__enter__()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        from joblib import delayed

        done: Future[Any] = Future()
        done.set_result(*self.parallel([delayed(fn)(*args)]))
        return done

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Iterable[Any]:
        from joblib import delayed

        result: list[Any] = self.parallel(delayed(fn)(item) for item in items)
        return result

    def shutdown(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown()


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

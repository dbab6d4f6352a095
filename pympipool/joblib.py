"""A backend of joblib that runs its parallel loops, and so those of scikit-learn, on an executor.

    joblib.Parallel(...)(delayed(f)(x) for x in ...)
      -> joblib packs calls of less than 0.2 s into batches ──> ExecutorBackend.submit ──> Executor.submit
      <- retrieve_result_callback <──────────────────────────── when the future is done

Importing this module registers the backend "pympipool".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pympipool.executor import Executor
from pympipool.resources import available_cores

try:
    import joblib
    from joblib.parallel import AutoBatchingMixin, ParallelBackendBase
except ImportError as error:
    raise ImportError(f'pympipool.joblib needs joblib ({error}): pip install "pympipool[joblib]"') from error

__all__ = ["ExecutorBackend"]


class ExecutorBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """The joblib backend "pympipool": it runs the calls of `joblib.Parallel` on an executor.

    A loop with n_jobs=1 runs in the script's own process, as usual in joblib.

    Args:
        executor: An `Executor` whose calls return one value (cores_per_worker=1). It stays open. Default: a new
            executor with block allocation for the duration of the loop, with n_jobs workers.
        options: Options of joblib: nesting_level, inner_max_num_threads.

    Raises:
        ValueError: The calls of the executor run on several cores, so each would return a list.

    Examples:
        >>> import joblib
        >>> from pympipool import Executor
        >>> with Executor(max_workers=2, block_allocation=True) as exe:
        ...     with joblib.parallel_config("pympipool", executor=exe):
        ...         joblib.Parallel()(joblib.delayed(abs)(x) for x in [-1, 2, -3])
        [1, 2, 3]
    """

    default_n_jobs = -1
    supports_retrieve_callback = True

    def __init__(self, executor: Executor | None = None, **options: Any) -> None:
        super().__init__(**options)
        if executor is not None and executor.info["cores_per_worker"] > 1:
            raise ValueError(
                f"executor is {executor!r}: each of its calls returns a list, a result of every rank; joblib needs one with"
                " cores_per_worker=1"
            )
        self._user_executor = executor
        self._executor = executor
        self._running: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return the number of calls that run at the same time. -1 means all workers, -2 all but one, and so on.

        Raises:
            ValueError: n_jobs is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs is 0; it must be a number of workers, or -1 for all")
        most = available_cores() if self._user_executor is None else self._user_executor.max_workers
        if n_jobs < 0:
            return max(1, most + 1 + n_jobs)
        return n_jobs if self._user_executor is None else min(n_jobs, most)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Prepare for the calls of one or several loops."""
        workers = int(super().configure(n_jobs, parallel, **options))
        if self._executor is None and workers > 1:
            self._executor = Executor(max_workers=workers, block_allocation=True)
        return workers

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Submit a batch of calls."""
        assert self._executor is not None  # joblib has called `configure` before
        future = self._executor.submit(func)
        self._running.add(future)
        future.add_done_callback(functools.partial(self._on_done, callback))
        return future

    def _on_done(self, callback: Callable[[Future[Any]], None] | None, future: Future[Any]) -> None:
        self._running.discard(future)
        if callback is not None and not future.cancelled():
            callback(future)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise its exception."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the calls that have not started: a call has raised, or the results are no longer needed."""
        for future in list(self._running):
            future.cancel()

    def terminate(self) -> None:
        """Close the executor, unless it belongs to the user."""
        if self._user_executor is None and self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


joblib.register_parallel_backend("pympipool", ExecutorBackend)

"""Parallel loops of joblib, and with them those of scikit-learn, on an executor.

    joblib.Parallel(...)(delayed(f)(x) for x in ...)
      -> joblib packs calls of less than 0.2 s together ──> ExecutorBackend.submit ──> Executor.submit
      <- retrieve_result_callback <──────────────────────── when the future has ended

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
    """Has the calls of `joblib.Parallel` run by an executor; what joblib knows as backend "pympipool".

    A loop with n_jobs=1 runs in the script's own process, as joblib has it.

    Args:
        executor: An `Executor` whose calls return one value (cores_per_worker=1); it stays open. Default: one with
            block allocation, for the time of the loop, whose number of workers is joblib's n_jobs.
        options: joblib's own: nesting_level, inner_max_num_threads.

    Raises:
        ValueError: A call of the executor would run on several cores, and so return a list.

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
        self._given = executor
        self._executor = executor
        self._running: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many calls run at a time; -1 is all, -2 all but one, ...

        Raises:
            ValueError: n_jobs is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs is 0; it must be a number of workers, or -1 for all")
        most = available_cores() if self._given is None else self._given.max_workers
        if n_jobs < 0:
            return max(1, most + 1 + n_jobs)
        return n_jobs if self._given is None else min(n_jobs, most)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Gets ready for the calls of a loop, or of several."""
        workers = int(super().configure(n_jobs, parallel, **options))
        if self._executor is None and workers > 1:
            self._executor = Executor(max_workers=workers, block_allocation=True)
        return workers

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Has a batch of calls run."""
        assert self._executor is not None  # joblib has called `configure`
        future = self._executor.submit(func)
        self._running.add(future)
        future.add_done_callback(functools.partial(self._ended, callback))
        return future

    def _ended(self, callback: Callable[[Future[Any]], None] | None, future: Future[Any]) -> None:
        self._running.discard(future)
        if callback is not None and not future.cancelled():
            callback(future)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch, or its exception."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Takes back what has not begun: a call has raised, or the results are not wanted any more."""
        for future in list(self._running):
            future.cancel()

    def terminate(self) -> None:
        """Closes the executor, unless it was given."""
        if self._given is None and self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


joblib.register_parallel_backend("pympipool", ExecutorBackend)

"""A backend of joblib that runs its parallel loops, and so those of scikit-learn, on an executor.

    joblib.Parallel(...)(delayed(f)(x) for x in ...)
      -> joblib packs calls of less than 0.2 s into batches ──> ExecutorBackend.submit ──> Executor.submit
      <- retrieve_result_callback <──────────────────────────── when the future is done

    the loop ends           -> terminate: the backend's own executor waits for another loop for IDLE_S, then it is shut down
    the loop is left early  -> abort_everything: the backend's own executor is killed

Importing this module registers the backend "pympipool".
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from pympipool.executor import Executor
from pympipool.pool.start_functions import pickled_initializer
from pympipool.resources import available_cores
from pympipool.worker.initializer import set_environment

try:
    import joblib
    from joblib.parallel import AutoBatchingMixin, ParallelBackendBase
except ImportError as error:
    raise ImportError(f"pympipool.joblib needs joblib ({error}): pip install joblib") from error

__all__ = ["ExecutorBackend"]

IDLE_S = 30.0
"""Seconds for which the workers of a loop that has ended wait for another one: to start, they import joblib, for half a second."""


class _Kept:
    """An executor that is kept for another loop for IDLE_S.

    Args:
        likeness: What the other loop needs must be equal to this.
        executor: The executor.
    """

    def __init__(self, likeness: object, executor: Executor) -> None:
        self.likeness = likeness
        self._executor = [executor]  # taken in one step, by the next loop or by the timer
        self._timer = threading.Timer(IDLE_S, self.end)
        self._timer.daemon = True
        self._timer.start()

    def take(self) -> Executor | None:
        """Return the executor, which is the caller's now; None if another one was faster."""
        self._timer.cancel()
        with suppress(IndexError):
            return self._executor.pop()
        return None

    def end(self) -> None:
        """Shut the executor down, if no loop has taken it."""
        executor = self.take()
        if executor is not None:
            executor.shutdown(wait=False)


class _IdleExecutor:
    """The executor of the last loop that has ended, for the next loop that needs one like it."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def keep(self, likeness: object, executor: Executor) -> None:
        """Keep an executor for IDLE_S. The one that was kept before is shut down."""
        before, self._kept = self._kept, _Kept(likeness, executor)
        if before is not None:
            before.end()

    def take(self, likeness: object) -> Executor | None:
        """Return the executor that is kept, if it is like this; else None."""
        kept = self._kept
        return kept.take() if kept is not None and kept.likeness == likeness else None

    def end(self) -> None:
        """Shut the executor down that is kept."""
        if self._kept is not None:
            self._kept.end()


_idle = _IdleExecutor()


def _surroundings() -> tuple[Any, ...]:
    """Return what workers take over from the script when they start."""
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = ""
    return os.getpid(), folder, tuple(map(str, sys.path)), dict(os.environ)


class ExecutorBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """The joblib backend "pympipool": it runs the calls of `joblib.Parallel` on an executor.

    A loop with n_jobs=1 runs in the script's own process, as usual in joblib. Without n_jobs, all workers are used.

    A loop can be left early: by an exception, by its time limit or by Ctrl-C. Then its waiting calls are cancelled. If the
    executor is the backend's own, running calls are ended too. On the user's executor they run to their end.

    Args:
        executor: An `Executor` whose calls return one value (cores_per_worker=1). It stays open. Default: a new
            executor with block allocation, with n_jobs workers. It is kept for another loop, for 30 s, unless there is an
            initializer or the loop was left early.
        initializer: Called in each worker of the backend's own executor before its first call.
        initargs: Arguments of the initializer.
        nesting_level: Set by joblib.
        inner_max_num_threads: Threads that numerical libraries may use in each worker of the backend's own executor.
            Default: the cores, divided by the number of workers. Variables such as OMP_NUM_THREADS override the default.

    Raises:
        ValueError: The calls of the executor run on several cores, so each would return a list. Or an option for new
            workers was given, but the workers are those of the user's executor.

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
    supports_inner_max_num_threads = True

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._user_executor = executor
        self._executor = executor
        self._initializer = initializer
        self._initargs = initargs
        self._make_executor: Callable[[], Executor] | None = None
        self._likeness: object = None  # of the backend's own executor, if another loop may use it
        self._running: set[Future[Any]] = set()
        self._check_executor(executor, initializer)

    def _check_executor(self, executor: Executor | None, initializer: Callable[..., Any] | None) -> None:
        if executor is None:
            return
        if executor.info["cores_per_worker"] > 1:
            raise ValueError(
                f"executor is {executor!r}: each of its calls returns a list, a result of every rank; joblib needs one with"
                " cores_per_worker=1"
            )
        for name, value, remedy in (
            ("initializer", initializer, "initializer"),
            ("inner_max_num_threads", self.inner_max_num_threads, "threads_per_core"),
        ):
            if value is not None:
                raise ValueError(
                    f"{name} is {value!r}, but the workers of {executor!r} have been started without it: use {remedy} of the"
                    " Executor, or let joblib make one"
                )

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of calls that run at the same time. -1 means all workers, -2 all but one, None the default.

        Raises:
            ValueError: n_jobs is 0, in the words of joblib's own backends.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning: give a number of workers, or -1 for all")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        most = available_cores() if self._user_executor is None else self._user_executor.max_workers
        if n_jobs < 0:
            return max(1, most + 1 + n_jobs)
        return n_jobs if self._user_executor is None else min(n_jobs, most)

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Any,
    ) -> int:
        """Prepare for the calls of one or several loops.

        Args:
            n_jobs: As in `joblib.Parallel`.
            parallel: The `joblib.Parallel` object.
            initializer: As in the constructor, and instead of its initializer; given to `joblib.Parallel`.
            initargs: Arguments of the initializer.
            options: Options of joblib that concern its own backends, such as max_nbytes.

        Raises:
            ValueError: As in the constructor.
        """
        if initializer is None:
            initializer, initargs = self._initializer, self._initargs
        self._check_executor(self._user_executor, initializer)
        workers = int(super().configure(n_jobs, parallel, **options))
        if self._user_executor is None and workers > 1:
            self._make_executor = functools.partial(self._new_executor, workers, initializer, initargs)
            self._executor = self._executor or self._make_executor()
        return workers

    def _new_executor(
        self, workers: int, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]
    ) -> Executor:
        threads = self.inner_max_num_threads
        self._likeness = None if initializer is not None else (workers, threads, *_surroundings())
        executor = None if self._likeness is None else _idle.take(self._likeness)
        if executor is not None:
            return executor
        environment = {} if threads is None else dict.fromkeys(self.MAX_NUM_THREADS_VARS, str(threads))
        if environment:  # set before the initializer is unpickled, which may import a numerical library
            initargs = (environment, pickled_initializer(initializer, initargs))
            initializer = set_environment
        return Executor(
            max_workers=workers,
            threads_per_core=threads or max(1, available_cores() // workers),
            block_allocation=True,
            initializer=initializer,
            initargs=initargs,
        )

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Submit a batch of calls."""
        if self._executor is None:  # another loop on this backend has ended, or was left early
            assert self._make_executor is not None  # joblib has called `configure` before
            self._executor = self._make_executor()
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
        """Cancel the calls that have not started, and end running ones, unless the executor belongs to the user.

        joblib calls this when a call has raised, or when the results are no longer needed.

        Args:
            ensure_ready: More calls will come. They get a new executor.
        """
        if self._user_executor is None and self._executor is not None:
            executor, self._executor = self._executor, None
            executor._engine.kill()
        for future in list(self._running):
            future.cancel()

    def terminate(self) -> None:
        """Keep the executor for another loop, or close it, unless it belongs to the user. Forget the run times of this loop."""
        if self._user_executor is None and self._executor is not None:
            executor, self._executor = self._executor, None
            if self._running or self._likeness is None:
                executor.shutdown(wait=not self._running)  # calls still running belong to another loop on this backend
            else:
                _idle.keep(self._likeness, executor)
        self.reset_batch_stats()


joblib.register_parallel_backend("pympipool", ExecutorBackend)

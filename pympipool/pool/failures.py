"""Why a worker ended or did not get ready: as the error of its call, and for the log."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool.shortages import OutageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pympipool._util.service_threads import ServiceLogger
    from pympipool.pool.worker_handle import WorkerHandle


def worker_died_error(worker: WorkerHandle, future: Future[Any] | None) -> WorkerDied:
    """Return the error of the call that was running on a worker when it died; future=None if none was."""
    return WorkerDied(
        worker=worker.number,
        host=worker.host,
        pid=worker.pid,
        rank=worker.first_failed_rank if worker.request.ranks > 1 else None,
        exit_code=None
        if worker.lost_reason
        else worker.exit_code,  # else a launcher's, which knows nothing of the lost rank
        last_stderr=tuple(worker.stderr_tail),
        lost_reason=worker.lost_reason,
        function=getattr(future, "function_name", None),
    )


def state_lost_error(worker: WorkerHandle) -> BrokenExecutor:
    """Return the error of all calls after the end of a worker that had state and is not replaced."""
    return BrokenExecutor(
        f"worker {worker.number} has ended, and what init_function and earlier calls had left in its memory is lost. This"
        " call did not run, because on_worker_replaced='fail'. Start a new Executor, and rebuild the state there"
    )


def log_exit(logger: ServiceLogger, worker: WorkerHandle, *, expected: bool) -> None:
    """Log the end of a worker, as a warning if it was not expected. The message contains no text of user code."""
    if expected:
        logger.info("worker %d ended", worker.number)
        return
    if worker.exit_reason:
        logger.warning("worker %d ended: %s", worker.number, worker.exit_reason)
        return
    if worker.kill_reason:  # the pool killed it: its exit code explains nothing
        logger.warning(
            "worker %d on %s (pid %s) was ended: %s",
            worker.number,
            worker.host,
            worker.pid,
            redacted_summary(worker.kill_reason),
        )
        return
    without_output = WorkerDied(
        worker=worker.number,
        host=worker.host,
        pid=worker.pid,
        exit_code=worker.exit_code,
        lost_reason=worker.lost_reason,
    )
    logger.warning("%s", without_output)


def redacted_summary(error: BaseException) -> str:
    """Summarize an error without text of user code, which may contain data: our own reason, else only the error's type."""
    return error.reason if isinstance(error, WorkerStartError) else type(error).__name__


def start_error(worker: WorkerHandle) -> BaseException:
    """Return why a worker did not get ready: what it or its helper reported, else how it ended."""
    known = worker.start_error or worker.process.start_failure
    if known is not None:
        return known
    last_stderr = tuple(worker.stderr_tail)
    outage = worker.process.outage(last_stderr)
    error = (WorkerStartError if outage is None else OutageError)(
        f"worker {worker.number} did not get ready" + (f": {worker.lost_reason}" if worker.lost_reason else ""),
        exit_code=None if worker.lost_reason else worker.exit_code,
        last_stderr=last_stderr,
    )
    if isinstance(error, OutageError):
        error.outage = outage or ""
    return error

"""Why a worker has ended, or did not get ready: as the error of its call, and for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerDied, WorkerStartError

if TYPE_CHECKING:
    import logging
    from concurrent.futures import Future

    from pympipool.pool.worker_handle import WorkerHandle


def worker_died_error(worker: WorkerHandle, future: Future[Any] | None) -> WorkerDied:
    """The error of the call that a worker ran when it died; without a call, for the log."""
    return WorkerDied(
        worker=worker.number,
        host=worker.host,
        pid=worker.pid,
        rank=worker.first_failed_rank if worker.order.ranks > 1 else None,
        exit_code=None if worker.lost_reason else worker.exit_code,  # of a launcher that could not know
        last_stderr=tuple(worker.stderr_tail),
        lost=worker.lost_reason,
        function=getattr(future, "function_name", None),
    )


def log_exit(logger: logging.Logger, worker: WorkerHandle, *, expected: bool) -> None:
    """Tells the log of a worker's end, without a word that user code has said: a warning where nobody told it to end."""
    if expected:
        logger.info("worker %d ended", worker.number)
        return
    if worker.exit_reason:
        logger.warning("worker %d ended: %s", worker.number, worker.exit_reason)
        return
    if worker.kill_reason:  # it is no riddle then who has killed it
        logger.warning(
            "worker %d on %s (pid %s) was ended: %s",
            worker.number,
            worker.host,
            worker.pid,
            redacted_summary(worker.kill_reason),
        )
        return
    bare = WorkerDied(worker=worker.number, host=worker.host, pid=worker.pid, exit_code=worker.exit_code)
    logger.warning("%s", bare)


def redacted_summary(error: BaseException) -> str:
    """An error without what user code has said, which may hold data: our own reason, or only of what type it is."""
    return error.reason if isinstance(error, WorkerStartError) else type(error).__name__


def start_error(worker: WorkerHandle) -> BaseException:
    """Why a worker did not get ready: what it said itself, else how it ended."""
    return worker.start_error or WorkerStartError(
        f"worker {worker.number} did not get ready",
        exit_code=worker.exit_code,
        last_stderr=tuple(worker.stderr_tail),
    )

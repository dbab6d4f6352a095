"""Why a worker has ended, or did not get ready: as the error of its call, and for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerDied, WorkerStartError

if TYPE_CHECKING:
    import logging
    from concurrent.futures import Future

    from pympipool.pool.worker_handle import WorkerHandle


def worker_died_error(member: WorkerHandle, future: Future[Any] | None) -> WorkerDied:
    """The error of the call that a worker ran when it died; without a call, for the log."""
    return WorkerDied(
        worker=member.number,
        host=member.host,
        pid=member.pid,
        rank=member.lost_rank if member.order.ranks > 1 else None,
        exit_code=None if member.lost else member.exit_code,  # of a launcher that could not know
        last_stderr=tuple(member.lines),
        lost=member.lost,
        function=getattr(future, "function_name", None),
    )


def log_exit(logger: logging.Logger, member: WorkerHandle, *, expected: bool) -> None:
    """Tells the log of a worker's end, without a word that user code has said: a warning where nobody told it to end."""
    if expected:
        logger.info("worker %d ended", member.number)
        return
    if member.leaving:
        logger.warning("worker %d ended: %s", member.number, member.leaving)
        return
    if member.kill_reason:  # it is no riddle then who has killed it
        logger.warning(
            "worker %d on %s (pid %s) was ended: %s",
            member.number,
            member.host,
            member.pid,
            redacted_summary(member.kill_reason),
        )
        return
    bare = WorkerDied(worker=member.number, host=member.host, pid=member.pid, exit_code=member.exit_code)
    logger.warning("%s", bare)


def redacted_summary(error: BaseException) -> str:
    """An error without what user code has said, which may hold data: our own reason, or only of what type it is."""
    return error.reason if isinstance(error, WorkerStartError) else type(error).__name__


def start_error(member: WorkerHandle) -> BaseException:
    """Why a worker did not get ready: what it said itself, else how it ended."""
    return member.start_error or WorkerStartError(
        f"worker {member.number} did not get ready",
        exit_code=member.exit_code,
        last_stderr=tuple(member.lines),
    )

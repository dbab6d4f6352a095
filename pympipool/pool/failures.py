"""Why a worker ended or did not get ready: as the error of its call, and for the log."""

from __future__ import annotations

import contextlib
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerStartError
from pympipool.pool.reported_error import ReportedError
from pympipool.pool.shortages import OutageError
from pympipool.serialization.exception_forms import copy_exception
from pympipool.serialization.exceptions import add_note, join_exceptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pympipool._util.service_threads import ServiceLogger
    from pympipool.errors import WorkerDied
    from pympipool.pool.reported_error import Failure
    from pympipool.pool.worker_handle import WorkerHandle


def with_note(failure: Failure, note: str) -> Failure:
    """Return a failure with a note added to its exception."""
    if isinstance(failure, ReportedError):
        return ReportedError(join_exceptions([failure.parts], note), failure.function)
    add_note(failure, note)
    return failure


def one_for_each_call(failure: Failure) -> Callable[[], BaseException]:
    """Return a function that returns a new exception for each call that a failure ends."""
    return failure if isinstance(failure, ReportedError) else partial(copy_exception, failure)


def worker_died_error(worker: WorkerHandle, future: Future[Any], note: str | None = None) -> Callable[[], WorkerDied]:
    """Return a function that returns the error of the call that was running on a worker when it died.

    The thread that reads the error calls it. The supervisor must not fail here, not even if the system has no descriptor for
    the import that the error needs.
    """
    facts = {
        "worker": worker.number,
        "host": worker.host,
        "pid": worker.pid,
        "rank": worker.first_failed_rank if worker.request.ranks > 1 else None,
        # with a lost reason it is that of a launcher, which knows nothing of the lost rank
        "exit_code": None if worker.lost_reason else worker.exit_code,
        "last_stderr": tuple(worker.stderr_tail),
        "lost_reason": worker.lost_reason,
        "function": getattr(future, "function_name", None),
        "has_begun": not getattr(future, "is_unbegun", False),
    }
    return partial(_worker_died, facts, note)


def import_for_failures() -> None:
    """Import what this and other service threads need once something has failed.

    In CPython 3.11 an import that Ctrl-C interrupts in the main thread may leave its lock held, and each other thread that
    imports the same module then waits for ever. In a service thread no signal handler runs.
    """
    with contextlib.suppress(Exception):  # no memory, for example: then the import is tried again where it is needed
        from concurrent.futures import process  # noqa: F401
        from multiprocessing import resource_tracker  # noqa: F401

        from pympipool.errors import WorkerDied  # noqa: F401


def _worker_died(facts: dict[str, Any], note: str | None) -> WorkerDied:
    from pympipool.errors import WorkerDied  # takes 15 ms, so scripts do not wait for it; see `import_for_failures`

    error = WorkerDied(**facts)
    if note is not None:
        add_note(error, note)
    return error


def supervisor_crash_error(reason: str) -> BrokenExecutor:
    """Return the error of all calls of an executor whose supervisor has ended."""
    return BrokenExecutor(
        f"the thread that watches the workers of this executor has ended by an unexpected failure ({reason}), and its workers"
        " with it. The log has the traceback. Start a new Executor"
    )


def state_lost_error(number: int) -> BrokenExecutor:
    """Return the error of a call after the end of a worker, with this number, that had state and is not replaced."""
    return BrokenExecutor(
        f"worker {number} has ended, and what init_function and earlier calls had left in its memory is lost. This"
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
    try:
        from pympipool.errors import WorkerDied
    except Exception as problem:  # no descriptor or memory for the import, for example
        logger.warning("worker %d on %s (pid %s) died (%r)", worker.number, worker.host, worker.pid, problem)
        return
    without_output = WorkerDied(
        worker=worker.number,
        host=worker.host,
        pid=worker.pid,
        exit_code=worker.exit_code,
        lost_reason=worker.lost_reason,
    )
    logger.warning("%s", without_output)


def redacted_summary(error: Failure) -> str:
    """Summarize an error without text of user code, which may contain data: our own reason, else only the error's type."""
    if isinstance(error, ReportedError):
        return error.type_name
    return error.reason if isinstance(error, WorkerStartError) else type(error).__name__


def start_error(worker: WorkerHandle) -> Failure:
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
    error.__cause__ = worker.handlers.failure
    return error

"""The program of a rank of a detached call: all ranks run the call, and rank 0 writes the list of what they return.

If a rank raises, it writes its exception itself, and waits for the others for `DIVERGED_S`: they may wait for it in a collective.
Then it ends all of them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from time import monotonic_ns
from typing import Any, NamedTuple

from pympipool._util.devices import assigned_devices
from pympipool.detached.run import ALIVE, CALL_FAILED, Job, begin, end_task, open_job
from pympipool.serialization import payload
from pympipool.serialization.plain import Pickled

DIVERGED_S = 2.0
"""Seconds for which a rank that has raised waits for the others."""


class World(NamedTuple):
    """What the checks of a worker's ranks ask of their configuration."""

    ranks: int
    launcher: str
    connect_timeout_s: float = 60.0


def main() -> None:
    """Run a call on this rank. Arguments: the cache directory, the id of the submission, the number of the task.

    Raises:
        SystemExit: The call has raised, or the submission was taken back.
    """
    from pympipool.worker.mpi import join_world, launched_rank

    directory, submission, task = sys.argv[1:4]
    begin()
    _end_with_runner()
    job = open_job(directory, submission, int(task))
    if job.common["scheduler"] == "local":
        _see_own_devices(job.common["gpus_per_rank"], launched_rank(os.environ) or 0)
    (number,) = job.numbers
    end = job.spool.end(number)
    if end is not None:
        sys.exit(CALL_FAILED if end.is_error else 0)
    job.prepare()
    try:
        world = join_world(World(job.common["ranks"], ""), launched_rank(os.environ) or 0)
        world = world.Dup()
        job.where = f"rank {world.Get_rank()} of {job.where}"
    except BaseException as error:
        job.write_error(number, error)
        os._exit(CALL_FAILED)
    sys.exit(_run(job, number, world))


def _see_own_devices(count: int, rank: int) -> None:
    """Have this rank see only its own devices among those of the task."""
    assigned = assigned_devices(os.environ) if count else None
    if assigned is not None:
        variable, names = assigned
        os.environ[variable] = ",".join(names[rank * count : (rank + 1) * count])


def _run(job: Job, number: int, world: Any) -> int:
    is_root, root_only = world.Get_rank() == 0, job.common["result_of"] == "root"
    begin_ns = monotonic_ns()
    try:
        result, _ = job.run_call(number)
        parts = [bytes(part) for part in payload.dump(result, "the result")] if is_root or not root_only else []
        del result
    except BaseException as error:  # SystemExit too, as in a worker
        job.write_error(number, error)
        timer = threading.Timer(DIVERGED_S, end_task, (CALL_FAILED,))
        timer.daemon = True
        timer.start()
        world.gather(None, 0)
        world.Barrier()  # `gather` does not wait for the root
        timer.cancel()
        return CALL_FAILED
    answers = world.gather(parts, 0)
    world.Barrier()
    if not is_root:
        return 0
    if any(answer is None for answer in answers):
        return CALL_FAILED
    job.write_result(
        number,
        parts if root_only else payload.dump([Pickled(answer) for answer in answers], "the results"),
        monotonic_ns() - begin_ns,
    )
    return 0


def _end_with_runner() -> None:
    """End this rank when the program that has started mpiexec here is killed: mpiexec may leave ranks behind then."""
    path = os.environ.pop(ALIVE, None)
    if path is None:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()

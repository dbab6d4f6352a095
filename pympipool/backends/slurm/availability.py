"""Asks SLURM's controller if SLURM can be used here.

An installed srun is not enough: the controller must answer. Its last answer is cached for `CACHE_S`, as programs make
several executors one after the other.
"""

from __future__ import annotations

import os
import subprocess
from time import monotonic
from typing import NamedTuple

from pympipool._util.subprocesses import run
from pympipool.errors import WorkerStartError

CONTROLLER_TIMEOUT_S = 10.0
"""Seconds that SLURM's controller may take to answer."""

CACHE_S = 5.0
"""Seconds for which an answer of the controller is cached. Executors are often made one after the other, and where the
controller is silent, or munge does not run, each of them would wait for seconds."""

REMEDY = (
    "run the script where `sinfo` works (a login node, or inside salloc or sbatch), or use backend='mpi' for this"
    " machine alone"
)


class _Answer(NamedTuple):
    """The outcome of a probe: its environment, its time (monotonic clock, s), and why SLURM cannot be used."""

    environment: tuple[str | None, ...]
    at_s: float
    problem: str | None


_last_answer: _Answer | None = None


def _environment() -> tuple[str | None, ...]:
    """Return the variables that decide which controller is asked."""
    return tuple(map(os.environ.get, ("PATH", "SLURM_CONF", "SLURM_JOB_ID")))


def _cached_answer() -> _Answer | None:
    """Return the last answer, unless it is too old or from another environment."""
    last = _last_answer
    return last if last and last.environment == _environment() and monotonic() - last.at_s < CACHE_S else None


def recent_unavailable_reason(timeout_s: float = CONTROLLER_TIMEOUT_S) -> str | None:
    """Return the same as `unavailable_reason`, from the cache if it has an answer of the last `CACHE_S`."""
    answer = _cached_answer()
    return answer.problem if answer else unavailable_reason(timeout_s)


def unavailable_reason(timeout_s: float = CONTROLLER_TIMEOUT_S) -> str | None:
    """Return why SLURM cannot be used here, or None if it can. Asks the controller, and caches the answer."""
    global _last_answer
    problem = _probe(timeout_s)
    _last_answer = _Answer(_environment(), monotonic(), problem)
    return problem


def _probe(timeout_s: float) -> str | None:
    from shutil import which  # only here: it brings three libraries for compression

    for program in ("srun", "squeue", "scancel"):
        if which(program) is None:
            return f"there is no program {program!r} in PATH"
    configuration = os.environ.get("SLURM_CONF")
    if configuration is not None and not os.path.exists(configuration):  # SLURM itself would retry for a minute
        return f"SLURM's controller does not answer: SLURM_CONF is {configuration!r}, and there is no such file"
    try:
        answer = run(["squeue", "--noheader", "--me"], timeout=timeout_s)
    except subprocess.TimeoutExpired as late:
        stderr = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr
        details = " ".join((stderr or "squeue says nothing").split())
        return f"SLURM's controller does not answer within {timeout_s:g} s: {details}"
    except OSError as error:
        return f"squeue cannot be started: {error}"
    if answer.returncode != 0:
        return f"SLURM's controller does not answer: {' '.join(answer.stderr.split()) or answer.returncode}"
    return None


def check_slurm() -> None:
    """Raise WorkerStartError if SLURM cannot be used here.

    A cached success is trusted, a cached failure is not: a user who names SLURM wants it to be tried again.

    Raises:
        WorkerStartError: SLURM cannot be used; tells why, and what to do.
    """
    cached = _cached_answer()
    if cached and cached.problem is None:
        return
    problem = unavailable_reason()
    if problem is not None:
        raise WorkerStartError(f"backend 'slurm' cannot be used: {problem}; {REMEDY}")

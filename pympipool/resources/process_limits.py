"""The limits of open files and of processes, which many workers reach.

Each has a soft limit, often a thousand, and a hard limit, up to which a process may raise the soft one itself. An executor raises
what its workers need, and no more: programs exist that close every possible descriptor, or that cannot use high ones.
"""

from __future__ import annotations

import os

from pympipool._util.platform import HAS_LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILES_PER_WORKER = 5
"""File descriptors that an executor holds for each worker.

Measured: 5 for a serial worker, 6 for an MPI worker of two ranks.
"""

FILES_PER_REMOTE_WORKER = 1
"""The same for a worker that an agent forks: none, or one if it is on this host."""

FILES_BESIDE = 64
"""File descriptors for everything else: the interpreter, the executor, and the files of scripts and libraries."""

PROCESSES_PER_RANK = 2
"""What each rank counts for the limit of processes, which counts threads: itself, and its watchdog."""

PROCESSES_BESIDE = 16
"""The same for everything else: the master's threads, the fork server, launchers."""

RANKS_MAX = 400
"""Most ranks of all workers of an executor on Windows, where `select` takes 512 sockets. The others are for connections that
have not proved yet whose they are."""


def raise_limits(workers: int, ranks: int, *, are_remote: bool = False) -> Iterator[str]:
    """Raise the soft limits as far as so many workers need it and the hard limits allow.

    Args:
        workers: Number of workers of an executor.
        ranks: Number of ranks of each of them.
        are_remote: Agents fork them, usually on other hosts.

    Yields:
        For each hard limit that is too low: how many workers fit, and what to do.

    Raises:
        ValueError: On Windows, more than `RANKS_MAX`.
    """
    if not HAS_LIMITS:
        if workers * ranks > RANKS_MAX:
            of_ranks = f" of {ranks} ranks each" if ranks > 1 else ""
            raise ValueError(
                f"max_workers is {workers}{of_ranks}: on Windows an executor can have {RANKS_MAX // ranks}, as a thread waits for"
                f" at most 512 sockets there, one of each rank. Use max_workers={RANKS_MAX // ranks}, several executors, or WSL,"
                " which is Linux"
            )
        return
    import resource  # not needed by workers, whose start it would delay

    per_worker = FILES_PER_REMOTE_WORKER if are_remote else FILES_PER_WORKER + ranks - 1
    most = _raise(resource.RLIMIT_NOFILE, _open_files() + per_worker * workers, FILES_BESIDE)
    if most is not None:
        yield (
            f"{workers} workers need {per_worker * workers} file descriptors, but this process may open {most} files: about"
            f" {max(most - _open_files(), 0) // per_worker} workers can run at a time. Use fewer (max_workers), or ask for a"
            " higher hard limit: ulimit -Hn shows it, limits.conf sets it"
        )
    if are_remote or not hasattr(resource, "RLIMIT_NPROC") or os.geteuid() == 0:  # it does not hold for root
        return
    per_worker = PROCESSES_PER_RANK * ranks
    most = _raise(resource.RLIMIT_NPROC, per_worker * workers, PROCESSES_BESIDE)
    if most is not None:
        yield (
            f"{workers} workers need {per_worker * workers} processes and threads, but this user may have {most}: at most"
            f" {most // per_worker} workers can run at a time. Use fewer (max_workers), or ask for a higher hard limit:"
            " ulimit -Hu shows it, limits.conf sets it"
        )


def _raise(kind: int, needed: int, spare: int) -> int | None:
    """Raise a soft limit to a power of two above what is needed and spare; return the hard limit if it is below what is needed."""
    import resource

    soft, hard = resource.getrlimit(kind)
    wanted = 1 << (needed + spare - 1).bit_length()
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < min(needed + spare, wanted):
        try:
            resource.setrlimit(kind, (wanted, hard))
        except (ValueError, OSError):  # the system announces more than it grants
            return soft if soft < needed else None
    return hard if hard != resource.RLIM_INFINITY and hard < needed else None


def _open_files() -> int:
    """Return the number of file descriptors that this process has."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0

"""Find the processes that a step has started, even if their parents have ended.

All of them carry the mark of the step in their environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from pympipool._util.platform import HAS_PROC

MARK = "PYMPIPOOL_SELFTEST"

SEES_PROCESSES = HAS_PROC and Path("/proc/self/environ").exists()
"""False where the environment of processes cannot be read, as on macOS and Windows: then no process is ever found."""

Command = tuple[str, ...]
"""The command line of a process."""


def marked_processes(mark: str) -> dict[int, Command]:
    """Return the processes of this host that carry the mark: command lines by process id."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*") if SEES_PROCESSES else ():
        with contextlib.suppress(OSError):  # the process has ended meanwhile, or belongs to another user
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = tuple((folder / "cmdline").read_text(errors="replace").split("\0"))
    return found


def report_start(mark: str) -> str:
    """Return with what each report of a step begins: modules may print to stdout while the interpreter starts, also half a line."""
    return f"\x1e{mark} "  # the record separator, so that no printed environment looks like a report


def job_names(commands: Iterable[Command]) -> set[str]:
    """Return the names of the jobs and steps that these processes have requested from SLURM.

    Examples:
        >>> job_names([("srun", "--job-name=pympipool-0-5a1e", "python"), ("python",)])
        {'pympipool-0-5a1e'}
    """
    arguments = [argument for command in commands for argument in command]
    return {one.partition("=")[2] for one in arguments if one.startswith("--job-name=pympipool-")}


def is_job_reaper(command: Command) -> bool:
    """Return True for the process that cancels jobs of flux: it ends by itself, but only after it has cancelled them.

    Examples:
        >>> is_job_reaper(("python", "-c", "from pympipool.backends.flux.job_reaper import main; main()", "pympipool-5a1e"))
        True
    """
    return any("pympipool.backends.flux.job_reaper" in word for word in command)

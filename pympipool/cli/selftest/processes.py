"""The processes that a step has started, wherever they have gone: all carry its mark in their environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

MARK = "PYMPIPOOL_SELFTEST"

Command = tuple[str, ...]


def marked(mark: str) -> dict[int, Command]:
    """The processes of this host that carry the mark: their command lines by process id."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = tuple((folder / "cmdline").read_text(errors="replace").split("\0"))
    return found


def job_names(commands: Iterable[Command]) -> set[str]:
    """The names of the jobs and steps that these processes have asked SLURM for.

    Examples:
        >>> job_names([("srun", "--job-name=pympipool-0-5a1e", "python"), ("python",)])
        {'pympipool-0-5a1e'}
    """
    words = [word for command in commands for word in command]
    return {word.partition("=")[2] for word in words if word.startswith("--job-name=pympipool-")}


def is_guard(command: Command) -> bool:
    """Whether this is a guard of flux's jobs, which ends by itself, but not before it has cancelled them.

    Examples:
        >>> is_guard(("python", "-c", "from pympipool.backends.flux.job_reaper import main; main()", "pympipool-5a1e"))
        True
    """
    return any("pympipool.backends.flux.job_reaper" in word for word in command)

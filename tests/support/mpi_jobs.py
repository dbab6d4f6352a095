"""The processes and files of one MPI job."""

from __future__ import annotations

import contextlib
from pathlib import Path


def rank_pids(master):
    return [said[1]["pid"] for said in master.said("ready")]


def files_of(master):
    """Return the files of launcher and MPI library that the ranks of a job know."""
    files = set()
    for pid in rank_pids(master):
        files |= shared_files([pid])
        environment = dict(entry.partition("=")[::2] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        files.add(environment.get("PMIX_SERVER_TMPDIR", ""))
    assert any(name.startswith("/dev/shm/") for name in files)
    return [Path(name) for name in files if name]


def shared_files(pids):
    """Return the files in /dev/shm that some of the processes map."""
    files = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            files |= {line.split()[5] for line in maps if "/dev/shm/" in line}
    return files


def none_exists(files):
    return not any(Path(file).exists() for file in files)

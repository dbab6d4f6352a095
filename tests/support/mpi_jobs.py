"""The processes and files of one MPI job."""

from __future__ import annotations

from pathlib import Path


def rank_pids(master):
    return [said[1]["pid"] for said in master.said("ready")]


def files_of(master):
    """Return the files of launcher and MPI library that the ranks of a job know."""
    files = set()
    for pid in rank_pids(master):
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        files |= {line.split()[5] for line in maps if "/dev/shm/" in line}
        environment = dict(entry.partition("=")[::2] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        files.add(environment.get("PMIX_SERVER_TMPDIR", ""))
    assert any(name.startswith("/dev/shm/") for name in files)
    return [Path(name) for name in files if name]


def none_exists(files):
    return not any(map(Path.exists, files))

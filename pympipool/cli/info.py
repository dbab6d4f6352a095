"""`pympipool info`: show what is found here, which backend "auto" takes and why, and what is wrong, with remedies.

`pympipool.diagnostics.environment` finds the facts; this module formats them as text.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator
from itertools import chain

from pympipool._util.formatting import format_bytes, format_count, format_memory
from pympipool._util.platform import HAS_SHM_FOLDER
from pympipool.cli.text import format_issues, wrap
from pympipool.diagnostics.environment import Environment, Issue, probe
from pympipool.diagnostics.environment.machine import Folder, Machine
from pympipool.diagnostics.environment.schedulers import Schedulers
from pympipool.diagnostics.environment.shared_data import SharedData

HELP = "show what is found here (MPI, SLURM, flux, GPUs, cores, limits), and what is wrong"

LABEL = 14
"""Width of the first column in characters."""

Lines = Iterator[tuple[str, str]]
"""Pairs of a label and its text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool info`."""
    parser.add_argument("--json", action="store_true", help="for programs: all facts as JSON")


def run(options: argparse.Namespace) -> int:
    """Print everything that is found.

    Return 0 even if there are issues, because the user may not need what is wrong.
    """
    found = probe()
    if options.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    for title, lines in (
        (f"pympipool {found.installation.pympipool}", _installation(found)),
        ("This machine", chain(_machine(found.machine), _shared_data(found.shared_data))),
        ("MPI", _mpi(found)),
        ("Backends", _backends(found.schedulers)),
    ):
        print(title)
        for label, text in lines:
            print(wrap(f"  {label:{LABEL}}", text))
        print()
    print("\n".join(_issues(found.issues)))
    return 0


def _installation(found: Environment) -> Lines:
    here = found.installation
    yield "installed in", here.folder
    yield (
        "Python",
        f"{here.python}, {here.executable}" + (f" (environment {here.environment})" if here.environment else ""),
    )
    yield "packages", ", ".join(f"{name} {version or 'not installed'}" for name, version in here.packages.items())


def _machine(machine: Machine) -> Lines:
    cores, memory, limits, gpus = machine.cores, machine.memory, machine.limits, machine.gpus
    yield "host", f"{machine.host}, {machine.system}"
    bound = f", bound to {cores.bound}" if cores.bound < cores.machine else ""
    quota = ", by the quota of its cgroup" if cores.usable < cores.bound else ""
    yield "cores", f"{cores.usable} that this process may use{quota}{bound}; the machine has {cores.machine}"
    limit = "" if memory.limit is None else f", at most {_size(memory.limit)} by its cgroup"
    yield "memory", f"{_size(memory.machine)}, {_size(memory.available)} of it available{limit}"
    if not gpus.usable:
        yield "GPUs", f"none that this process may use ({gpus.installed} installed)" if gpus.installed else "none"
    else:
        models = f" ({', '.join(gpus.models)})" if gpus.models else ""
        yield "GPUs", f"{len(gpus.usable)}{models}: {gpus.variable}={','.join(gpus.usable)}"
    if HAS_SHM_FOLDER:
        yield "/dev/shm", _folder(machine.shared_memory)
    yield "files", f"temporary ones in {machine.temporary or '(nowhere)'}; {_open_files(machine)}"
    if limits.processes is not None:
        yield "processes", f"at most {limits.processes}, threads included"


def _open_files(machine: Machine) -> str:
    limits = machine.limits
    if limits.open_files is None:
        return "any number open at a time"
    if limits.open_files == limits.open_files_max:
        return f"{limits.open_files} open at a time"
    most = "any number" if limits.open_files_max is None else str(limits.open_files_max)
    return f"{limits.open_files} open at a time, which may be raised to {most}"


def _shared_data(shared: SharedData) -> Lines:
    if shared.count:
        holders = ", ".join(map(str, shared.pids))
        yield "shared data", f"{format_count(shared.count, 'object')}, {format_bytes(shared.size)}, held by {holders}"


def _folder(folder: Folder | None) -> str:
    if folder is None:
        return "missing"
    return f"{_size(folder.size)}, {_size(folder.free)} free{'' if folder.writable else ', not writable'}"


def _mpi(found: Environment) -> Lines:
    mpi = found.mpi
    yield "mpi4py", found.installation.packages["mpi4py"] or ("found" if mpi.installed else "not installed")
    yield "library", f"{mpi.version} ({mpi.path or 'its file is unknown'})" if mpi.version else "none"
    yield "mpiexec", f"{mpi.mpiexec}, which belongs to the library" if mpi.mpiexec else "none that belongs to a library"


def _backends(schedulers: Schedulers) -> Lines:
    slurm, flux = schedulers.slurm, schedulers.flux
    if slurm.version:
        job = f"in job {slurm.job} with {slurm.cores} cores on {slurm.nodes}" if slurm.job else "not in a job"
        yield "SLURM", f"{slurm.version}, {job}"
    if flux.version or flux.cores is not None:
        where = f"in the instance {flux.uri}" if flux.uri else "not in an instance"
        size = "" if flux.cores is None else f", with {flux.cores} cores and {flux.gpus} GPUs on {flux.hosts}"
        yield "flux", f"{flux.version or 'no program in PATH'}, {where}{size}"
    yield '"auto"', f"takes {schedulers.chosen!r}"
    for name, reason in schedulers.skipped_backends.items():
        yield "", f"not {name!r}: {reason}"


def _issues(issues: Iterable[Issue]) -> Iterator[str]:
    """Yield what is wrong, then what is worth knowing."""
    wrong = [issue for issue in issues if issue.serious]
    yield "What is wrong" if wrong else "Nothing is wrong; `pympipool check` tries it out."
    yield from format_issues(wrong)
    if hints := [issue for issue in issues if not issue.serious]:
        yield ""
        yield "Worth knowing"
        yield from format_issues(hints)


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else format_memory(size_bytes)

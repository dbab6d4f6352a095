"""The command line and the environment of a worker's program.

The program is the same for every spawner: this interpreter, with the flags it was called with, running
`pympipool.worker`. No secret is in the command line, which every user of the host can read: address and key are in
the environment.
"""

from __future__ import annotations

import os
import sys

from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

BOOTSTRAP = (
    "import sys; sys.path[:] = filter(None, sys.path)\n"
    "import os; sys.path[:] = os.environ['PYMPIPOOL_PATH'].split(os.pathsep)\n"
    "from {module} import main; main()"
)
"""The program's first lines. `python -c` puts the current folder first in `sys.path`: any file there called like a
module of the standard library would be imported instead of it. So it goes before anything else is imported, and the
master's path takes its place."""

_FLAGS = {
    "dont_write_bytecode": "-B",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "optimize": "-O",
    "bytes_warning": "-b",
}
"""Attributes of sys.flags that are numbers (how often the flag was given), and what sets them."""

_OWN_OPTIONS = ("importtime", "showrefcount", "presite")
"""-X options that concern a single process: their output from every worker would be a nuisance."""

_OUTER_JOB = (
    "PMI_",
    "PMI2_",
    "PMIX_",
    "HYDI_",
    "MPI_LOCAL",
    "MPI_APPNUM",
    "MPI_UNIVERSE_SIZE",
    "OMPI_COMM_WORLD_",
    "OMPI_WORLD_",
    "OMPI_UNIVERSE_",
    "OMPI_APP_CTX_",
    "OMPI_NUM_APP_CTX",
    "OMPI_FIRST_RANKS",
    "OMPI_FILE_LOCATION",
    "OMPI_COMMAND",
    "OMPI_ARGV",
    "OMPI_MCA_ess_",
    "OMPI_MCA_orte_",
    "OMPI_MCA_num_procs",
    "OMPI_MCA_initial_wdir",
    "PRTE_LAUNCHED",
    "FLUX_TASK_RANK",
)
"""Beginnings of the variables by which a process knows its place in an MPI job (MPICH, Open MPI, flux)."""

_SETTINGS = ("PMIX_MCA_",)
"""What looks like those, but is a setting of the user's."""


def program_command(module: str = "pympipool.worker") -> list[str]:
    """The command line of a worker's program.

    Args:
        module: Whose `main` is called.

    Raises:
        WorkerStartError: There is no Python interpreter to start.
    """
    if not sys.executable:
        raise WorkerStartError(
            "sys.executable is empty, so there is no Python interpreter to run workers with (is Python embedded in"
            " another program?): set sys.executable to the path of one that can import pympipool"
        )
    return [sys.executable, *_interpreter_flags(), "-c", BOOTSTRAP.format(module=module)]


def _interpreter_flags() -> list[str]:
    """The flags that this interpreter was called with, as far as they change what a program does."""
    flags = [flag for name, flag in _FLAGS.items() for _ in range(getattr(sys.flags, name))]
    flags += [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():
        if name not in _OWN_OPTIONS:
            flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def worker_environment(order: LaunchRequest) -> dict[str, str]:
    """The environment of a worker's processes: the master's, and over it what the order says.

    If the master is itself a rank of an MPI job, its workers are not: what would make them look like one is left out.
    """
    environment = {}
    for name in list(os.environ):  # another thread may change it meanwhile
        value = os.environ.get(name)
        if value is not None and not _places_in_outer_job(name):
            environment[name] = value
    environment.update(order.environment)
    return environment


def _places_in_outer_job(name: str) -> bool:
    return name.startswith(_OUTER_JOB) and not name.startswith(_SETTINGS)

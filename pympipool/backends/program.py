"""The command line and the environment of a worker's program.

The program is the same for every spawner: this interpreter, with the flags that it was called with, runs
`pympipool.worker`. No secret is in the command line, which every user of the host can read. The address and the key of
the master are in the environment.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping

from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

BOOTSTRAP = (
    "import sys; sys.path[:] = filter(None, sys.path)\n"
    "import os; sys.path.insert(0, os.environ['PYMPIPOOL_PATH'])\n"
    "import pympipool; del sys.path[0]\n"
    "import gc; gc.disable()\n"
    "from {module} import main; gc.freeze(); gc.enable(); main()"
)
"""The program's first lines. `python -c` puts the current folder first in `sys.path`, so that a file there with the
name of a module of the standard library would be imported in its place. So the current folder is removed from the path
before any import. Then the package is imported from where the master has it. The master's path comes with the settings:
in a variable its length would be limited, and a colon in a name would end the name.
Imports leave nothing for the garbage collector, which would take a tenth of their time, and as much again for its next look."""

_FLAGS = {
    "dont_write_bytecode": "-B",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "optimize": "-O",
    "bytes_warning": "-b",
}
"""Attributes of sys.flags that count how often a flag was given, and the flag that sets each of them."""

_OWN_OPTIONS = ("importtime", "showrefcount", "presite")
"""-X options that concern a single process. Their output from every worker would be a nuisance."""

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
"""Prefixes of the variables that tell a process its place in an MPI job (MPICH, Open MPI, flux)."""

_USER_SETTINGS = ("PMIX_MCA_",)
"""Prefixes of variables that begin like those of `_OUTER_JOB`, but are settings of the user."""


def program_command(module: str = "pympipool.worker", title: str = "") -> list[str]:
    """Return the command line of a worker's program.

    Args:
        module: The module whose `main` is called.
        title: A last argument, by which `ps` shows what the process is.

    Raises:
        WorkerStartError: There is no Python interpreter to start, or this program was started in place of one.
    """
    return [*interpreter_command(), "-c", BOOTSTRAP.format(module=module), *([title] if title else [])]


def interpreter_command() -> list[str]:
    """Return this interpreter with the flags that it was called with, as far as they change what a program does.

    Raises:
        WorkerStartError: There is no Python interpreter to start, or this program was started in place of one.
    """
    if not sys.executable:
        raise WorkerStartError(
            "sys.executable is empty, so there is no Python interpreter to run workers with (is Python embedded in"
            " another program?): set sys.executable to the path of one that can import pympipool"
        )
    if getattr(sys, "frozen", False) and not _is_python(sys.executable):
        raise WorkerStartError(
            f"this program is frozen: sys.executable is {sys.executable!r}, which is no Python interpreter, and would run"
            " the whole program again in place of each worker. Run the script with Python, or set sys.executable to"
            " the path of a Python interpreter that can import pympipool"
        )
    if "PYMPIPOOL_KEY" in os.environ:
        raise WorkerStartError(
            f"this process was started as a worker of an executor, but runs a program that makes executors itself:"
            f" sys.executable is {sys.executable!r}; it must be the path of a Python interpreter. If it is one, unset"
            " PYMPIPOOL_KEY"
        )
    return [sys.executable, *_interpreter_flags()]


def _is_python(path: str) -> bool:
    """Return True if the name of a program is that of a Python interpreter."""
    return os.path.basename(path).lower().startswith(("python", "pypy"))


def _interpreter_flags() -> list[str]:
    """Return the flags that this interpreter was called with, as far as they change what a program does."""
    flags = [flag for name, flag in _FLAGS.items() for _ in range(getattr(sys.flags, name))]
    flags += [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():
        if name not in _OWN_OPTIONS:
            flags += ["-X", name if value is True else f"{name}={value}"]
    if sysconfig.get_config_var("Py_GIL_DISABLED") and "gil" not in sys._xoptions and "PYTHON_GIL" not in os.environ:
        # A worker runs one call at a time: with the GIL each of them is faster, and their libraries need not do without.
        flags += ["-X", "gil=1"]
    return flags


def worker_environment(request: LaunchRequest) -> dict[str, str]:
    """Return the environment of a worker's processes: the master's, updated with the request's.

    If the master is itself a rank of an MPI job, its workers are not ranks of that job. The variables that would make
    them look like ranks of it are left out.
    """
    environment = {name: os.environ.get(name) for name in list(os.environ)}  # another thread may change it meanwhile
    known = {name: value for name, value in environment.items() if value is not None}
    return {**without_outer_job(known), **request.environment}


def environment_snapshot() -> object:
    """Return what is equal to the next snapshot as long as this process's environment does not change."""
    data = getattr(os.environ, "_data", None)  # of CPython: it takes a fiftieth of the time
    return dict(os.environ) if data is None else data.copy()


def without_outer_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that tell a process its place in an MPI job."""
    return {name: value for name, value in environment.items() if not _belongs_to_outer_job(name)}


def _belongs_to_outer_job(name: str) -> bool:
    return name.startswith(_OUTER_JOB) and not name.startswith(_USER_SETTINGS)

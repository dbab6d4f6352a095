"""The examples of the specification with their output, and their variants for other backends.

Differences from the specification: "coupled functions" imports flux.job, the folder of "all resources" is made by the
tests, and the GPU example reads CUDA_VISIBLE_DEVICES instead of importing tensorflow.
"""

from __future__ import annotations

import socket
import textwrap

import pytest

EXAMPLES = {
    "the standard library's thread pool": (
        """
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(max_workers=1) as exe:
    future = exe.submit(sum, [1, 1])
    print(future.result())
""",
        "2",
    ),
    "a sum": (
        """
import flux.job
from pympipool import Executor

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=1, executor=flux_exe) as exe:
        future = exe.submit(sum, [1,1])
        print(future.result())
""",
        "2",
    ),
    "functions of the user": (
        """
import flux.job
from pympipool import Executor

def calc(*args):
    return sum(*args)

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=2, executor=flux_exe) as exe:
        fs_1 = exe.submit(calc, [2, 1])
        fs_2 = exe.submit(calc, [2, 2])
        fs_3 = exe.submit(calc, [2, 3])
        fs_4 = exe.submit(calc, [2, 4])
        print([
            fs_1.result(),
            fs_2.result(),
            fs_3.result(),
            fs_4.result(),
        ])
""",
        "[3, 4, 5, 6]",
    ),
    "map": (
        """
import flux.job
from pympipool import Executor

def calc(*args):
    return sum(*args)

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=2, executor=flux_exe) as exe:
        print(list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]])))
""",
        "[3, 4, 5, 6]",
    ),
    "all resources on both levels": (
        """
import flux.job
from pympipool import Executor


def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


with flux.job.FluxExecutor() as flux_exe:
    with Executor(
        # Resource definition on the executor level
        max_cores=2,  # total number of cores available to the Executor
        # Optional resource definition
        cores_per_worker=1,
        threads_per_core=1,
        gpus_per_worker=0,
        oversubscribe=False,  # not available with flux
        cwd="notebooks",
        executor=flux_exe,
        hostname_localhost=False,  # only required on MacOS
        backend="flux",  # optional in case the backend is not recognized
        block_allocation=False,
        init_function=None,  # only available with block_allocation=True
        command_line_argument_lst=[],  # additional command line arguments for SLURM
        disable_dependencies=False,  # option to disable input dependency resolution
        refresh_rate=0.01,  # refresh frequency in seconds for the dependency resolution
    ) as exe:
        future_obj = exe.submit(
            calc_function,
            1,   # parameter_a
            parameter_b=2,
            # Resource definition on the submission level
            resource_dict={
                "cores": 1,
                "threads_per_core": 1,
                "gpus_per_core": 0,  # here it is gpus_per_core rather than gpus_per_worker
                "oversubscribe": False,  # not available with flux
                "cwd": "notebooks",
                "executor": flux_exe,
                "hostname_localhost": False,  # only required on MacOS
                # "command_line_argument_lst": [],  # additional command line arguments for SLURM
            },
        )
        print(future_obj.result())
""",
        "3",
    ),
    "block allocation": (
        """
import flux.job
from pympipool import Executor


def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


with flux.job.FluxExecutor() as flux_exe:
    with Executor(
        # Resource definition on the executor level
        max_cores=2,  # total number of cores available to the Executor
        block_allocation=True,  # reuse python processes
        executor=flux_exe,
    ) as exe:
        future_obj = exe.submit(
            calc_function,
            1,   # parameter_a
            parameter_b=2,
        )
        print(future_obj.result())
""",
        "3",
    ),
    "data that is loaded once": (
        """
import flux.job
from pympipool import Executor

def calc(i, j, k):
    return i + j + k

def init_function():
    return {"j": 4, "k": 3, "l": 2}

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=1, init_function=init_function, executor=flux_exe, block_allocation=True) as exe:
        fs = exe.submit(calc, 2, j=5)
        print(fs.result())
""",
        "10",
    ),
    "threads set by the function itself": (
        """
import flux.job
from pympipool import Executor

def calc(i):
    import os
    os.environ["OMP_NUM_THREADS"] = "2"
    os.environ["OPENBLAS_NUM_THREADS"] = "2"
    os.environ["MKL_NUM_THREADS"] = "2"
    os.environ["VECLIB_MAXIMUM_THREADS"] = "2"
    os.environ["NUMEXPR_NUM_THREADS"] = "2"
    import numpy as np
    return i

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=1, executor=flux_exe) as exe:
        print(exe.submit(calc, 3).result())
""",
        "3",
    ),
    "an MPI function": (
        """
import flux.job
from pympipool import Executor

def calc(i):
    from mpi4py import MPI
    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=2, cores_per_worker=2, executor=flux_exe) as exe:
        fs = exe.submit(calc, 3)
        print(fs.result())
""",
        "[(3, 2, 0), (3, 2, 1)]",
    ),
    "coupled functions": (
        """
import flux.job
from pympipool import Executor

def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b

with flux.job.FluxExecutor() as flux_exe:
    with Executor(max_cores=2, executor=flux_exe) as exe:
        future_1 = exe.submit(
            calc_function,
            parameter_a=1,
            parameter_b=2,
        )
        future_2 = exe.submit(
            calc_function,
            parameter_a=1,
            parameter_b=future_1,
        )
        print(future_2.result())
""",
        "4",
    ),
    "a workstation": (
        """
from pympipool import Executor

with Executor(max_cores=1, backend="mpi") as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
    "without backend": (
        """
from pympipool import Executor

with Executor(max_cores=1) as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
    "localhost instead of the host's name": (
        """
from pympipool import Executor

with Executor(max_cores=1, backend="mpi", hostname_localhost=True) as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
}

GPU_EXAMPLE = """
import os
import socket
import flux.job
from pympipool import Executor

os.mkfifo("meeting")

def get_available_gpus(mode):
    import os
    with open("meeting", mode):  # both are there at the same time
        return [(f"/device:GPU:{name}", socket.gethostname()) for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]

with flux.job.FluxExecutor() as flux_exe:
    with Executor(
        max_workers=2,
        gpus_per_worker=1,
        executor=flux_exe,
    ) as exe:
        fs_1 = exe.submit(get_available_gpus, "w")
        fs_2 = exe.submit(get_available_gpus, "r")
        print(sorted([fs_1.result(), fs_2.result()]))
"""

IN_BLOCK = {False: "", True: ", block_allocation=True"}
"""Abbreviations of the modes in test ids."""


def scripts(backend: str) -> list:
    """Return the examples for this backend and their output, in both modes unless the example chooses one."""
    return [
        pytest.param(
            on_backend(source, backend, in_block=in_block),
            printed,
            id=name + IN_BLOCK[in_block],
            marks=[pytest.mark.mpi] if "mpi4py" in source else [],
        )
        for name, (source, printed) in EXAMPLES.items()
        if "pympipool" in source or backend == "mpi"
        for in_block in ([False] if "block_allocation" in source or "pympipool" not in source else [False, True])
    ]


def on_backend(source: str, backend: str, *, in_block: bool = False) -> str:
    """Return an example with another backend. With "flux", one for a workstation becomes one without a FluxExecutor."""
    if backend != "flux":
        source = _without_flux_executor(source)
    source = source.replace('backend="mpi"', f'backend="{backend}"')
    return source.replace("with Executor(", "with Executor(block_allocation=True, ") if in_block else source


def _without_flux_executor(source: str) -> str:
    before, _, inside = source.replace("import flux.job\n", "").partition("with flux.job.FluxExecutor() as flux_exe:\n")
    source = before + textwrap.dedent(inside)
    if "backend=" in source:
        return source.replace("flux_exe", "None").replace('backend="flux"', 'backend="mpi"')
    return source.replace("executor=flux_exe", 'backend="mpi"')


def printed_by_gpu_example(host: str | None = None) -> str:
    """Return the output in the specification with other host names: here both devices are in one host."""
    host = host or socket.gethostname()
    return f"[[('/device:GPU:0', '{host}')], [('/device:GPU:1', '{host}')]]"

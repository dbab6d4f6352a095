"""The examples of the specification: each as a script that plain Python runs, with the output that is printed there.

Where the specification has a flux executor, the scripts have `backend="mpi"`. Examples that make sense in both modes
run in both: `MODE` stands for the parameter that says which.
"""

import re
import socket

import pytest

from system.observe import run_script

BOTH = ["", ", block_allocation=True"]

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
from pympipool import Executor

with Executor(max_cores=1, backend="mpi"MODE) as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
    "functions of the user": (
        """
from pympipool import Executor

def calc(*args):
    return sum(*args)

with Executor(max_cores=2, backend="mpi"MODE) as exe:
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
from pympipool import Executor

def calc(*args):
    return sum(*args)

with Executor(max_cores=2, backend="mpi"MODE) as exe:
    print(list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]])))
""",
        "[3, 4, 5, 6]",
    ),
    "all resources on both levels": (
        """
from pympipool import Executor


def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


with Executor(
    # Resource definition on the executor level
    max_cores=2,  # total number of cores available to the Executor
    # Optional resource definition
    cores_per_worker=1,
    threads_per_core=1,
    gpus_per_worker=0,
    oversubscribe=False,  # not available with flux
    cwd="notebooks",
    executor=None,
    hostname_localhost=False,  # only required on MacOS
    backend="mpi",  # optional in case the backend is not recognized
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
            "executor": None,
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
from pympipool import Executor


def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


with Executor(
    # Resource definition on the executor level
    max_cores=2,  # total number of cores available to the Executor
    block_allocation=True,  # reuse python processes
    backend="mpi",
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
from pympipool import Executor

def calc(i, j, k):
    return i + j + k

def init_function():
    return {"j": 4, "k": 3, "l": 2}

with Executor(max_cores=1, init_function=init_function, backend="mpi", block_allocation=True) as exe:
    fs = exe.submit(calc, 2, j=5)
    print(fs.result())
""",
        "10",
    ),
    "threads set by the function itself": (
        """
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

with Executor(max_cores=1, backend="mpi"MODE) as exe:
    print(exe.submit(calc, 3).result())
""",
        "3",
    ),
    "coupled functions": (
        """
from pympipool import Executor

def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b

with Executor(max_cores=2, backend="mpi"MODE) as exe:
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
    "a workstation without backend": (
        """
from pympipool import Executor

with Executor(max_cores=1MODE) as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
    "localhost instead of the host's name": (
        """
from pympipool import Executor

with Executor(max_cores=1, backend="mpi", hostname_localhost=TrueMODE) as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
""",
        "2",
    ),
}

MPI_EXAMPLE = """
from pympipool import Executor

def calc(i):
    from mpi4py import MPI
    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank

with Executor(max_cores=2, cores_per_worker=2, backend="mpi"MODE) as exe:
    fs = exe.submit(calc, 3)
    print(fs.result())
"""

GPU_EXAMPLE = """
import os
import socket
from pympipool import Executor

os.mkfifo("meeting")

def get_available_gpus(mode):
    import os
    with open("meeting", mode):  # both are there at the same time
        return [(f"/device:GPU:{name}", socket.gethostname()) for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]

with Executor(
    max_workers=2,
    gpus_per_worker=1,
    backend="mpi"MODE
) as exe:
    fs_1 = exe.submit(get_available_gpus, "w")
    fs_2 = exe.submit(get_available_gpus, "r")
    print(sorted([fs_1.result(), fs_2.result()]))
"""


SCRIPTS = [
    pytest.param(source.replace("MODE", mode), printed, id=name + mode)
    for name, (source, printed) in EXAMPLES.items()
    for mode in (BOTH if "MODE" in source else [""])
]


@pytest.mark.parametrize(("source", "printed"), SCRIPTS)
def test_an_example_prints_what_the_specification_prints(tmp_path, source, printed):
    (tmp_path / "notebooks").mkdir()
    assert run_script(source, tmp_path).strip() == printed


@pytest.mark.mpi
@pytest.mark.parametrize("mode", BOTH)
def test_the_mpi_example_prints_one_tuple_for_each_rank(tmp_path, mode):
    assert run_script(MPI_EXAMPLE.replace("MODE", mode), tmp_path).strip() == "[(3, 2, 0), (3, 2, 1)]"


@pytest.mark.parametrize("mode", BOTH)
def test_the_gpu_example_prints_a_device_of_its_own_for_each_worker(tmp_path, mode):
    """As printed there, but for the names of the hosts: here both devices are in one."""
    script = GPU_EXAMPLE.replace("MODE", mode)
    printed = run_script(script, tmp_path, variables={"CUDA_VISIBLE_DEVICES": "0,1"}).strip()
    host = socket.gethostname()
    assert printed == f"[[('/device:GPU:0', '{host}')], [('/device:GPU:1', '{host}')]]"


MISSING = {
    "slurm": r"backend 'slurm' cannot be used: .*(srun|controller does not answer).*; run the script where",
    "flux": r"backend 'flux' cannot be used: .*(bindings|no flux instance can be reached).*; start the script with",
}


@pytest.mark.parametrize("backend", MISSING)
def test_a_backend_that_is_not_there_says_so(tmp_path, backend):
    script = EXAMPLES["a sum"][0].replace('"mpi"MODE', f'"{backend}"')
    caught = script.replace("\nwith", "\ntry:\n  with").replace("\n    ", "\n      ")
    nowhere = {"SLURM_CONF": str(tmp_path / "no-such.conf"), "FLUX_URI": f"local://{tmp_path}/nobody"}
    printed = run_script(caught + "\nexcept Exception as error:\n    print(error)\n", tmp_path, variables=nowhere)
    assert re.search(MISSING[backend], printed), printed

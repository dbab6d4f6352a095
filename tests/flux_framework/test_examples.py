"""The specification's examples, as they are printed there, under a real `flux start`; and the submission scripts in examples/flux.

The folder of "all resources on both levels" is one that exists here, and the GPU example looks at CUDA_VISIBLE_DEVICES
instead of importing tensorflow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flux_framework.instance import python_path, why_no_flux_here
from spec.test_examples import BOTH, EXAMPLES, MPI_EXAMPLE

SOURCE = Path(__file__).parents[2]
FOLDER = SOURCE / "examples" / "flux"

SIZES = pytest.mark.parametrize("brokers", [1, 2])


@pytest.fixture(autouse=True, scope="module")
def _flux_is_here():
    problem = why_no_flux_here()
    if problem:
        pytest.skip(problem)


def with_flux_executor(source):
    """The example with `flux.job.FluxExecutor()`, as it is in the specification."""
    before, after = source.split("\nwith Executor(", 1)
    inner = f"with Executor({after}".replace('backend="mpi"', "executor=flux_exe", 1)
    indented = "".join(f"    {line}" if line.strip() else line for line in inner.splitlines(keepends=True))
    return f"import flux.job{before}\nwith flux.job.FluxExecutor() as flux_exe:\n{indented}"


ALL_RESOURCES = """
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
"""

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

SCRIPTS = [
    pytest.param(with_flux_executor(source.replace("MODE", mode)), printed, id=name + mode)
    for name, (source, printed) in EXAMPLES.items()
    for mode in (BOTH if "MODE" in source else [""])
    if 'backend="mpi"' in source and "executor=None" not in source
] + [pytest.param(ALL_RESOURCES, "3", id="all resources on both levels")]


def run_in_flux(source, folder, brokers):
    """Runs a script with `flux start`; what it printed."""
    (folder / "notebooks").mkdir()
    (folder / "script.py").write_text(source)
    return start_flux(["-s", str(brokers), sys.executable, "script.py"], folder)


def start_flux(arguments, folder, program="flux"):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    done = subprocess.run(
        [program, *(["start"] if program == "flux" else []), *arguments],
        cwd=folder,
        env={
            **environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(SOURCE), python_path()]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@SIZES
@pytest.mark.parametrize(("source", "printed"), SCRIPTS)
def test_an_example_of_the_specification_prints_what_it_says(tmp_path, source, printed, brokers):
    assert run_in_flux(source, tmp_path, brokers) == printed


@SIZES
@pytest.mark.mpi
@pytest.mark.parametrize("mode", BOTH)
def test_the_mpi_example_prints_one_tuple_for_each_rank(tmp_path, mode, brokers):
    source = with_flux_executor(MPI_EXAMPLE.replace("MODE", mode))
    assert run_in_flux(source, tmp_path, brokers) == "[(3, 2, 0), (3, 2, 1)]"


def test_the_gpu_example_gives_each_worker_a_device_of_its_own(one_broker, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(GPU_EXAMPLE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), python_path()])}
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    host = os.uname().nodename
    assert done.stdout.strip() == f"[[('/device:GPU:0', '{host}')], [('/device:GPU:1', '{host}')]]"


# ---- submission scripts ----

PRINTED = {"sum": "2", "mpi": "[(3, 2, 0), (3, 2, 1)]\n6"}


def test_every_example_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PRINTED, "gpu"}


@pytest.mark.mpi
@pytest.mark.parametrize("name", PRINTED)
def test_a_script_prints_what_it_says(tmp_path, name):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    assert start_flux([f"{name}.sh"], tmp_path, program="sh") == PRINTED[name]

"""The examples of the specification in a real flux, with its output, and the submission scripts in examples/flux."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.flux_instance import path_for_scripts, why_no_flux_here
from support.scripts import Script
from support.spec_examples import EXAMPLES, GPU_EXAMPLE, on_backend, printed_by_gpu_example, scripts

FOLDER = Path(__file__).parents[2] / "examples" / "flux"


def check_script(source, printed, folder):
    """Run a script, and check that it prints exactly this and leaves nothing."""
    with Script(source, folder, variables={"PYTHONPATH": path_for_scripts()}) as script:
        assert script.end() == (0, f"{printed}\n", "")
        assert script.survivors() == []


@pytest.mark.parametrize(("source", "printed"), scripts("flux"))
def test_specification_example_prints_its_documented_output(instance, tmp_path, source, printed):
    (tmp_path / "notebooks").mkdir()
    check_script(source, printed, tmp_path)


@pytest.mark.parametrize("in_block", [False, True])
def test_gpu_example_prints_a_device_per_worker(one_broker, tmp_path, in_block):
    check_script(on_backend(GPU_EXAMPLE, "flux", in_block=in_block), printed_by_gpu_example(), tmp_path)


# ---- in an instance of their own, as users start them ----


def run(*command, folder, **variables):
    """Run a program outside any instance, unless FLUX_URI is among the variables, and return its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("FLUX_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": path_for_scripts(),
            **variables,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def _flux_is_here():
    problem = why_no_flux_here()
    if problem:
        pytest.skip(problem)


@pytest.mark.usefixtures("_flux_is_here")
@pytest.mark.mpi
@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("brokers", [1, 2])
def test_an_example_runs_under_flux_start(tmp_path, brokers, in_block):
    source, printed = EXAMPLES["an MPI function"]
    (tmp_path / "script.py").write_text(on_backend(source, "flux", in_block=in_block))
    assert run("flux", "start", f"-s{brokers}", "python", "script.py", folder=tmp_path).strip() == printed


PRINTED = {"sum": "2\n", "mpi": "[(3, 2, 0), (3, 2, 1)]\n6\n"}


def test_every_script_to_submit_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PRINTED, "gpu"}


@pytest.mark.usefixtures("_flux_is_here")
@pytest.mark.mpi
@pytest.mark.parametrize("name", PRINTED)
def test_submission_script_prints_its_documented_output(tmp_path, name):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    assert run("sh", f"{name}.sh", folder=tmp_path) == PRINTED[name]


def test_gpu_script_prints_a_device_per_worker(one_broker, tmp_path):
    """The instance pretends to have devices."""
    printed = ast.literal_eval(run("python", str(FOLDER / "gpu.py"), folder=tmp_path, FLUX_URI=one_broker.uri))
    assert [host for _, host in printed] == [os.uname().nodename] * 2
    assert {device for device, _ in printed} <= {"0", "1"}

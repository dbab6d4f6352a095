"""The submission scripts in examples/slurm, submitted to the real SLURM; and the specification's examples with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.scripts import run_script
from support.spec_examples import GPU_EXAMPLE, on_backend, printed_by_gpu_example, scripts
from support.timing import best

FOLDER = Path(__file__).parents[2] / "examples" / "slurm"

PRINTED = {
    "sum": "2\n",
    "map": "[3, 4, 5, 6]\non 4 workers\n",
    "mpi": "[(3, 2, 0), (3, 2, 1)]\n6\n",
    "gpu": "['{first}', '{second}']\n",
    "data": "10\n",
    "coupled": "4\n",
    "program": "['2 ranks', '2 ranks']\n",
    "resources": "(3, 1)\n(3, 2, 'results')\n",
}

NEEDS_TWO = {"map", "gpu"}


def test_every_submission_script_is_tested():
    assert {path.stem for path in FOLDER.glob("*.sbatch")} == set(PRINTED)


@pytest.mark.mpi
@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.alone
def test_submission_script_prints_its_documented_output(cluster, tmp_path, name):
    if name in NEEDS_TWO and cluster.second is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(FOLDER.parents[1]),
    }
    first, second = sorted([cluster.first, str(cluster.second)])
    expected = PRINTED[name].format(first=first, second=second)

    def prints_something_else():
        """Return True if one of two workers ran all calls, as it may if the other one has no core."""
        done = subprocess.run(
            ["sbatch", "--wait", "--output=out", "--error=err", f"{name}.sbatch"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = (tmp_path / "err").read_text()
        assert done.returncode == 0, done.stderr + said
        assert said == ""
        return (tmp_path / "out").read_text() != expected

    if best(prints_something_else, 1, tries=3 if name == "gpu" else 1):
        assert (tmp_path / "out").read_text() == expected


@pytest.fixture(params=["one host", "second host"])
def workers_there(request, cluster, job):
    """Return the host for the workers."""
    host = cluster.first if request.param == "one host" else cluster.second
    if host is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    return host


@pytest.mark.parametrize(("source", "printed"), scripts("slurm"))
def test_specification_example_prints_its_documented_output(cluster, workers_there, tmp_path, source, printed):
    if "hostname_localhost=True" in source and workers_there != cluster.first:
        pytest.skip("with hostname_localhost=True workers of other hosts cannot connect")
    (tmp_path / "notebooks").mkdir()
    assert run_script(placed(source, workers_there), tmp_path).strip() == printed


@pytest.mark.parametrize("in_block", [False, True])
def test_gpu_example_prints_a_device_per_worker(cluster, workers_there, tmp_path, in_block):
    source = on_backend(GPU_EXAMPLE, "slurm", in_block=in_block)
    host = None if workers_there == cluster.first else workers_there
    printed = run_script(placed(source, workers_there), tmp_path).strip()
    assert printed == printed_by_gpu_example(host)


def placed(source, host):
    """Return the example with its workers on a certain host."""
    argument = f'command_line_argument_lst=["--nodelist={host}"]'
    if "command_line_argument_lst=[]" in source:
        return source.replace("command_line_argument_lst=[]", argument, 1)
    return source.replace('backend="slurm"', f'backend="slurm", {argument}')

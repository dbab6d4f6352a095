"""A real Grid Engine on both hosts: its jobs are recognized, and workers run on all hosts of a job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from support.spec_examples import scripts
from support.ssh_hosts import NAMES, SCRIPTS, START_S, WANTED
from support.waiting import wait_until

SLOTS = 2
"""Slots on each host that the parallel environment gives to a job."""

JOB_S = 600
"""Seconds that a job may take, from its submission."""

EXAMPLES = Path(__file__).parents[2] / "examples" / "hosts"

pytestmark = pytest.mark.timeout(JOB_S + 60)


class GridEngine:
    """The Grid Engine, for root."""

    def __init__(self, hosts):
        self.hosts = hosts
        done = subprocess.run(
            [SCRIPTS / "start-gridengine", hosts.folder, *NAMES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])

    def run(self, command):
        """Run a command of Grid Engine and return its output."""
        return self.hosts.run(NAMES[0], "bash", "-c", f". {self.hosts.folder}/sge/env; {command}")

    def submit(self, source, folder):
        """Submit a script to both hosts, and return the number of the job."""
        (folder / "script.py").write_text(source)
        (folder / "job.sh").write_text(
            f"cd {folder}\n"
            f"export PYTHONPATH={Path(pympipool.__file__).parents[1]}\n"
            f"{sys.executable} script.py >out 2>err\n"
            "echo $? >ended\n"
        )
        options = f"-pe mpi {2 * SLOTS} -S /bin/bash -o /dev/null -e /dev/null"
        return self.run(f"qsub -terse {options} {folder}/job.sh").strip()

    def wait_for(self, folder):
        """Wait for the end of a script, and return its output."""
        ended = folder / "ended"
        wait_until(lambda: ended.exists() or not self.run("qstat"), JOB_S)
        wait_until(lambda: ended.exists() and ended.read_text().strip())
        assert ended.read_text() == "0\n", (folder / "err").read_text()
        return (folder / "out").read_text()

    def left(self):
        return [command for command in self.hosts.left() if "python" in command]


@pytest.fixture(scope="module")
def grid_engine(running_hosts):
    if not Path("/usr/sbin/sge_qmaster").exists() and not os.environ.get(WANTED):
        pytest.skip("no Grid Engine here: make test-hosts installs it, as root on Debian or Ubuntu")
    running_hosts.repair()
    yield GridEngine(running_hosts)
    for name in NAMES:
        running_hosts.end(name)
    running_hosts.start()


@pytest.fixture(autouse=True)
def nothing_is_left(grid_engine):
    yield
    wait_until(lambda: not grid_engine.left())


WHERE = """
import socket, time
from pathlib import Path
from pympipool import Executor

def meet(number):
    Path(f"begun-{number}").touch()
    while len(list(Path().glob("begun-*"))) < 4:  # so all slots are used
        time.sleep(0.01)
    return socket.gethostname()

def ranks():
    from mpi4py import MPI
    return socket.gethostname(), MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()

if __name__ == "__main__":
    with Executor() as exe:
        print(exe.info["backend"], exe.info["max_workers"])
        print(sorted(exe.map(meet, range(4), chunksize=1)))
        print({host for host, _, _ in exe.submit(ranks, resource_dict={"cores": 2}).result()} <= {"hosta", "hostb"})
"""


@pytest.mark.mpi
def test_workers_run_on_all_hosts_of_a_job(grid_engine, tmp_path):
    grid_engine.submit(WHERE, tmp_path)
    assert grid_engine.wait_for(tmp_path) == "gridengine 4\n['hosta', 'hosta', 'hostb', 'hostb']\nTrue\n"


ALL = """
import json, subprocess, sys
results = {}
for name, source in json.load(open("examples.json")).items():
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    results[name] = done.stdout.strip() or done.stderr
print(json.dumps(results))
"""


@pytest.mark.mpi
def test_specification_examples_print_their_documented_output(grid_engine, tmp_path):
    cases = [case for case in scripts("gridengine") if "hostname_localhost=True" not in case.values[0]]
    (tmp_path / "notebooks").mkdir()
    sources = {case.id: case.values[0].replace("command_line_argument_lst=[],", "") for case in cases}
    (tmp_path / "examples.json").write_text(json.dumps(sources))
    grid_engine.submit(ALL, tmp_path)
    assert json.loads(grid_engine.wait_for(tmp_path)) == {case.id: case.values[1] for case in cases}


@pytest.mark.mpi
def test_submission_script_prints_its_documented_output(grid_engine, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    script = tmp_path / "gridengine.sh"
    script.write_text(
        script.read_text().replace("python job.py", f"{sys.executable} job.py")
    )  # a login may find another
    variables = f"PYTHONPATH={Path(pympipool.__file__).parents[1]}"
    output = f"-o {tmp_path}/out -e {tmp_path}/err"
    grid_engine.run(f"cd {tmp_path} && env {variables} qsub {output} gridengine.sh")
    wait_until(lambda: not grid_engine.run("qstat"), JOB_S)
    printed = (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    assert printed == "backend gridengine with 4 cores\n[3, 4, 5, 6]\n[(3, 2, 0), (3, 2, 1)]\n"


HELD = """
import time
from pathlib import Path
from pympipool import Executor
if __name__ == "__main__":
    exe = Executor()
    for _ in range(4):
        exe.submit(time.sleep, 600)
    while len(exe.info["workers"]) < 4:
        time.sleep(0.01)
    Path("served").touch()
    time.sleep(600)
"""


def test_deleted_job_leaves_nothing(grid_engine, tmp_path):
    number = grid_engine.submit(HELD, tmp_path)
    wait_until((tmp_path / "served").exists, JOB_S)
    assert grid_engine.left() != []
    grid_engine.run(f"qdel {number}")
    wait_until(lambda: not grid_engine.left())

"""The end of a job is announced by a signal: what runs ends, and the rest is handed back to the script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.slurm_cluster import MODES
from support.waiting import wait_until

SCRIPT = """\
#!{python}
#SBATCH --nodes=2
#SBATCH --exclusive
import pathlib, signal, socket
from pympipool import Executor
from pympipool.errors import DrainedError
from support.calls import hold

def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()

if __name__ == "__main__":
    with Executor(backend="slurm", max_cores=16, threads_per_core=8, block_allocation={block_allocation}) as exe:
        signal.signal(signal.SIGUSR1, lambda *_: exe.drain())
        calls = [exe.submit(hold_on_host, {gate!r}) for _ in range(40)]
        last = calls[-1].exception()
        pathlib.Path("handed-back").touch()
        ended = [call.result() for call in calls if not isinstance(call.exception(), DrainedError)]
    print(sorted(ended), last)
"""


@MODES
def test_signal_of_the_scheduler_drains_the_script(cluster, second_host, gate, tmp_path, block_allocation):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(python=sys.executable, gate=gate.path, block_allocation=block_allocation))
    tests = Path(__file__).parents[1]
    with subprocess.Popen(
        ["sbatch", "--wait", "--parsable", "--output=out", "--error=err", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as sbatch:
        assert sbatch.stdout is not None
        job = sbatch.stdout.readline().strip()
        gate.wait_until_begun(2)
        cluster.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@120 does
        wait_until((tmp_path / "handed-back").exists)
        gate.open(2)
        assert sbatch.wait(60) == 0, (tmp_path / "err").read_text()
    expected = sorted([cluster.first, str(cluster.second)])
    said = "hold_on_host() has not begun: its executor was drained; 38 calls are left: hold_on_host() 38 times"
    assert (tmp_path / "err").read_text() == ""
    assert (tmp_path / "out").read_text() == f"{expected} {said}\n"

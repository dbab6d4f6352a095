"""The SLURM of the tests: starts, damages and repairs it (see `tests/slurm/start-slurm`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from support.processes import MARK, children_named, is_alive
from support.waiting import wait_until

WANTED = "PYMPIPOOL_TEST_SLURM"
"""Environment variable that enables tests with SLURM. They take minutes; as root they install and start a SLURM."""

SCRIPTS = Path(__file__).parents[1] / "slurm"
START_S = 600  # includes the installation of packages
NO_PACKAGES, ONE_RUNS = "apt-get install", "another SLURM for tests"  # of the last output of start-slurm
END_S = 60


def why_no_cluster() -> str | None:
    """Return the reason why no SLURM can be started here, or None."""
    if os.geteuid() != 0:
        return "a SLURM for tests is started by root only: sudo python -m pytest tests/slurm"
    if shutil.which("apt-get") is None and shutil.which("slurmctld") is None:
        return "no slurmctld here, and no apt-get to install it: install SLURM's daemons, or use Debian or Ubuntu"
    return None


class NoClusterError(Exception):
    """SLURM cannot be installed here."""


def everything_is_wanted() -> bool:
    """Return True if tests/executor runs with workers on either host."""
    return os.environ.get(WANTED) == "all"


LONG = pytest.mark.skipif(not everything_is_wanted(), reason="takes long: make test-slurm")

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])
EITHER_MODE = pytest.mark.parametrize(
    "block_allocation", [True, pytest.param(False, marks=LONG)], ids=["block_allocation", "single"]
)
"""For tests that take long: of both modes only if everything is wanted."""


def sruns() -> list[psutil.Process]:
    """Return our children that are srun. Questions to the controller are children, too, and end at any moment."""
    return children_named("srun")


def environment_of_daemons() -> dict[str, str]:
    """Return the environment without the mark of processes that tests start: daemons run until the last test."""
    return {name: value for name, value in os.environ.items() if name != MARK}


def folder_of(pid: int | str) -> Path:
    """Return the folder of the cluster of a test process. It is near the root: names of sockets must be short."""
    return Path("/tmp") / f"pympipool-slurm-{pid}"


def stop_forgotten_clusters() -> None:
    """Stop the clusters of killed test runs. There can be one cluster at a time."""
    for folder in Path("/tmp").glob(folder_of("[0-9]*").name):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            Cluster(folder).stop()


class Cluster:
    """One SLURM in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = str(folder / "slurm.conf")
        self.first = os.uname().nodename.split(".")[0]
        self.second: str | None = "node2"
        self.why_no_second = ""
        self.names = (self.first, "node2", *(("node3", "node4") if everything_is_wanted() else ()))
        """All hosts. The third and fourth get jobs of the partition "all" only."""

    def start(self) -> None:
        """Start all hosts, or one where no other can be made."""
        try:
            self._start(len(self.names))
        except subprocess.CalledProcessError as error:
            why = error.stdout.strip().splitlines()[-1]
            if NO_PACKAGES in error.stdout:
                raise NoClusterError(why) from error
            if ONE_RUNS in error.stdout:
                raise RuntimeError(why) from error
            self.second, self.why_no_second, self.names = None, why, (self.first,)
            self._start(1)

    def _start(self, nodes: int) -> None:
        subprocess.run(
            [SCRIPTS / "start-slurm", self.folder],
            env={**environment_of_daemons(), "SLURM_TEST_NODES": str(nodes)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_S,
            check=True,
        )

    def stop(self) -> None:
        subprocess.run([SCRIPTS / "stop-slurm", self.folder], stdin=subprocess.DEVNULL, timeout=START_S, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program of SLURM and return its output."""
        return subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": self.conf},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        ).stdout

    def allocate(self, host: str = "", partition: str = "test") -> str:
        """Allocate a job with all cores and GPUs, of one host or of all of a partition, and return its number."""
        hosts = self.names if partition == "all" else self.names[:2]
        nodes = 1 if host else len(hosts)
        place = [f"--partition={partition}", f"--nodes={nodes}", *([f"--nodelist={host}"] if host else [])]
        done = subprocess.run(
            ["salloc", "--no-shell", "--exclusive", "--gres=gpu:2", "--no-kill", *place],
            env={**os.environ, "SLURM_CONF": self.conf},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stderr.split("Granted job allocation")[1].split()[0]

    def kill_controller(self) -> None:
        """Kill slurmctld, and wait until it is gone."""
        pid = (self.folder / "slurmctld.pid").read_text().strip()
        os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not is_alive(int(pid)))  # process 1 of a container may never reap it

    def start_controller(self) -> None:
        """Start slurmctld again."""
        environment = {**environment_of_daemons(), "SLURM_CONF": self.conf}
        subprocess.run(["slurmctld", "-f", self.conf], env=environment, check=True, timeout=60)

    # ---- the second host ----

    def on_second(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the second host."""
        return self.on("node2", *command, **options)

    def on(self, host: str, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on another host than the first."""
        return subprocess.run(
            ["nsenter", "-a", "-t", (self.folder / f"{host}.pid").read_text().strip(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def _second_pid(self) -> str:
        return (self.folder / "node2.pid").read_text().strip()

    def cut_off(self) -> None:
        """Cut the network of the second host."""
        subprocess.run(["ip", "link", "set", "slurm0p2", "down"], check=True, timeout=60)

    def connect_again(self) -> None:
        """End a `cut_off`."""
        subprocess.run(["ip", "link", "set", "slurm0p2", "up"], check=True, timeout=60)

    def end_second(self) -> None:
        """End the second host with everything on it."""
        os.kill(int(self._second_pid()), 15)

    def repair(self) -> None:
        """Restore network and second host after a test has damaged them."""
        if self.second is None:
            return
        if not is_alive(int((self.folder / "slurmctld.pid").read_text())):
            self.start_controller()
        subprocess.run(["ip", "link", "set", "slurm0p2", "up"], check=False, timeout=60, capture_output=True)
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False)
        if not os.path.exists(f"/proc/{self._second_pid()}") or "down" in states or "*" in states:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scontrol", "update", f"NodeName={self.second}", "State=RESUME")
            self._start(len(self.names))

    def wait_until_empty(self) -> str:
        """Wait until there are no jobs and steps, and return those that stay."""
        deadline = time.monotonic() + END_S
        while True:
            left = self.run("squeue", "-h", "-o", "%i %j %T") + self.run("squeue", "-h", "-s", "-o", "%i %j")
            left = "".join(line + "\n" for line in left.splitlines() if not line.strip().endswith("extern"))
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)  # SLURM offers no event to wait for


@pytest.fixture(scope="session")
def running_cluster():
    problem = why_no_cluster()
    if problem:
        pytest.skip(problem)
    stop_forgotten_clusters()
    cluster = Cluster(folder_of(os.getpid()))
    try:
        cluster.start()
        yield cluster
    except NoClusterError as error:
        pytest.skip(f"SLURM's packages cannot be installed: {error}")
    finally:
        cluster.stop()

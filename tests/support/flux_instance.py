"""Real flux instances for the tests, of one or several brokers on this host.

They pretend to have more cores than there are, and GPUs. An instance lives as long as its first program, which reads
a named pipe that only the tests have open for writing. So the instance ends when the tests end, in whatever way.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import pympipool
from support.processes import MARK

START_S = 60
END_S = 60

CONFIGURATION = """
[resource]
path = "{folder}/R"
noverify = true
"""

BINDS_TO_NO_CORE = """
source("{default}")
shell.options["cpu-affinity"] = "off"
"""
"""Settings of flux's shell, which would complain about cores that do not exist."""

NAMES_HOST = """#!/bin/sh
[ -n "$PMI_RANK" ] || exec "$@"
exec unshare --uts sh -c 'hostname "flux$0" && exec "$@"' "$PMI_RANK" "$@"
"""
"""A program that runs a broker under a host name of its own: flux0, flux1, ..."""

FIRST_PROGRAM = 'echo "$FLUX_URI" > {folder}/uri.new && mv {folder}/uri.new {folder}/uri && cat {folder}/life'


@functools.cache
def why_no_flux_here() -> str | None:
    """Return the reason why no flux instance can be started here, or None."""
    if shutil.which("flux") is None:
        return (
            "no program 'flux' in PATH: install flux-core (conda install -c conda-forge flux-core) and run the tests in"
            " its environment"
        )
    if importlib.util.find_spec("flux") is None:
        sys.path += python_path().split(os.pathsep)
    try:
        importlib.import_module("flux.job")
    except ImportError as error:
        return f"flux's Python bindings cannot be imported by {sys.executable} ({error}): use the Python they belong to"
    return None


@functools.cache
def python_path() -> str:
    """Return the path of the bindings that came with the program `flux`."""
    return _ask("config", "builtin", "python_path")


def path_for_scripts() -> str:
    """Return the PYTHONPATH of a script that imports pympipool and flux's bindings."""
    return os.pathsep.join([str(Path(pympipool.__file__).parents[1]), python_path()])


def _ask(*arguments: str) -> str:
    """Run flux outside of any instance and return its output."""
    return subprocess.run(
        ["flux", *arguments], capture_output=True, text=True, timeout=START_S, check=True
    ).stdout.strip()


class FluxInstance:
    """A flux instance in a folder of its own.

    Args:
        folder: Folder of its files; it is created.
        brokers: Number of brokers, each with `cores` cores and two GPUs.
        cores: Number of cores of each broker.
        configuration: Further lines of its configuration, in TOML.
        on_hosts: Each broker has a host name of its own. Only root can do that.
    """

    def __init__(
        self, folder: Path, brokers: int, cores: int = 8, configuration: str = "", *, on_hosts: bool = False
    ) -> None:
        self.folder = folder
        self.brokers = brokers
        self.cores = cores
        self.configuration = configuration
        self.names = [f"flux{rank}" if on_hosts else os.uname().nodename for rank in range(brokers)]
        self.on_hosts = on_hosts
        self.uri = ""
        self._life: int | None = None

    def start(self) -> None:
        """Start it, detached from this process, and wait until jobs can be submitted."""
        self.folder.mkdir(parents=True)
        initrc = self.folder / "initrc.lua"
        initrc.write_text(BINDS_TO_NO_CORE.format(default=_ask("config", "builtin", "shell_initrc")))
        (self.folder / "flux.toml").write_text(CONFIGURATION.format(folder=self.folder) + self.configuration)
        ranks, cores = f"-r{_first(self.brokers)}", f"-c{_first(self.cores)}"
        resources = _ask("R", "encode", ranks, cores, "-g0-1", f"-H{','.join(self.names)}")
        (self.folder / "R").write_text(resources)
        os.mkfifo(self.folder / "life")
        self._life = os.open(self.folder / "life", os.O_RDWR | os.O_CLOEXEC)
        options = f"-s{self.brokers} --config-path={self.folder} -Sconf.shell_initrc={initrc}"
        if self.on_hosts:
            (self.folder / "wrap").write_text(NAMES_HOST)
            (self.folder / "wrap").chmod(0o755)
            options += f" --wrap={self.folder}/wrap"
        start = f"flux start {options} sh -c '{FIRST_PROGRAM}'"
        script = f"{start.format(folder=self.folder)} >{self.folder}/log 2>&1 & echo $! >{self.folder}/pid"
        subprocess.run(
            ["setsid", "sh", "-c", script],
            env=_environment_of_brokers(),
            stdin=subprocess.DEVNULL,
            timeout=START_S,
            check=True,
        )
        self._wait_for((self.folder / "uri").exists, START_S)
        self.uri = (self.folder / "uri").read_text().strip()

    def stop(self) -> None:
        """Stop it and wait for its end."""
        if self._life is not None:
            os.close(self._life)
            self._life = None
            if (self.folder / "pid").exists():
                self._wait_for(lambda: not _is_running(self.pid), END_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill its brokers."""
        for pid in self.broker_pids():
            os.kill(pid, signal.SIGKILL)

    def broker_pids(self) -> list[int]:
        """Return the process ids of its brokers."""
        return [process.pid for process in psutil.Process(self.pid).children()] or [self.pid]

    @property
    def pid(self) -> int:
        """Process id of `flux start`."""
        return int((self.folder / "pid").read_text())

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run flux in the instance and return its output."""
        return subprocess.run(
            ["flux", *arguments],
            env={**os.environ, "FLUX_URI": self.uri},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        ).stdout

    def active_jobs(self) -> list[str]:
        """Return state, id and name of the jobs that have not ended."""
        return self.run("jobs", "-n", "--filter=pending,running", "-o", "{status_abbrev} {id} {name}").splitlines()

    def wait_for_jobs(self, state: str, number: int = 1) -> list[str]:
        """Wait until this many jobs are in a state ("D": waits for others, "S": in the queue, "R": runs); return their ids."""
        deadline = time.monotonic() + END_S
        while True:
            jobs = self.active_jobs()
            found = [job.split()[1] for job in jobs if job.startswith(f"{state} ")]
            if len(found) == number:
                return found
            assert time.monotonic() < deadline, jobs
            time.sleep(0.05)  # flux offers no event to wait for

    def wait_until_empty(self) -> list[str]:
        """Wait until there are no jobs, and return those that stay."""
        deadline = time.monotonic() + END_S
        while (jobs := self.active_jobs()) and time.monotonic() < deadline:
            time.sleep(0.05)  # flux offers no event to wait for
        return jobs

    def _wait_for(self, condition, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)  # a process that is not our child cannot be waited for


def _first(number: int) -> str:
    """Return the first ids in the notation of flux."""
    return f"0-{number - 1}" if number > 1 else "0"


def _environment_of_brokers() -> dict[str, str]:
    """Return the environment without the mark of the tests, and without variables of another instance."""
    return {name: value for name, value in os.environ.items() if name != MARK and not name.startswith("FLUX_")}


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def make_instance(tmp_path_factory):
    problem = why_no_flux_here()
    if problem:
        pytest.skip(problem)
    instances = []

    def make(brokers, cores=8, configuration="", **options):
        folder = tmp_path_factory.mktemp("flux") / "instance"
        instances.append(FluxInstance(folder, brokers, cores, configuration, **options))
        instances[-1].start()
        return instances[-1]

    yield make
    for instance in instances:
        instance.stop()


@pytest.fixture(scope="session")
def running_one_broker(make_instance):
    return make_instance(1)


@pytest.fixture(scope="session")
def running_two_brokers(make_instance):
    return make_instance(2, cores=4)

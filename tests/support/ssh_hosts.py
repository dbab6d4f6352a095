"""Hosts on this machine that are reached by ssh: starts, damages and repairs them (see `tests/hosts/start-hosts`)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.processes import MARK
from support.waiting import wait_until

WANTED = "PYMPIPOOL_TEST_HOSTS"
"""Environment variable with which tests install what hosts need."""

SCRIPTS = Path(__file__).parents[1] / "hosts"
START_S = 600  # includes the installation of packages
NAMES = ("hosta", "hostb")
SLOTS = 4
"""Slots that tests use on each host."""


def why_no_hosts() -> str | None:
    """Return the reason why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "hosts for tests are made by root only: sudo make test-hosts"
    if os.environ.get(WANTED):
        return None
    if not Path("/usr/sbin/sshd").exists() or shutil.which("ip") is None:
        return "no sshd or no `ip` here: make test-hosts installs them, as root on Debian or Ubuntu"
    return None


def folder_of(pid: int | str) -> Path:
    """Return the folder of the hosts of a test process."""
    return Path("/tmp") / f"pympipool-hosts-{pid}"


class Hosts:
    """Two hosts with an sshd each, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = NAMES
        self.ssh_arguments = ["-F", str(folder / "ssh_config")]
        self.with_slots = [f"{name}:{SLOTS}" for name in NAMES]

    def start(self) -> None:
        """Start the hosts, or those that have ended."""
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        done = subprocess.run(
            [SCRIPTS / "start-hosts", self.folder, *NAMES],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout.strip().splitlines()[-1])

    def repair(self) -> None:
        """Start ended hosts, and connect those that were cut off."""
        links = [Path(f"/sys/class/net/pmp{number}/operstate") for number in range(1, len(NAMES) + 1)]
        are_up = all(link.exists() and link.read_text().strip() == "up" for link in links)
        if not are_up or not all(Path("/proc", self._init_pid(name)).exists() for name in NAMES):
            self.start()

    def stop(self) -> None:
        subprocess.run([SCRIPTS / "stop-hosts", self.folder], stdin=subprocess.DEVNULL, timeout=60, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _init_pid(self, name: str) -> str:
        return (self.folder / f"{name}.pid").read_text().strip()

    def run(self, name: str, *command: str, check: bool = True) -> str:
        """Run a command on a host and return its output."""
        return subprocess.run(
            ["nsenter", "-a", "-t", self._init_pid(name), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        ).stdout

    def processes(self, name: str) -> dict[int, str]:
        """Return the command lines of all processes of a host but its own, by their ids on this machine."""
        init = Path("/proc", self._init_pid(name))
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                is_there = os.readlink(entry / "ns/pid") == os.readlink(init / "ns/pid")
                is_zombie = b") Z" in (entry / "stat").read_bytes()
            except OSError:  # it has ended
                continue
            if is_there and not is_zombie and entry != init and command and "sshd" not in command.split()[0]:
                found[int(entry.name)] = command
        return found

    def left(self) -> list[str]:
        """Return what runs on the hosts."""
        return [command for name in NAMES for command in self.processes(name).values()]

    def agent(self, name: str) -> int:
        """Return the id on this machine of the agent of a host: the process that has a fork of itself as its child."""
        agents = sorted(pid for pid, command in self.processes(name).items() if command.endswith("pympipool_agent "))
        parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in agents}
        return next(pid for pid in agents if parents[pid] not in agents)

    def cut_off(self, name: str) -> None:
        """Cut the network of a host."""
        subprocess.run(["ip", "link", "set", f"pmp{NAMES.index(name) + 1}", "down"], check=True, timeout=60)

    def end(self, name: str) -> None:
        """End a host with everything on it."""
        os.kill(int(self._init_pid(name)), signal.SIGTERM)
        wait_until(lambda: not Path("/proc", self._init_pid(name)).exists())


@pytest.fixture(scope="session")
def running_hosts():
    problem = why_no_hosts()
    if problem:
        pytest.skip(problem)
    for folder in Path("/tmp").glob(folder_of("[0-9]*").name):  # of killed test runs
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            Hosts(folder).stop()
    hosts = Hosts(folder_of(os.getpid()))
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()

"""The file by which further hosts join an executor: what `pympipool join` needs to start an agent that its master expects.

    Executor.write_join_file ──> JoinFile ── address, key, environment ──> `pympipool join FILE` on another host ──> agent

Who can read it can run code as its owner, so only the owner can. It is written again when the address changes, and removed with
the executor.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pympipool._util.service_threads import ServiceLogger
from pympipool.backends.hosts import remote_program
from pympipool.backends.hosts.schedulers import SCHEDULERS

LOGGER = ServiceLogger("pympipool.backends")

OF_A_JOB = ("SLURM_", "SLURMD_", "PBS_", "LSB_", "SGE_", "PMI", "FLUX_")
"""Prefixes of variables that tell of the job that a process runs in. An agent that joins keeps those of its own job."""

OF_GRID_ENGINE = {"JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NSLOTS", "NHOSTS", "NQUEUES", "PE", "PE_HOSTFILE", "QUEUE"}
"""The same of Grid Engine, which have no prefix."""


class JoinFile:
    """Such a file of one executor.

    Args:
        path: Its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser().absolute()
        self._written: Mapping[str, str] | None = None
        self._identity: tuple[int, int] | None = None  # of the file that was written
        self._has_failed = False  # to be written again

    def write(self, environment: Mapping[str, str]) -> None:
        """Write what agents need, if it is not there yet.

        Args:
            environment: The environment of an agent, with the addresses and the key of its master.

        Raises:
            OSError: It cannot be written, or the file is another executor's by now.
        """
        if environment == self._written:
            return
        if self._identity is not None and not self._is_own():
            raise FileExistsError(f"{self._path} was written anew by another program")
        settings = remote_program.settings(environment)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o600)  # it may have been there
                json.dump(settings, file)
                status = os.fstat(descriptor)
            os.replace(temporary, self._path)  # at once: who reads it finds a whole one
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._written, self._identity = environment, (status.st_dev, status.st_ino)

    def update(self, environment: Mapping[str, str]) -> None:
        """Write what agents need by now; warn once if that fails, and try it again with the next call."""
        try:
            self.write(environment)
        except OSError as error:
            if not self._has_failed:
                LOGGER.warning("no more hosts can join by %s: %s", self._path, error)
            self._has_failed = True
        else:
            self._has_failed = False

    def _is_own(self) -> bool:
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) == self._identity

    def remove(self) -> None:
        """Remove the file, if it is there and no other executor has written it meanwhile."""
        with contextlib.suppress(OSError):
            if self._is_own():
                self._path.unlink()


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a join file says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file, or others can write or read it: it says which programs are run.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError(
                f"{path} is not a file that only you can read and write, so somebody else may have made it"
            )
        text = file.read()
    try:
        settings: dict[str, Any] = json.loads(text)
        if {"environment", "kept", "python", "version"} <= settings.keys():
            return settings
    except (ValueError, AttributeError):  # no JSON, or no object
        pass
    raise ValueError(f"{path} is no file that Executor.write_join_file has written")


def settings_here(settings: Mapping[str, Any], environ: Mapping[str, str], cores: int | None) -> dict[str, Any]:
    """Return the settings of an agent in this process's job.

    Args:
        settings: What the file says.
        environ: The environment of this process.
        cores: The number of cores for workers; None: those that the agent may use.
    """
    # An executor in a call is not to use all of the job.
    hidden = {name for scheduler in SCHEDULERS.values() for name in scheduler.variables}
    own = [name for name in environ if _is_of_a_job(name) and name not in hidden]
    environment = {name: value for name, value in settings["environment"].items() if not _is_of_a_job(name)}
    kept = [*settings["kept"], *own]
    return {**settings, "environment": environment, "kept": kept, "slots": cores, "is_joining": True}


def _is_of_a_job(name: str) -> bool:
    return name.startswith(OF_A_JOB) or name in OF_GRID_ENGINE

"""The file by which further hosts join an executor: what `pympipool join` needs to start an agent that its master expects.

    Executor.write_join_file ──> JoinFile ── address, key, environment ──> `pympipool join FILE` on another host ──> agent

Who can read it can run code as its owner, so only the owner can. It is written again when the address changes, and removed with
the executor.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pympipool.backends.hosts import remote_program

OF_A_JOB = ("SLURM_", "SLURMD_", "PBS_", "LSB_", "SGE_", "PMI", "FLUX_")
"""Prefixes of variables that tell of the job that a process runs in. An agent that joins keeps those of its own job."""


class JoinFile:
    """Such a file of one executor.

    Args:
        path: Its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser().absolute()
        self._written: Mapping[str, str] | None = None

    def write(self, environment: Mapping[str, str]) -> None:
        """Write what agents need, if it is not there yet.

        Args:
            environment: The environment of an agent, with the addresses and the key of its master.

        Raises:
            OSError: It cannot be written.
        """
        if environment == self._written:
            return
        settings = remote_program.settings(environment)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o600)  # it may have been there
                json.dump(settings, file)
            os.replace(temporary, self._path)  # at once: who reads it finds a whole one
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._written = environment

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a join file says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file.
    """
    text = Path(path).read_bytes()
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
    own = [name for name in environ if name.startswith(OF_A_JOB)]
    environment = {name: value for name, value in settings["environment"].items() if not name.startswith(OF_A_JOB)}
    kept = [*settings["kept"], *own]
    return {**settings, "environment": environment, "kept": kept, "slots": cores, "is_joining": True}

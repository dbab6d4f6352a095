"""How one program is started on one host, with an input: by ssh, by mpiexec or qrsh in a job, or directly on this host."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pympipool.backends.agent.launch import END_TIMEOUT_S
from pympipool.backends.hosts.remote_start import INPUT_TAKEN, NOT_USABLE
from pympipool.backends.mpi_library import Kind, find_any_launcher
from pympipool.errors import WorkerStartError

CONNECT_TIMEOUT_S = 15
"""Seconds that ssh may take to connect; usually it takes some tenths."""

ALIVE_INTERVAL_S = 5
"""Interval at which ssh asks a silent host if it is there."""

_SSH_FAILED = 255
"""Exit code of ssh for its own failures."""

_MISSING = (126, 127)
"""Exit codes of a shell, or of env, for a program that does not exist or cannot be started."""

_FINAL_ERRORS = (
    "Permission denied",
    "Host key verification failed",
    "Could not resolve hostname",
    "Bad owner or permissions",
    "command-line",
    "no such identity",
)
"""Parts of ssh's messages after which another try is of no use."""


class Shell(ABC):
    """A way to start one program on one host.

    Attributes:
        name: Its name in messages.
        needs_exit_code: True if a program that a signal ends would have the whole job ended.
        end_timeout_s: Seconds that it may take to end after its program.
    """

    name: str
    needs_exit_code = False
    end_timeout_s = END_TIMEOUT_S

    @abstractmethod
    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """Return the command that starts a program on a host.

        Args:
            host: The host's name.
            words: The program and its arguments.

        Raises:
            WorkerStartError: The program that starts others is not there.
        """

    def failure_reason(self, host: str, exit_code: int | None, last_stderr: Sequence[str]) -> str:
        """Return why a program did not start, as a sentence with a remedy where there is one."""
        if exit_code == NOT_USABLE and last_stderr:
            return last_stderr[-1]
        if exit_code in _MISSING and last_stderr:
            return (
                f"Python does not start on host {host}: {last_stderr[-1]}; it must be there at the same path as here, for"
                " example in a folder that the hosts share"
            )
        if exit_code == INPUT_TAKEN:
            return (
                f"the login on host {host} reads the input of the program that {self.name} starts there: have ~/.bashrc and its"
                " relatives read input in a terminal only (`[ -t 0 ]`)"
            )
        silent = "" if last_stderr else f": it has ended with exit code {exit_code}, and has said nothing"
        return f"{self.name} does not start an agent on host {host}{silent}"

    def is_final(self, exit_code: int | None, last_stderr: Sequence[str]) -> bool:
        """Return True if another try would fail in the same way."""
        return exit_code in (NOT_USABLE, INPUT_TAKEN, *_MISSING)

    def outage(self, host: str, exit_code: int | None, last_stderr: Sequence[str]) -> str | None:
        """Return what does not work for now, as a sentence; None: something else."""
        return None


class Ssh(Shell):
    """OpenSSH's client. It asks nothing, forwards nothing, and opens a connection of its own.

    Args:
        arguments: Options of the user, which come first and so take precedence.
    """

    name = "ssh"

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._arguments = arguments

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        if shutil.which("ssh") is None:
            raise WorkerStartError(
                f"host {host} is reached by the program 'ssh', which is not in PATH: install OpenSSH"
            )
        options = (
            "BatchMode=yes",
            "ClearAllForwardings=yes",
            "ControlMaster=no",
            "ControlPath=none",
            f"ConnectTimeout={CONNECT_TIMEOUT_S}",
            f"ServerAliveInterval={ALIVE_INTERVAL_S}",
        )
        flags = [word for option in options for word in ("-o", option)]
        # One word: the login shell of the user there splits it again, and exec leaves no shell behind.
        return ["ssh", *self._arguments, "-x", "-a", "-T", *flags, "--", host, f"exec {shlex.join(words)}"]

    def failure_reason(self, host: str, exit_code: int | None, last_stderr: Sequence[str]) -> str:
        if exit_code != _SSH_FAILED or not last_stderr:
            return super().failure_reason(host, exit_code, last_stderr)
        return (
            f"ssh does not reach host {host}: {last_stderr[-1]}; `ssh -o BatchMode=yes {host} true` must work without a"
            " question, with a key that needs no passphrase or is in an ssh-agent"
        )

    def is_final(self, exit_code: int | None, last_stderr: Sequence[str]) -> bool:
        is_final = exit_code == _SSH_FAILED and any(text in line for line in last_stderr for text in _FINAL_ERRORS)
        return is_final or super().is_final(exit_code, last_stderr)

    def outage(self, host: str, exit_code: int | None, last_stderr: Sequence[str]) -> str | None:
        if exit_code != _SSH_FAILED or self.is_final(exit_code, last_stderr):
            return None
        return f"host {host} does not answer"


class Mpiexec(Shell):
    """The mpiexec of the site, which knows how to reach the hosts of a job.

    Raises:
        WorkerStartError: There is no mpiexec.
    """

    name = "mpiexec"

    def __init__(self) -> None:
        self._launcher = find_any_launcher()

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        path, kind = self._launcher
        if kind is Kind.OPEN_MPI:
            options = ["--host", host, "--bind-to", "none", *(["--allow-run-as-root"] * (os.geteuid() == 0))]
        else:
            options = ["-hosts", host]
        return [path, *options, "-n", "1", *words]


class Qrsh(Shell):
    """The remote shell of Grid Engine, inside a parallel job.

    Grid Engine ends the job if a signal ends one of its programs, and so if qrsh is killed before its program has ended.
    """

    name = "qrsh"
    needs_exit_code = True
    end_timeout_s = 10.0

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        return ["qrsh", "-inherit", "-noshell", host, *words]


class Direct(Shell):
    """Starts a program on this host."""

    name = "this host"

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        return [*words]


def is_this_host(name: str) -> bool:
    """Return True if this is a name of this host, with its domain or without.

    Examples:
        >>> is_this_host("localhost"), is_this_host("somebody@localhost")
        (True, False)
    """
    own = socket.gethostname()
    short, _, domain = name.partition(".")
    own_short, _, own_domain = own.partition(".")
    return name in ("localhost", own) or (short == own_short and not (domain and own_domain))

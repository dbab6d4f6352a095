"""A worker whose process is a child of the master.

The child leads a session of its own. So Ctrl-C in the user's terminal does not reach it (the master decides what
becomes of workers), and it can be killed together with all that it has started.

After its end the child stays a zombie until `close`. As long as it is a zombie, its process id cannot belong to another
process, and a signal to its group cannot hit a stranger.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import BinaryIO, cast

from pympipool._util import exit_codes, subprocesses
from pympipool._util.platform import HAS_WAITID
from pympipool.backends.spawner import WorkerProcess
from pympipool.errors import WorkerStartError

POLL_INTERVAL_S = 0.01
"""Interval between two checks of a child for which the system has no descriptor, while its end is waited for."""

_LONGEST_POLL_S = 3600.0
"""Longest wait for a descriptor at once: `poll` takes milliseconds in an int."""


class ChildProcess(WorkerProcess):
    """A command that runs as a worker's process.

    Args:
        command: Program and arguments.
        environment: The whole environment of the process.
        cwd: The folder that it runs in; None: the master's.
        stdin: What it reads, as for `subprocess.Popen`.

    Raises:
        WorkerStartError: The system cannot start the command.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None,
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        try:
            self._process = subprocesses.Popen(
                command,
                bufsize=0,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise WorkerStartError(subprocesses.start_failure(command[0], cwd, error)) from error
        self.pid = self._process.pid
        self.host = socket.gethostname()
        self.stdout = cast(BinaryIO, self._process.stdout)
        self.stderr = cast(BinaryIO, self._process.stderr)
        self._descriptor: int | None = None
        self._exit_code: int | None = None
        try:
            os.set_blocking(self.stdout.fileno(), False)
            os.set_blocking(self.stderr.fileno(), False)
            self._descriptor = exit_codes.open_pidfd(self.pid)
        except BaseException:  # no memory, for example: nothing else would end it
            ChildProcess.kill(self)
            ChildProcess.close(self)
            raise

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable at the end; None where the system has no pidfd."""
        return self._descriptor

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if self._exit_code is None:
            self._exit_code = self._poll_exit_code()
        return self._exit_code

    def _poll_exit_code(self) -> int | None:
        """Return the exit code, and leave the zombie in place where the system can do that."""
        if self._process.returncode is not None or not HAS_WAITID:
            return self._process.poll()
        try:
            end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # other code in this program has waited for it, or SIGCHLD is ignored
            code = exit_codes.exit_code_of_reaped(self._descriptor)
            self.exit_code_is_known = code != exit_codes.UNKNOWN
            return code
        if end is None:
            return None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None on timeout."""
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        poll = select.poll()
        if self._descriptor is not None:
            poll.register(self._descriptor, select.POLLIN)
        while self.poll() is None:
            remaining_s = _LONGEST_POLL_S if deadline_s is None else deadline_s - monotonic()
            if remaining_s <= 0:
                break
            limit_s = POLL_INTERVAL_S if self._descriptor is None else _LONGEST_POLL_S
            poll.poll(min(remaining_s, limit_s) * 1000)
        return self._exit_code

    def terminate(self) -> None:
        """Ask the process, and what it has started, to end (SIGTERM)."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and what it has started, even after its own end. Does nothing after `close`."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        if self._process.returncode is None:  # not waited for yet, so the id still belongs to the child
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Release process id, descriptor and pipes. A process that SIGKILL does not end is reaped later."""
        subprocesses.reap_later(self._process)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self.stdout.close()
        self.stderr.close()

"""A worker that is more than a fork: an MPI job on the host of an agent, or a fresh interpreter.

    forkserver ── fork ──> this process ── starts ──> mpiexec ── starts ──> ranks
                               └── after the end: removes what killed ranks have left in /dev/shm

The command comes in the environment. This process lives as long as mpiexec, ends it when the master asks for it (SIGTERM), and
exits like it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

END_TIMEOUT_S = 1
"""Seconds that mpiexec may take to end its ranks and itself; usually it takes some hundredths."""

CLEANUP_TIMEOUT_S = 10
"""Seconds that the removal of files may take."""


def run(job: str) -> NoReturn:
    """Run a command to its end, and exit like it.

    Args:
        job: The command, and one that is run after it or None, as JSON.
    """
    command, cleanup = json.loads(job)
    process: subprocess.Popen[bytes] | None = None

    def end(number: int, _frame: FrameType | None) -> None:
        if process is None:
            os._exit(128 + number)
        wanted = signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, wanted)
            os.killpg(process.pid, signal.SIGCONT)
        if wanted == signal.SIGTERM:
            signal.alarm(END_TIMEOUT_S)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the process is known
    try:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509  there is one thread
        )
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
        os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = process.wait()
    signal.alarm(0)
    if cleanup is not None and code != 0:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(cleanup, timeout=CLEANUP_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False)
    if code < 0:  # end in the same way
        with contextlib.suppress(OSError):  # SIGKILL has no other
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)

"""A worker that is more than a fork: an MPI job on the host of an agent, a part of one on several hosts, or a fresh interpreter.

    forkserver ── fork ──> this process ── starts ──> mpiexec ── starts ──> ranks
                               └── after the end: removes what killed ranks have left in /dev/shm

The command comes in the environment. This process lives as long as mpiexec, ends it when the master asks for it (SIGTERM) or the
agent is gone, and exits like it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING, NoReturn

from pympipool._core import ring
from pympipool._util import exit_codes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

END_TIMEOUT_S = 1
"""Seconds that mpiexec may take to end its ranks and itself; usually it takes some hundredths."""

POLL_INTERVAL_S = 0.2
"""Interval at which the program is looked at, where no descriptor stands for it."""

CLEANUP_TIMEOUT_S = 10
"""Seconds that the removal of files may take."""


def run(job: str, agent: Sequence[int] = ()) -> NoReturn:
    """Run a command to its end, and exit like it.

    Args:
        job: The command, one that is run after it or None, and the names of the command's variables or None, as JSON.
        agent: The descriptors of the connections to the agent.
    """
    command, cleanup, names = json.loads(job)
    environment = None if names is None else {name: os.environ[name] for name in names if name in os.environ}
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
    parent = os.getpid()

    def prepare() -> None:
        """Have the command end also when this process is killed: an mpiexec would wait for its proxies for ever."""
        ring.end_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=prepare,  # noqa: PLW1509  there is one thread
        )
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
        os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if agent_ends_before(process, agent):
        os.kill(os.getpid(), signal.SIGTERM)
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


def agent_ends_before(process: subprocess.Popen[bytes], agent: Sequence[int]) -> bool:
    """Wait until a process or the agent has ended; return True if the process runs on.

    Without its agent, a part of a job on several hosts would wait for other parts for ever.
    """
    poll = select.poll()
    for descriptor in agent:
        poll.register(descriptor, 0)  # hang-ups alone
    pidfd = exit_codes.open_pidfd(process.pid)
    if pidfd is not None:
        poll.register(pidfd, select.POLLIN)
    while process.poll() is None:
        if any(
            descriptor != pidfd for descriptor, _ in poll.poll(None if pidfd is not None else POLL_INTERVAL_S * 1000)
        ):
            return True
    return False

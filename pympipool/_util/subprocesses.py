"""Starts processes so that a fork elsewhere in the user's program cannot come in between.

Between the making of a pipe and the closing of the end that is the child's, a fork in another thread copies that end
too, and its child keeps it open: then whoever waits for the end of the pipe waits for the end of that process.
`subprocess` itself waits so, for its child's exec. multiprocessing forks in this way, and with it whoever uses its
pools beside an executor.

So whoever makes such pipes holds back forks meanwhile, for a millisecond or two.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Completed: TypeAlias = "subprocess.CompletedProcess[str]"

fork_lock = threading.RLock()
"""While a thread has this, forks of other threads wait."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=fork_lock.release)


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, during whose start nobody forks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with fork_lock:
            super().__init__(*args, **kwargs)


def popen_with_socket(
    command: Sequence[str], environment: Mapping[str, str], variable: str, *, stdout: int | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a process, in a session of its own and without input, that has the other end of a socket.

    Args:
        variable: Of its environment, that says which descriptor this is.
        stdout: As for `subprocess.Popen`.

    Raises:
        OSError: It cannot be started.
    """
    with fork_lock:  # until their end is closed here
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                env={**environment, variable: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
    return process, ours


def run(command: Sequence[str], *, timeout: float | None = None, stderr: int = subprocess.PIPE) -> Completed:
    r"""Runs a program without input and returns what it said as text; nobody forks during its start.

    Args:
        timeout: Seconds it may take.
        stderr: Where its error messages go, as for `subprocess.run`.

    Raises:
        subprocess.TimeoutExpired: It did not end in time; it is killed.
        OSError: It cannot be started.

    Examples:
        >>> run(["echo", "hello"]).stdout
        'hello\n'
    """
    process = Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace"
    )
    with process:
        try:
            said = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *said)

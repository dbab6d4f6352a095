"""Start processes so that a fork in another thread of the user's program cannot interfere.

A pipe to a child has an end that only the child should hold. If another thread forks between the creation of the pipe
and the closing of that end in this process, the forked process gets a copy of the end and keeps it open. A thread that
waits for the end of the pipe then waits until the forked process ends. `subprocess` itself waits in this way for its
child's exec. multiprocessing forks like this, and with it every program that uses its pools beside an executor.

So code that creates such pipes holds `fork_lock` meanwhile, which delays forks by a millisecond or two.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pympipool._util.exit_codes import UNKNOWN, exit_code_of_reaped, open_pidfd

Completed: TypeAlias = "subprocess.CompletedProcess[str]"

fork_lock = threading.RLock()
"""While a thread holds this lock, forks in other threads wait."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=fork_lock.release)


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, with forks in other threads delayed while the process starts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with fork_lock:
            super().__init__(*args, **kwargs)


def popen_with_socket(
    command: Sequence[str], environment: Mapping[str, str], variable: str, *, stdout: int | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process in a new session, without input, that is connected to this one by a socket.

    Args:
        command: Program and arguments.
        environment: The environment of the process.
        variable: Name of the environment variable that tells the process the descriptor of its end of the socket.
        stdout: As for `subprocess.Popen`.

    Returns:
        The process, and this end of the socket.

    Raises:
        OSError: The process cannot be started.
    """
    with fork_lock:  # until the child's end is closed here
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


def run(command: Sequence[str | bytes], *, timeout: float | None = None, stderr: int = subprocess.PIPE) -> Completed:
    r"""Run a program without input and return its output as text. Forks in other threads wait while it starts.

    Args:
        command: Program and arguments.
        timeout: Seconds that the program may take.
        stderr: Where its error messages go, as for `subprocess.run`.

    Raises:
        subprocess.TimeoutExpired: The program did not end in time. It has been killed.
        OSError: The program cannot be started.

    Examples:
        >>> run(["echo", "hello"]).stdout
        'hello\n'
    """
    process = Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace"
    )
    pidfd = open_pidfd(process.pid)
    try:
        with process:
            try:
                output = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        code = exit_code_of_reaped(pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if code is None or code == UNKNOWN:  # subprocess knows it, unless the user's program ignores SIGCHLD
        code = process.returncode
    return subprocess.CompletedProcess(command, code, *output)

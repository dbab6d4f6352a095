"""Start processes so that neither a fork in another thread of the user's program nor its signals can interfere.

A pipe to a child has an end that only the child should hold. If another thread forks between the creation of the pipe
and the closing of that end in this process, the forked process gets a copy of the end and keeps it open. A thread that
waits for the end of the pipe then waits until the forked process ends. `subprocess` itself waits in this way for its
child's exec. multiprocessing forks like this, and with it every program that uses its pools beside an executor.

So code that creates such pipes holds `fork_lock` meanwhile, which delays forks by a millisecond or two.

Signals that the calling thread has blocked, or that the program ignores, are reset in the new process (`signals.py`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, TypeAlias

from pympipool._util import signals
from pympipool._util.exit_codes import UNKNOWN, exit_code_of_reaped, open_pidfd
from pympipool._util.platform import on_fork

Completed: TypeAlias = "subprocess.CompletedProcess[str]"

END_TIMEOUT_S = 1.0
"""Seconds to wait for the end of a killed process; usually it takes milliseconds."""

fork_lock = threading.RLock()
"""While a thread holds this lock, forks in other threads wait."""

on_fork(before=fork_lock.acquire, in_parent=fork_lock.release, in_child=fork_lock.release)


_unreaped: list[subprocess.Popen[Any]] = []
"""Killed processes that have not ended yet."""


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, with forks in other threads delayed while the process starts, and with signals reset in it."""

    def __init__(self, command: Sequence[str | bytes], **kwargs: Any) -> None:
        with_reset = signals.reset_first(command)
        if with_reset is not command:
            from shutil import which  # only here: it brings three libraries for compression

            if which(os.fsdecode(command[0]), path=(kwargs.get("env") or os.environ).get("PATH")) is None:
                with_reset = command  # the error is to be that of the program itself
        reap_later()  # before the start: if it fails, nothing else would know the process
        with fork_lock:
            super().__init__(with_reset, **kwargs)


def reap_later(*killed: subprocess.Popen[Any]) -> None:
    """Reap killed processes that have ended by now, and keep the others until another process is started or given up.

    A process that hangs in the kernel ends only when its system call returns, which may be never.
    """
    with fork_lock:
        _unreaped[:] = [process for process in (*_unreaped, *killed) if process.poll() is None]


def end(process: subprocess.Popen[Any], timeout_s: float = END_TIMEOUT_S) -> None:
    """Kill a process and reap it; do not wait longer than timeout_s."""
    process.kill()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        reap_later(process)


def start_failure(program: str, cwd: str | None, error: Exception) -> str:
    """Return why a worker could not be started."""
    if cwd is not None and not os.path.isdir(cwd):
        return f"cannot start a worker in cwd={cwd!r}: there is no such folder"
    if isinstance(error, FileNotFoundError):
        return f"cannot start a worker: there is no program {program!r}"
    return f"cannot start a worker with {program!r}: {error}"


def popen_with_socket(
    command: Sequence[str],
    environment: Mapping[str, str],
    variable: str,
    *,
    stdout: int | None = None,
    stderr: IO[bytes] | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process in a new session, without input, that is connected to this one by a socket.

    Args:
        command: Program and arguments.
        environment: The environment of the process.
        variable: Name of the environment variable that tells the process the descriptor of its end of the socket.
        stdout: As for `subprocess.Popen`.
        stderr: As for `subprocess.Popen`.

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
                stderr=stderr,
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


def run(
    command: Sequence[str | bytes],
    *,
    timeout: float | None = None,
    stderr: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Completed:
    r"""Run a program without input and return its output as text. Forks in other threads wait while it starts.

    Ctrl-C, which comes in the main thread, does not wait for the program. A thread of its own ends it when its time is over.

    Args:
        command: Program and arguments.
        timeout: Seconds that the program may take.
        stderr: Where its error messages go, as for `subprocess.run`.
        env: Its environment. Default: that of this process.

    Raises:
        subprocess.TimeoutExpired: The program did not end in time. It has been killed.
        OSError: The program cannot be started.

    Examples:
        >>> run(["echo", "hello"]).stdout
        'hello\n'
    """
    if threading.current_thread() is not threading.main_thread():
        return _run(command, timeout, stderr, env)
    from pympipool._util.service_threads import ServiceThread  # workers run no programs, and need not import it

    outcome: list[Completed | BaseException] = []

    def run_here() -> None:
        try:
            outcome.append(_run(command, timeout, stderr, env))
        except BaseException as error:  # the main thread gets it
            outcome.append(error)

    thread = ServiceThread("pympipool_program", run_here, may_wait=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads
        return _run(command, timeout, stderr, env)
    thread.join()
    result = outcome.pop()
    if isinstance(result, BaseException):
        raise result
    return result


def _run(
    command: Sequence[str | bytes], timeout: float | None, stderr: int, env: Mapping[str, str] | None
) -> Completed:
    process = Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace", env=env
    )
    pidfd = open_pidfd(process.pid)
    try:
        try:
            output = process.communicate(timeout=timeout)
        except BaseException:
            end(process)  # it may hang in a driver: nvidia-smi does
            raise
        finally:
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        code = exit_code_of_reaped(pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if code is None or code == UNKNOWN:  # subprocess knows it, unless the user's program ignores SIGCHLD
        code = process.returncode
    return subprocess.CompletedProcess(command, code, *output)

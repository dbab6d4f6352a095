"""Every exception a user can see that Python does not have already.

Each stands under the standard library's exception for the same kind of trouble, so that code written for
`concurrent.futures` catches it without knowing pympipool:

    concurrent.futures.BrokenExecutor
        WorkerDied            a worker ended while it ran the call
        WorkerStartError      workers cannot be started at all
    pickle.PickleError
        SerializationError    arguments, a result or an exception cannot travel
    Exception
        RemoteError           stands for an exception that could not travel
        RemoteTraceback       the worker's traceback, as `__cause__` of an exception that did
        DependencyError       stands for the exception of a failed input that cannot be repeated

What a call raises arrives as it was raised, with its own type; a call that takes longer than its
`run_time_max` fails with the builtin `TimeoutError`; a call whose input failed fails with an exception of the input's
type. All of them can be pickled, so that they survive a further executor.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

__all__ = [
    "DependencyError",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "WorkerDied",
    "WorkerStartError",
]


class WorkerDied(BrokenExecutor):
    """The worker that ran the call ended before the call did; the call may have run in part.

    Seen when the function crashed its process (segmentation fault in a compiled library), ended it
    (`sys.exit`, `os._exit`), or when the system killed it (often for want of memory). Only the call that ran
    there fails: the executor goes on with a new worker.

    What to do: read `last_stderr`; run the function alone in a fresh Python process with `python -X faulthandler`; for
    SIGKILL look at the memory the function needs. A call that may be repeated can be tried again with `restart_limit`.

    Attributes:
        worker: Number of the worker in its executor, None when unknown.
        host: Name of the host it ran on, None when unknown.
        pid: Process id (of the rank that ended first), None when unknown.
        rank: The MPI rank that ended, None for a worker of one process or when unknown.
        exit_code: As in `subprocess.Popen.returncode`: -N for signal N; None when unknown.
        signal: Name of the signal that ended the process, for example "SIGSEGV"; None when it was none.
        last_stderr: Last lines that the worker wrote to its stderr, oldest first.
        lost: How the master lost sight of it, when its end itself was not seen (its host is gone); None else.
        function: Name of the function that the call ran, None when unknown.

    Examples:
        >>> error = WorkerDied(worker=3, host="node1", pid=4711, exit_code=-11, function="solve")
        >>> error.signal
        'SIGSEGV'
        >>> print(error)
        worker 3 on node1 (pid 4711) died of SIGSEGV while it ran solve()
    """

    def __init__(
        self,
        *,
        worker: int | None = None,
        host: str | None = None,
        pid: int | None = None,
        rank: int | None = None,
        exit_code: int | None = None,
        last_stderr: Sequence[str] = (),
        lost: str | None = None,
        function: str | None = None,
    ) -> None:
        self.worker = worker
        self.host = host
        self.pid = pid
        self.rank = rank
        self.exit_code = exit_code
        self.signal = signal_name(exit_code)
        self.last_stderr = tuple(last_stderr)
        self.lost = lost
        self.function = function
        super().__init__(self._message())

    def _message(self) -> str:
        name = "worker" if self.worker is None else f"worker {self.worker}"
        place = _place(self.host, self.pid, self.rank)
        call = "" if self.function is None else f" while it ran {self.function}()"
        if self.lost is not None:
            return f"{name}{place} was lost{call}: {self.lost}{_quote_stderr(self.last_stderr)}"
        end = describe_exit(self.exit_code)
        hint = "; out of memory?" if self.signal == "SIGKILL" else ""
        return f"{name}{place} {end}{call}{hint}{_quote_stderr(self.last_stderr)}"

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("worker", "host", "pid", "rank", "exit_code", "last_stderr", "lost", "function")
        return _rebuild, (type(self), (), {name: getattr(self, name) for name in names}), self.__dict__


class WorkerStartError(BrokenExecutor):
    """Workers of the executor cannot be started: they end, or give no sign of life, again and again.

    Seen when the Python interpreter of the workers is broken, `mpiexec` or mpi4py is missing or does not fit the other,
    or `init_function` ends the process. Calls that wait fail with it, and the executor takes no more.

    What to do: the message says what was tried and how it ended, `last_stderr` what the worker complained about.

    Attributes:
        reason: What failed, and what to do about it.
        host: Name of the host, None when unknown.
        exit_code: As in `subprocess.Popen.returncode`: -N for signal N; None when there was none.
        signal: Name of the signal that ended the process, None when it was none.
        last_stderr: Last lines that the worker wrote to its stderr, oldest first.
    """

    def __init__(
        self,
        reason: str,
        *,
        host: str | None = None,
        exit_code: int | None = None,
        last_stderr: Sequence[str] = (),
    ) -> None:
        self.reason = reason
        self.host = host
        self.exit_code = exit_code
        self.signal = signal_name(exit_code)
        self.last_stderr = tuple(last_stderr)
        super().__init__(self._message())

    def _message(self) -> str:
        end = "" if self.exit_code is None else f": it {describe_exit(self.exit_code)}"
        return f"{self.reason}{_place(self.host, None, None)}{end}{_quote_stderr(self.last_stderr)}"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in ("host", "exit_code", "last_stderr")}
        return _rebuild, (type(self), (self.reason,), fields), self.__dict__


class SerializationError(pickle.PickleError):
    """Arguments, a result or an exception cannot be pickled on one side or unpickled on the other.

    Only the call concerned fails. The message names the value and its type, the pickler's own complaint (chained as
    `__cause__`), and what to do.

    What to do: open files, sockets, locks, generators and connections inside the function instead of passing them; pass
    a path or the plain data; make modules that define the classes importable in the workers.
    """


class RemoteError(Exception):
    """Stands for an exception that a call raised and that cannot travel to the master.

    Seen when the exception cannot be pickled (it holds a lock, say), or when it can but not be rebuilt: the class of
    the exception is defined so that `cls(*args)` fails. Its `__cause__` shows the worker's traceback as ever.

    What to do: read `type_name` and `message`; to catch the exception by its own type, let its `__init__`
    hand all its arguments to `super().__init__`, or give it a `__reduce__`.

    Attributes:
        type_name: Full name of the exception's class, for example "mylib.errors.NoConvergence".
        message: Its `str()`.
        reason: Why it could not travel.
    """

    def __init__(self, type_name: str, message: str = "", reason: str = "") -> None:
        self.type_name = type_name
        self.message = message
        self.reason = reason
        super().__init__(type_name, message, reason)

    def __str__(self) -> str:
        text = f"{self.type_name}: {self.message}" if self.message else self.type_name
        return f"{text}\n(RemoteError stands for it, because it cannot travel: {self.reason})" if self.reason else text


class RemoteTraceback(Exception):
    """The traceback of an exception as the worker saw it; the `__cause__` of the exception in the master.

    Never raised by itself. It is there so that Python prints, above the master's traceback, where in the function the
    exception came from: a traceback itself cannot travel.

    Attributes:
        text: The formatted traceback.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}\n"


class DependencyError(Exception):
    """Stands for the exception of a failed input, where that exception cannot be repeated.

    A call that was given a future which fails does not run: it fails with a copy of the future's exception, whose
    `__cause__` is the original. Only when the original cannot be copied, this stands for it.

    What to do: look at `__cause__`, the exception of the call that failed first.
    """


def signal_name(exit_code: int | None) -> str | None:
    """The name of the signal in an exit code, None when the process was not ended by one.

    Args:
        exit_code: -N for signal N as `subprocess` tells it, or 128 + N as shells, `mpiexec` and `srun` do.

    Examples:
        >>> signal_name(-9), signal_name(139), signal_name(1), signal_name(None)
        ('SIGKILL', 'SIGSEGV', None, None)
    """
    if exit_code is None or 0 <= exit_code <= 128:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if exit_code < 0 else None


def describe_exit(exit_code: int | None) -> str:
    """How a process ended, in words that follow its name.

    Examples:
        >>> describe_exit(-11), describe_exit(137), describe_exit(3)
        ('died of SIGSEGV', 'died of SIGKILL (exit code 137)', 'ended with exit code 3')
    """
    if exit_code is None:
        return "ended unexpectedly"
    name = signal_name(exit_code)
    if name is None:
        return f"ended with exit code {exit_code}"
    return f"died of {name}" if exit_code < 0 else f"died of {name} (exit code {exit_code})"


def _place(host: str | None, pid: int | None, rank: int | None) -> str:
    """Where a process was, to follow its name: ` on HOST (rank R, pid P)`, as far as known."""
    known = [f"{word} {value}" for word, value in (("rank", rank), ("pid", pid)) if value is not None]
    return (f" on {host}" if host else "") + (f" ({', '.join(known)})" if known else "")


def _quote_stderr(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "\nlast lines of its stderr:\n" + "\n".join(f"    {line}" for line in lines)


def _rebuild(make: Callable[..., BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    """Unpickles an exception whose constructor takes keywords, which exceptions cannot do by themselves."""
    return make(*args, **fields)

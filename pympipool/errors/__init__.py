"""All exceptions of pympipool that users can see.

Each is a subclass of the standard library's exception for the same kind of failure, so code written for
`concurrent.futures` catches it without knowing pympipool::

    concurrent.futures.CancelledError
        DrainedError          the executor was drained before the call had begun
    concurrent.futures.BrokenExecutor
        WorkerStartError      workers cannot be started
        concurrent.futures.process.BrokenProcessPool
            WorkerDied        a worker ended while it ran the call; see worker_died.py
    pickle.PicklingError
        SerializationError    arguments, a result or an exception cannot be pickled or unpickled
    Exception
        RemoteError           replaces an exception that cannot be sent to the master
        RemoteTraceback       the worker's traceback, as `__cause__` of an exception that was sent
        DependencyError       replaces the exception of a failed input if that cannot be copied
    RuntimeError
        CacheError            a cached result was removed or damaged after its call had been answered
        JobError              the job of a detached call ended without a result
    UserWarning
        CacheWarning          results are not cached; the message says why
        JobWarning            detached jobs do not go on, or end with the script; the message says why

An exception that a call raises arrives in the master with its own type. A call that takes longer than its
`run_time_max` fails with the builtin `TimeoutError`. A call whose input failed fails with an exception of the input's
type. All exceptions can be pickled, so they can pass through several executors.
"""

from __future__ import annotations

import pickle
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pympipool.errors.worker_died import WorkerDied as WorkerDied

__all__ = [
    "CacheError",
    "CacheWarning",
    "DependencyError",
    "DrainedError",
    "JobError",
    "JobWarning",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "WorkerDied",
    "WorkerStartError",
]


def __getattr__(name: str) -> object:
    """Define WorkerDied at its first use (PEP 562): its base class takes 15 ms to import."""
    if name != "WorkerDied":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pympipool.errors.worker_died import WorkerDied

    globals()[name] = WorkerDied
    return WorkerDied


class WorkerStartError(BrokenExecutor):
    """The workers of the executor cannot be started: they end, or do not connect, again and again.

    Seen when the Python interpreter of the workers is broken, `mpiexec` or mpi4py is missing or one does not match the
    other, or `init_function` ends the process. Waiting calls and later ones fail with it. After a
    shortage, such as no free descriptors, later calls are tried again.

    What to do: read the message, which says what was tried and how it ended, and `last_stderr`, which has the output of
    the worker.

    Attributes:
        reason: What failed, and what to do about it.
        host: Name of the host, None if unknown.
        exit_code: As in `subprocess.Popen.returncode`: -N for signal N; None if there is none.
        signal: Name of the signal that ended the process, None if no signal did.
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


class DrainedError(CancelledError):
    """The call has not begun, because its executor was drained (`Executor.drain`), and it will not run.

    Seen when the script has called `drain`, as it does in the handler of a signal that announces the end of the job.

    What to do: keep the results that have come, and submit what is left in the next job.

    Attributes:
        function: Name of the function of this call; None if the call was submitted after `drain`.
        left: Number of calls that the executor has handed back, by the name of their function.

    Examples:
        >>> print(DrainedError("solve", {"solve": 30, "collect": 1}))
        solve() has not begun: its executor was drained; 31 calls are left: solve() 30 times, collect()
    """

    def __init__(self, function: str | None, left: dict[str, int]) -> None:
        self.function = function
        self.left = left
        super().__init__(function, left)

    def __str__(self) -> str:
        name = "this call" if self.function is None else f"{self.function}()"
        count = sum(self.left.values())
        most_first = sorted(self.left.items(), key=lambda item: -item[1])
        names = ", ".join(f"{one}()" if many == 1 else f"{one}() {many} times" for one, many in most_first)
        left = f"; {count} {'call is' if count == 1 else 'calls are'} left: {names}" if count else ""
        return f"{name} has not begun: its executor was drained{left}"


class SerializationError(pickle.PicklingError):
    """Arguments, a result or an exception cannot be pickled on one side or unpickled on the other.

    Only this call fails. The message names the value and its type, the pickler's own error (also the `__cause__`), and
    what to do.

    What to do: open files, sockets, locks, generators and connections inside the function instead of passing them; pass
    a path or the plain data; make modules that define the classes importable in the workers.
    """


class RemoteError(Exception):
    """Replaces an exception that a call raised and that cannot be sent to the master.

    Seen when the exception cannot be pickled (for example because it holds a lock), or can be pickled but not
    unpickled: its class is defined so that `cls(*args)` fails. Its `__cause__` shows the worker's traceback as usual.

    What to do: read `type_name` and `message`. To catch the exception by its own type, let its `__init__` pass all its
    arguments to `super().__init__`, or define `__reduce__`.

    Attributes:
        type_name: Full name of the exception's class, for example "mylib.errors.NoConvergence".
        message: The text of the exception, as by `str()`.
        reason: Why the exception could not be sent.
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
    """The worker's traceback of an exception, as the `__cause__` of the exception in the master.

    Never raised by itself. It makes Python print, above the master's traceback, where in the function the exception was
    raised: a traceback object cannot be pickled.

    Attributes:
        text: The formatted traceback.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}\n"


class DependencyError(Exception):
    """Replaces the exception of a failed input if that exception cannot be copied.

    A call does not run if a future among its arguments fails: the call fails with a copy of the future's exception,
    whose `__cause__` is the original. This exception replaces the copy if the original cannot be copied.

    What to do: look at `__cause__`, the exception of the call that failed first.
    """


class CacheError(RuntimeError):
    """A cached result cannot be read any more.

    Seen when its file was removed or damaged after the call had been answered from it.

    What to do: submit the call again. It runs then, as the entry is gone from the cache.
    """


class JobError(RuntimeError):
    """The job of a detached call ended without a result.

    Seen when it was cancelled, died, had too little memory, was preempted, or its host failed. A job that has reached its time
    limit ends its future with the builtin `TimeoutError`.

    What to do: read the scheduler's words, `last_lines` and the log. Submit the call again: only what is missing runs.

    Attributes:
        function: Name of the function.
        job: The number of the job, with that of its task.
        words: What the scheduler says of it.
        log: The file of its output; "" if there is none.
        last_lines: Last lines of its output, oldest first.
    """

    def __init__(
        self, function: str, *, job: str = "", words: str = "", log: str = "", last_lines: Sequence[str] = ()
    ) -> None:
        self.function = function
        self.job = job
        self.words = words
        self.log = log
        self.last_lines = tuple(last_lines)
        where = f"job {job} of {function}()" if job else f"the job of {function}()"
        quoted = "".join(f"\n    {line}" for line in self.last_lines)
        output = (
            f"\nlast lines of its output, in {log}:{quoted}" if quoted else f"\nits output is in {log}" if log else ""
        )
        super().__init__(f"{where} ended without a result: {words}{output}")

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in ("job", "words", "log", "last_lines")}
        return _rebuild, (type(self), (self.function,), fields), self.__dict__


class CacheWarning(UserWarning):
    """Results are not cached; the calls run all the same.

    Seen when the result of a function may depend on something that cannot be compared between sessions, such as an open file,
    when results cannot be written, as on a full disk, and when a process that was stopped keeps the lock of the index.

    What to do: the message names it. `resource_dict={"cache_key": ...}` gives a call a name of its own.
    """


class JobWarning(UserWarning):
    """Detached jobs do not go on, or not as long as they should. They are watched all the same.

    Seen when their scheduler does not answer, when the supervisor of this machine, or a process that has the lock of the records,
    was stopped, when the disk is full, and when the jobs end with the script, as a flux instance does that was started for it.

    What to do: the message names it.
    """


def signal_name(exit_code: int | None) -> str | None:
    """Return the name of the signal in an exit code, None if no signal ended the process.

    Args:
        exit_code: -N for signal N, as `subprocess` reports it, or 128 + N, as shells, `mpiexec` and `srun` report it.

    Examples:
        >>> signal_name(-9), signal_name(139), signal_name(1), signal_name(None)
        ('SIGKILL', 'SIGSEGV', None, None)
    """
    if exit_code is None or 0 <= exit_code <= 128:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number == 9:
        return "SIGKILL"  # also on Windows, where it stands for the end by another process
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if exit_code < 0 else None


_CRASHES = {
    0xC0000005: " (access violation)",
    0xC0000017: " (no memory)",
    0xC00000FD: " (stack overflow)",
    0xC0000135: " (a DLL is missing)",
    0xC0000142: " (a DLL did not start)",
    0xC0000409: " (abort, or a damaged stack)",
}
"""Exit codes with which Windows ends a process."""


def describe_exit(exit_code: int | None) -> str:
    """Return how a process ended, as text that follows its name in a message.

    Examples:
        >>> describe_exit(-11), describe_exit(137), describe_exit(3)
        ('died of SIGSEGV', 'died of SIGKILL (exit code 137)', 'ended with exit code 3')
        >>> describe_exit(3221225477)
        'ended with exit code 0xc0000005 (access violation)'
    """
    if exit_code is None:
        return "ended unexpectedly"
    name = signal_name(exit_code)
    if name is None:
        number = f"{exit_code:#x}" if exit_code > 0x7FFFFFFF else str(exit_code)
        return f"ended with exit code {number}{_CRASHES.get(exit_code, '')}"
    return f"died of {name}" if exit_code < 0 else f"died of {name} (exit code {exit_code})"


def _place(host: str | None, pid: int | None, rank: int | None) -> str:
    """Return where a process was, as text that follows its name: ` on HOST (rank R, pid P)`, as far as known."""
    known = [f"{word} {value}" for word, value in (("rank", rank), ("pid", pid)) if value is not None]
    return (f" on {host}" if host else "") + (f" ({', '.join(known)})" if known else "")


def _quote_stderr(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "\nlast lines of its stderr:\n" + "\n".join(f"    {line}" for line in lines)


def _rebuild(make: Callable[..., BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    """Unpickle an exception whose constructor takes keywords, which `BaseException.__reduce__` does not support."""
    return make(*args, **fields)


def _warn_renamed(former: str, name: str) -> None:
    """Warn the user's code, which called the caller of this function."""
    warnings.warn(f"WorkerDied.{former} is now WorkerDied.{name}", DeprecationWarning, stacklevel=3)

"""`pympipool.errors.WorkerDied`, in a module of its own: importing its base class takes 15 ms.

Only a program that names the class, or in which a worker has died, imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pympipool.errors import _place, _quote_stderr, _rebuild, _warn_renamed, describe_exit, signal_name


class WorkerDied(BrokenProcessPool):
    """The worker died while it ran the call. The call may have run in part.

    Seen when the function crashed its process (segmentation fault in a compiled library), ended it
    (`os._exit`), or when the system killed it (often because it ran out of memory). Only the call that ran
    there fails: the executor replaces the worker and continues. `sys.exit` is no such end: the call fails with `SystemExit`,
    as in `concurrent.futures`, and the worker continues.

    What to do: read `last_stderr`. Run the function alone in a new Python process with `python -X faulthandler`. After
    a SIGKILL, check how much memory the function needs. For a call that may run twice, set `restart_limit` to retry it.

    A call that has not begun waits for another worker instead. It fails only if again and again new workers die when it is to
    begin there next, and then with `has_begun` False.

    Attributes:
        worker: Number of the worker in its executor, None if unknown.
        host: Name of the worker's host, None if unknown.
        pid: Process id (of the rank that ended first), None if unknown.
        rank: The MPI rank that ended, None for a worker of one process or if unknown.
        exit_code: As in `subprocess.Popen.returncode`: -N for signal N; None if unknown.
        signal: Name of the signal that ended the process, for example "SIGSEGV"; None if no signal did.
        last_stderr: Last lines that the worker wrote to its stderr, oldest first.
        lost_reason: Why the master lost the worker without seeing its end (its host is gone); None otherwise.
        function: Name of the function that the call ran, None if unknown.
        has_begun: False if this worker had not begun the call yet.

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
        lost_reason: str | None = None,
        function: str | None = None,
        has_begun: bool = True,
        lost: str | None = None,
    ) -> None:
        if lost is not None:
            _warn_renamed("lost", "lost_reason")
            lost_reason = lost
        self.worker = worker
        self.host = host
        self.pid = pid
        self.rank = rank
        self.exit_code = exit_code
        self.signal = signal_name(exit_code)
        self.last_stderr = tuple(last_stderr)
        self.lost_reason = lost_reason
        self.function = function
        self.has_begun = has_begun
        super().__init__(self._message())

    @property
    def lost(self) -> str | None:
        """The former name of `lost_reason`."""
        _warn_renamed("lost", "lost_reason")
        return self.lost_reason

    def _message(self) -> str:
        name = "worker" if self.worker is None else f"worker {self.worker}"
        place = _place(self.host, self.pid, self.rank)
        function = "the call" if self.function is None else f"{self.function}()"
        if not self.has_begun:
            call = f" before it began {function}, as had several others"
        else:
            call = "" if self.function is None else f" while it ran {function}"
        if self.lost_reason is not None:
            return f"{name}{place} was lost{call}: {self.lost_reason}{_quote_stderr(self.last_stderr)}"
        end = describe_exit(self.exit_code)
        hint = "; out of memory?" if self.signal == "SIGKILL" and self.has_begun else ""
        return f"{name}{place} {end}{call}{hint}{_quote_stderr(self.last_stderr)}"

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("worker", "host", "pid", "rank", "exit_code", "last_stderr", "lost_reason", "function", "has_begun")
        return _rebuild, (type(self), (), {name: getattr(self, name) for name in names}), self.__dict__


WorkerDied.__module__ = "pympipool.errors"  # where users, and pickle, find it

"""The calls of the chaos test: functions that workers run, and for each kind of call how it must end.

`make_calls(kind, submit, chance)` submits the calls of one kind, and returns what must become of them. `Call.check`
compares.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pympipool import Shared, share
from pympipool.errors import DependencyError, RemoteError, SerializationError, WorkerDied, WorkerStartError
from support.nasty_exceptions import Frozen, NoText, OwnArgs, Refuses

LARGEST_BYTES = 8_000_000
HUGE_BYTES = 100_000_000
"""Size of one array in two hundred."""

LONGEST_S = 0.05

ROW_NUMBERS = 100
MOST_ROWS = 10_000

# ---- what runs in the workers ----


class Quits:
    """A value that ends the interpreter that unpickles it, as a module may do that finds no GPU."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (self.number,)


NASTY = (Frozen, Refuses, OwnArgs, NoText)


def echo(data: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return data


def talk(number: int, lines: int) -> int:
    """Print to both streams, with a progress bar."""
    for line in range(lines):
        print(f"line {line} of {number} " + "." * 60)
        print(f"\r{line} of {lines}", end="", file=sys.stderr)
    return number


def fail(number: int, seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError(number)


def add(a: int, b: int) -> int:
    return a + b


def mean_over_ranks(number: int, seconds: float) -> float:
    """Return a mean over all ranks, with a collective of MPI."""
    from mpi4py import MPI

    time.sleep(seconds)
    return MPI.COMM_WORLD.allreduce(number) / MPI.COMM_WORLD.Get_size()


def fail_on_one_rank(number: int) -> None:
    """Raise on rank 0 while the other ranks wait for it."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == 0:
        raise ValueError(number)
    MPI.COMM_WORLD.Barrier()


def fail_nastily(index: int) -> None:
    raise NASTY[index](index)


def quit_on_arrival(number: int) -> Quits:
    return Quits(number)


def return_lock() -> Any:
    return threading.Lock()


def die() -> None:
    os._exit(3)


def read_row(data: dict[str, Any], row: int, seconds: float) -> Any:
    """Return a row of a shared table and what is pickled beside it."""
    time.sleep(seconds)
    return np.append(data["table"][row], data["number"])


def share_table(number: int, rows: int, seconds: float) -> Shared[dict[str, Any]]:
    time.sleep(seconds)
    return share(table_of(number, rows))


def table_of(number: int, rows: int) -> dict[str, Any]:
    """Make what is shared: each number in it tells which table it belongs to."""
    return {"table": np.full((rows, ROW_NUMBERS), float(number)), "number": number}


# ---- what the master expects ----

SHORTAGES = (MemoryError, OSError, RuntimeError, BrokenExecutor, SerializationError, RemoteError)
"""What a call may fail with while something is short. Workers that start meanwhile inherit the limits, and may fail to
import what a call needs."""


@dataclass
class Call:
    """A submitted call and how it must end.

    Attributes:
        kind: A key of KINDS.
        future: Of the call.
        value: The result that it must have; ignored if it must raise.
        raises: Types of exceptions one of which it must raise; empty if it must not.
        may_be_cancelled: True if it was cancelled, perhaps too late.
        submitted_s: Time of the submission.
    """

    kind: str
    future: Future[Any]
    value: Any = None
    raises: tuple[type[BaseException], ...] = ()
    may_be_cancelled: bool = False
    submitted_s: float = field(default_factory=time.monotonic)

    def check(self, limit_s: float, was_short_since: Callable[[float], bool]) -> tuple[str, str | None]:
        """Wait for the call, and return how it ended, and a complaint if that is wrong.

        A call that does not end within the limit ends as "HANG".
        """
        try:
            result = self.future.result(timeout=limit_s)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, TimeoutError) and not self.future.done():
                return "HANG", f"{self.kind} is not done after {limit_s:g} s"
            return self._check_error(error, was_short_since(self.submitted_s))
        if isinstance(result, Shared):
            result = result.value["number"]
        if self.raises or not np.array_equal(result, self.value):
            wanted = f"{_name(self.raises)}" if self.raises else f"{self.value!s:.80}"
            return "WRONG", f"{self.kind} returned {result!s:.80}, not {wanted}"
        return "returned", None

    def _check_error(self, error: BaseException, was_short: bool) -> tuple[str, str | None]:
        kind = type(error)
        if isinstance(error, self.raises):
            wrong = kind is ValueError and error.args != (self.value,)
            return "raised", f"{self.kind} raised {error!r}, not ValueError({self.value!r})" if wrong else None
        if isinstance(error, CancelledError):
            return "cancelled", None if self.may_be_cancelled else f"{self.kind} was cancelled"
        if isinstance(error, WorkerDied):
            return "worker died", None
        if was_short and isinstance(error, SHORTAGES):
            return f"failed in a shortage: {kind.__name__}", None
        if isinstance(error, WorkerStartError):
            return "worker died at start", None if "SIGKILL" in str(error) else f"{self.kind} failed with {error!r}"
        return "UNEXPECTED", f"{self.kind} failed with {kind.__name__}: {safe_text(error)}"


def safe_text(error: BaseException) -> str:
    """Return the text of an exception, also of one that raises when it is asked for it."""
    try:
        return str(error)[:500]
    except BaseException as second:
        return f"(no text: {type(second).__name__})"


def _name(kinds: tuple[type[BaseException], ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


Submit = Callable[..., Future[Any]]
REFUSED = (TypeError, SerializationError)


def make_calls(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    """Submit the calls of one kind."""
    return KINDS[kind](kind, submit, chance)


def _number(chance: random.Random) -> int:
    return chance.randrange(1_000_000)


def _seconds(chance: random.Random) -> float:
    return chance.choice([0.0, 0.0, 0.001, chance.uniform(0, LONGEST_S)])


def _echo(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    return [Call(kind, submit(echo, number, _seconds(chance)), number)]


def _bytes(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    data = chance.randbytes(int(10 ** chance.uniform(0, 6)))
    return [Call(kind, submit(echo, data, _seconds(chance)), data)]


def _array(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    exponent = chance.uniform(0, np.log10(LARGEST_BYTES / 8))
    size = HUGE_BYTES // 8 if chance.random() < 0.005 else int(10**exponent)
    data = np.arange(size, dtype=np.float64)
    return [Call(kind, submit(echo, data, _seconds(chance)), data)]


def _raise(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    return [Call(kind, submit(fail, number, _seconds(chance)), number, (ValueError,))]


def _chain(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    first = submit(echo, number, _seconds(chance))
    return [Call(kind, submit(add, submit(add, first, 1), 1), number + 2)]


def _failing_chain(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    first = submit(fail, number, _seconds(chance))
    return [Call(kind, submit(add, submit(add, first, 1), 1), number, (ValueError,))]


def _cancel(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    futures = [submit(echo, number, _seconds(chance)) for _ in range(chance.randrange(1, 6))]
    for future in reversed(futures):
        future.cancel()
    return [Call(kind, future, number, may_be_cancelled=True) for future in futures]


def _talk(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    return [Call(kind, submit(talk, number, chance.choice([1, 10, 300])), number)]


def _callback(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    """Make calls whose callbacks raise. The result of the second is set by the callback of the first."""
    number = _number(chance)
    told: Future[int] = Future()

    def tell(done: Future[Any]) -> None:
        told.set_result(number)
        raise SystemExit("of a callback")

    future = submit(echo, number, _seconds(chance))
    with contextlib.suppress(SystemExit):  # the call has ended already, so the callback runs here
        future.add_done_callback(tell)
    return [Call(kind, future, number), Call(kind, told, number)]


def _nasty_exception(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    index = chance.randrange(len(NASTY))
    first = submit(fail_nastily, index)
    raises = (NASTY[index], RemoteError, SerializationError, DependencyError)
    return [Call(kind, first, index, raises), Call(kind, submit(add, first, 1), index, raises)]


def _nasty_result(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    first = submit(quit_on_arrival, 7)
    raises = (SystemExit, SerializationError, DependencyError)
    return [Call(kind, first, 7, raises), Call(kind, submit(add, first, 1), 7, raises)]


def _unpicklable(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    calls = [Call(kind, submit(return_lock), raises=REFUSED)]
    try:
        calls.append(Call(kind, submit(echo, threading.Lock(), 0.0), raises=REFUSED))
    except REFUSED:
        pass
    return calls


def _die(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    return [Call(kind, submit(die), raises=(WorkerDied,))]


def _shared(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    """Make calls that read shared data, and drop the handle while they are under way."""
    number = _number(chance)
    handle = share(table_of(number, _rows(chance)))
    row = [float(number)] * (ROW_NUMBERS + 1)
    return [Call(kind, submit(read_row, handle, -1, _seconds(chance)), row) for _ in range(chance.randrange(1, 6))]


def _shared_result(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    """Make a call that shares its result, and calls that read it."""
    number = _number(chance)
    future = submit(share_table, number, _rows(chance), _seconds(chance))
    row = [float(number)] * (ROW_NUMBERS + 1)
    readers = [Call(kind, submit(read_row, future, 0, 0.0), row) for _ in range(chance.randrange(3))]
    return [*readers, Call(kind, future, number)]


def _rows(chance: random.Random) -> int:
    return int(MOST_ROWS ** chance.random())


def _mpi(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    return [Call(kind, submit(mean_over_ranks, number, _seconds(chance)), [float(number)] * 2)]


def _mpi_shared(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    return [Call(kind, call.future, [call.value] * 2) for call in _shared(kind, submit, chance)]


def _mpi_raise(kind: str, submit: Submit, chance: random.Random) -> list[Call]:
    number = _number(chance)
    if chance.random() < 0.1:  # each costs the worker
        return [Call(kind, submit(fail_on_one_rank, number), number, (ValueError,))]
    return [Call(kind, submit(fail, number, _seconds(chance)), number, (ValueError,))]


KINDS: dict[str, Callable[[str, Submit, random.Random], list[Call]]] = {
    "echo": _echo,
    "bytes": _bytes,
    "array": _array,
    "raise": _raise,
    "chain": _chain,
    "failing chain": _failing_chain,
    "cancel": _cancel,
    "talk": _talk,
    "callback": _callback,
    "nasty exception": _nasty_exception,
    "nasty result": _nasty_result,
    "unpicklable": _unpicklable,
    "die": _die,
    "shared": _shared,
    "shared result": _shared_result,
    "mpi": _mpi,
    "mpi shared": _mpi_shared,
    "mpi raise": _mpi_raise,
}

SERIAL = [kind for kind in KINDS if not kind.startswith("mpi")]
"""Kinds for workers of one process."""

RANKS = ("mpi", "mpi", "mpi shared", "mpi raise")
"""Kinds for workers of two ranks."""


NASTY_KINDS = ("callback", "nasty exception", "nasty result", "unpicklable", "die")
"""Kinds that `--no-nasty` leaves out."""

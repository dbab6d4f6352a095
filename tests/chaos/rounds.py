"""Executors that are made and closed in all ways, in the main thread, where interrupts arrive.

In each round an executor is made, gets some calls, and is closed; afterwards every call must be done. An interrupt
ends the round wherever it hits, and the next round must work all the same. Between two rounds the signals arrive too, but
their handler raises nothing: this code is not what is tested.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from chaos.board import MASTER
from chaos.callers import make_patiently
from chaos.calls import NASTY_KINDS, RANKS, SERIAL, SHORTAGES, Call, add, die, echo, make_calls, safe_text
from chaos.tally import CALL_S, Tally
from pympipool import Executor, share
from pympipool.errors import WorkerDied

INTERRUPTS = (signal.SIGINT, signal.SIGALRM)
HAMMER_S = 1.0
MOST_HAMMERED = {True: 60, False: 8}
"""Number of calls after which the results are awaited, with and without block allocation."""


class Driver:
    """The main thread of the master.

    Args:
        tally: Of the main thread.
        seed: Of its choices.
        end_s: Time at which the last round begins.
        mpi: False to leave out workers of two ranks.
        nasty: False to leave out the unpleasant calls and rounds.
        backend: Of the executors.
        pause_s: Mean pause between two rounds, s.
    """

    def __init__(
        self, tally: Tally, seed: int, end_s: float, *, mpi: bool, nasty: bool, backend: str, pause_s: float
    ) -> None:
        self.tally = tally
        self.chance = random.Random(f"{seed} driver")
        self.end_s = end_s
        self.backend = backend
        self.pause_s = pause_s
        self.kinds = [kind for kind in SERIAL if nasty or kind not in NASTY_KINDS]
        left_out = (*(() if nasty else NASTY_ROUNDS), *(() if mpi else ("on_ranks",)))
        self.rounds = [getattr(self, name) for name in ROUNDS if name not in left_out]
        self.calls: list[Call] = []
        self.round = ""
        self._raises = False  # True while the handler of signals raises
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def drive(self) -> None:
        """Do rounds until the time is over. From then on signals are ignored."""
        for number in INTERRUPTS:
            signal.signal(number, self._interrupt)
        while time.monotonic() < self.end_s:
            begin_s = time.monotonic()
            if self.pause_s:
                time.sleep(self.chance.expovariate(1 / self.pause_s))
            ended = "rounds"
            try:
                self._do_round(self.chance.choice(self.rounds))
            except KeyboardInterrupt:
                ended = "interrupted rounds"
            except SHORTAGES as error:
                if not self.tally.board.was_short_since(begin_s):
                    self._complain(error)
            except BaseException as error:
                self._complain(error)
            while not self._after_round():
                time.sleep(0.1)  # until a shortage that another process makes has passed
            self.tally.count(ended)
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)

    def _do_round(self, round_: Callable[[], None]) -> None:
        self.round = round_.__name__
        try:
            self._raises = True
            round_()
        finally:
            self._raises = False  # the first instruction here: no handler runs before it

    def _interrupt(self, *_: object) -> None:
        """Raise what Ctrl-C raises, in a round. Handles SIGINT and SIGALRM."""
        if self._raises:
            raise KeyboardInterrupt

    def _complain(self, error: BaseException) -> None:
        self.tally.complain(f"round {self.round}: {type(error).__name__}: {safe_text(error)}")

    def _after_round(self) -> bool:
        """Undo what an interrupt has kept the round from undoing, and check that every call of the round is done.

        Return False if there was no memory for that.
        """
        with contextlib.suppress(MemoryError):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._threads_again()
            while self.calls:
                self._must_be_done(self.calls[-1])
                self.calls.pop()
            return True
        return False

    def _threads_again(self) -> None:
        """End the shortage of threads, if there is one."""
        setattr(threading, START, start_thread)
        self.tally.board.end_shortage(MASTER)

    def _must_be_done(self, call: Call) -> None:
        deadline_s = time.monotonic() + CALL_S
        while not call.future.done():
            try:
                call.future.exception(timeout=max(deadline_s - time.monotonic(), 0.0))
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException:  # also what unpickling raises
                if not call.future.done():
                    self.tally.hang(f"round {self.round}: {call.kind} is not done {CALL_S:g} s after the round")

    # ---- parts of rounds ----

    def _make(self, **parameters: Any) -> Executor:
        parameters = {"block_allocation": self.chance.random() < 0.5, "max_workers": 1, **parameters}
        return make_patiently(self.tally, {"backend": self.backend, **parameters})

    def _make_ranks(self) -> Executor:
        """Make an executor whose worker has two ranks."""
        return self._make(max_workers=None, max_cores=2, cores_per_worker=2)

    def _submit(self, executor: Executor, number: int, kinds: Sequence[str] = ()) -> None:
        for _ in range(number):
            self.calls += make_calls(self.chance.choice(kinds or self.kinds), executor.submit, self.chance)

    def _check_all(self) -> None:
        while self.calls:
            self.tally.check(self.calls[0])
            self.calls.pop(0)

    # ---- rounds ----

    def interrupted(self) -> None:
        """Interrupt `hammered` after some milliseconds, and perhaps its end too, by the exception of a signal handler."""
        again_s = self.chance.choice([0.0, 0.0, self.chance.uniform(0.001, 0.02)])
        self._hammer(self.chance.uniform(0.0001, 0.03), again_s)

    def hammered(self) -> None:
        """Submit, map, cancel and wait without pause, so that interrupts hit these and not a wait for a worker."""
        self._hammer(0.0, 0.0)

    def _hammer(self, interrupt_s: float, again_s: float) -> None:
        with self._make() as executor:
            block = executor.info["block_allocation"]
            if block:
                self.tally.check(Call("echo", executor.submit(abs, -1), 1))
            signal.setitimer(signal.ITIMER_REAL, interrupt_s, again_s)
            end_s = time.monotonic() + HAMMER_S
            while time.monotonic() < end_s:
                futures = [executor.submit(abs, -1) for _ in range(3)]
                dependent = executor.submit(add, futures[0], futures[1])
                shared = executor.submit(len, share([1, 2]))
                self.calls.append(Call("hammered", shared, 2, may_be_cancelled=True))
                self.calls += [Call("hammered", future, 1, may_be_cancelled=True) for future in futures]
                self.calls.append(Call("hammered", dependent, 2, may_be_cancelled=True))
                results = executor.map(abs, range(-5, 0))
                cf.wait(futures, timeout=0.001)
                futures[-1].cancel()
                del results  # cancels what has not begun
                if len(self.calls) > MOST_HAMMERED[block]:
                    self._check_all()
            self._check_all()
            self.tally.count("hammered")

    def plain(self) -> None:
        with self._make() as executor:
            self._submit(executor, 6)
            self._check_all()

    def closed_early(self) -> None:
        executor = self._make()
        self._submit(executor, 4)
        executor.shutdown(wait=False)
        self._check_all()

    def cancelled(self) -> None:
        executor = self._make()
        self._submit(executor, 8)
        executor.shutdown(wait=self.chance.random() < 0.5, cancel_futures=True)
        for call in self.calls:
            call.may_be_cancelled = True
        self._check_all()

    def dropped(self) -> None:
        executor = self._make()
        self._submit(executor, 4)
        del executor
        self._check_all()

    def closed_by_garbage_collector(self) -> None:
        owner = Owner(self._make())
        self._submit(owner.executor, 3)
        del owner
        gc.collect()
        self._check_all()

    def waited_for(self) -> None:
        with self._make() as executor:
            self._submit(executor, 6)
            futures = [call.future for call in self.calls]
            if self.chance.random() < 0.5:
                pending = cf.wait(futures, timeout=CALL_S).not_done
            else:
                pending = set(futures) - set(cf.as_completed(futures, timeout=CALL_S))
            if pending:
                kinds = [call.kind for call in self.calls if call.future in pending]
                self.tally.hang(f"round {self.round}: not done are calls of the kinds {kinds}")
            self._check_all()

    def mapped(self) -> None:
        with self._make() as executor:
            try:
                results = list(executor.map(abs, range(-50, 0), timeout=CALL_S))
            except WorkerDied:
                self.tally.count("worker died")
                return
            except TimeoutError:
                self.tally.hang(f"round {self.round}: map is not done after {CALL_S:g} s")
            if results != list(range(50, 0, -1)):
                self.tally.complain("map returned something else")

    def resized(self) -> None:
        with self._make(block_allocation=True) as executor:
            for number in (2, 1, 2):
                executor.max_workers = number
                self._submit(executor, 2)
            self._check_all()

    def beyond_time_limit(self) -> None:
        with self._make(run_time_max=0.7) as executor:
            self.calls.append(Call("too long", executor.submit(time.sleep, 60), raises=(TimeoutError,)))
            self._submit(executor, 2)
            for call in self.calls[1:]:
                call.raises = (*call.raises, TimeoutError)  # the machine may be slow
            self.tally.check(self.calls[0])
            for call in self.calls[1:]:
                self._must_be_done(call)

    def on_ranks(self) -> None:
        """Use a worker of two ranks, end it in one of several ways, and perhaps interrupt that at any time."""
        interrupt_s = self.chance.choice([0.0, self.chance.uniform(0.0001, 2.0)])
        again_s = self.chance.choice([0.0, self.chance.uniform(0.001, 0.02)])
        signal.setitimer(signal.ITIMER_REAL, interrupt_s, again_s)
        executor = self._make_ranks()
        self._submit(executor, 3, RANKS)
        end = self.chance.choice(["exit", "early", "cancel", "drop"])
        if end == "exit":
            with executor:
                self._check_all()
        elif end == "early":
            executor.shutdown(wait=False)
        elif end == "cancel":
            executor.shutdown(cancel_futures=True)
            for call in self.calls:
                call.may_be_cancelled = True
        del executor
        self._check_all()

    def with_signals_blocked(self) -> None:
        blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # until the executor is made, or the round is interrupted
        executor = self._make()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        with executor:
            self._submit(executor, 6)
            self._check_all()

    def failing_init(self) -> None:
        init = self.chance.choice([quit_in_init, raise_in_init, die])
        with self._make(block_allocation=True, init_function=init) as executor:
            try:
                futures = [executor.submit(echo, number, 0.0) for number in range(3)]
            except cf.BrokenExecutor:
                return
            self.calls += [Call("after a failed init_function", future, raises=(BaseException,)) for future in futures]
            self._check_all()

    def without_threads(self) -> None:
        """Make an executor, and submit, while no thread can be started."""
        with self._make() as executor:
            self._submit(executor, 2)
            self.tally.board.begin_shortage(MASTER)
            setattr(threading, START, refuse_thread)
            try:
                self._submit(executor, 4)
                Executor(backend=self.backend, max_workers=1, block_allocation=True).shutdown()
            except SHORTAGES:
                self.tally.count("refused in a shortage")
            self._threads_again()
            self._check_all()


ROUNDS = (
    *["interrupted"] * 20,
    "hammered",
    "plain",
    "closed_early",
    "cancelled",
    "dropped",
    "closed_by_garbage_collector",
    "waited_for",
    "mapped",
    "resized",
    "beyond_time_limit",
    *["on_ranks"] * 3,
    "with_signals_blocked",
    "failing_init",
    "without_threads",
)
NASTY_ROUNDS = ("closed_by_garbage_collector", "with_signals_blocked", "failing_init", "without_threads")


class Owner:
    """An object in a cycle that closes its executor when the garbage collector finds it, in any thread."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.me = self

    def __del__(self) -> None:
        self.executor.shutdown(wait=True)


def quit_in_init() -> None:
    raise SystemExit("no GPU")


def raise_in_init() -> None:
    raise ValueError("no GPU")


START = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
"""The name in `threading` of the function that starts a thread; another from Python 3.13 on."""

start_thread: Callable[..., Any] = getattr(threading, START)


def refuse_thread(*args: object, **kwargs: object) -> None:
    """Start no thread, as when a container has reached its limit of processes."""
    raise RuntimeError("can't start new thread")

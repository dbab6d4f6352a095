"""Threads that submit calls to executors that live as long as the run. Each must serve calls again after every blow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from chaos.calls import SHORTAGES, Call, make_calls, safe_text
from chaos.tally import CALL_S, Tally
from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError

IN_FLIGHT = 12
"""Maximum number of unfinished calls of a thread, roughly."""

MAP_ITEMS = {True: 300, False: 12}
"""Number of calls of a `map`, with and without block allocation."""

ANSWER_S = 30.0
"""Seconds in which an executor must answer a call again when all blows are over."""


class Caller(threading.Thread):
    """A thread with an executor of its own.

    Args:
        tally: Of this thread; has its name.
        seed: Of its choices.
        end_s: Time at which it submits the last call.
        kinds: Kinds of calls, keys of `calls.KINDS`.
        pause_s: Mean pause after a call, s.
        parameters: Of its executor.
    """

    def __init__(
        self, tally: Tally, seed: int, end_s: float, kinds: Sequence[str], pause_s: float, **parameters: Any
    ) -> None:
        super().__init__(name=f"caller-{tally.thread}")
        self.tally = tally
        self.chance = random.Random(f"{seed} {tally.thread}")
        self.end_s = end_s
        self.kinds = kinds
        self.pause_s = pause_s
        self.parameters = parameters
        self.map_items = MAP_ITEMS["block_allocation" in parameters] if "echo" in kinds else 0

    def run(self) -> None:
        try:
            executor = make_patiently(self.tally, self.parameters)
            with executor:
                self._submit_calls(executor)
                self._must_answer(executor)
        except BaseException as error:
            self.tally.complain(f"the thread {self.name} ended with {type(error).__name__}: {safe_text(error)}")
        self.tally.tell()
        self.tally.board.end(self.tally.thread)

    def _submit_calls(self, executor: Executor) -> None:
        pending: list[Call] = []
        is_over = False
        while pending or not is_over:
            begin_s = time.monotonic()
            is_over = begin_s >= self.end_s
            try:
                if is_over:
                    pass
                elif self.map_items and self.chance.random() < 0.02:
                    self._map(executor)
                else:
                    pending += make_calls(self.chance.choice(self.kinds), executor.submit, self.chance)
                while len(pending) >= (1 if is_over else IN_FLIGHT):
                    self.tally.check(pending[0])
                    pending.pop(0)
            except SHORTAGES as error:
                self.refused(error, begin_s)
            if self.pause_s and not is_over:
                time.sleep(self.chance.expovariate(1 / self.pause_s))  # the pace of the calls

    def refused(self, error: BaseException, begin_s: float) -> None:
        """Judge an exception of `submit`, or of the check of a call: only a shortage excuses it."""
        if not self.tally.board.was_short_since(begin_s):
            self.tally.complain(f"{self.name} raised {type(error).__name__}: {safe_text(error)}")
        self.tally.count("refused in a shortage")
        time.sleep(0.2)

    def _map(self, executor: Executor) -> None:
        begin_s = time.monotonic()
        results: Iterator[int] = executor.map(abs, range(-self.map_items, 0), timeout=CALL_S)
        try:
            right = list(results) == list(range(self.map_items, 0, -1))
        except WorkerDied:
            self.tally.count("worker died")
        except WorkerStartError as error:
            self.tally.count("worker died at start")
            if "SIGKILL" not in str(error) and not self.tally.board.was_short_since(begin_s):
                self.tally.complain(f"map failed with {error!r}")
        except TimeoutError:
            self.tally.hang(f"map is not done after {CALL_S:g} s")
        else:
            self.tally.count("mapped", self.map_items)
            if not right:
                self.tally.complain("map returned something else")

    def _must_answer(self, executor: Executor) -> None:
        """The blows are over: the executor must not be broken."""
        if "echo" not in self.kinds:
            return
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            try:
                if executor.submit(abs, -1).result(timeout=ANSWER_S) == 1:
                    return
            except BaseException as error:
                if time.monotonic() > deadline_s or "broken" in type(error).__name__.lower():
                    self.tally.complain(f"the executor of {self.name} is broken: {type(error).__name__}: {error}")
                    return
            time.sleep(0.5)


def make_patiently(tally: Tally, parameters: dict[str, Any]) -> Executor:
    """Make an executor, again and again while there is a shortage."""
    while True:
        begin_s = time.monotonic()
        try:
            return Executor(**parameters)
        except (MemoryError, OSError, RuntimeError) as error:
            if not tally.board.was_short_since(begin_s):
                raise
            tally.count("no executor in a shortage")
            del error
            time.sleep(0.2)

"""The master's side of a link of several ranks: a dispatcher without threads, used like a `MasterChannel`."""

from __future__ import annotations

from collections import deque
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool.serialization.payload import dump


class _Parts(Exception):
    """The parts of an exception, as they came."""


class _Received(list[Any]):
    """The parts of a result, as they came."""


class RanksChannel:
    """Sends calls to one worker, and returns what its ranks have answered together.

    Attributes:
        doorbells: The segment that its ranks need, besides that of the link.
    """

    def __init__(self) -> None:
        self._dispatcher = Dispatcher(_Received, lambda parts: _Parts(list(parts)), lambda: None)
        self._functions: dict[int, FunctionHandle] = {}
        self._sent: deque[tuple[int, Future[Any]]] = deque()
        self._calls = 0
        self.doorbells = self._dispatcher.doorbells

    def open(self, link: ring.Segment) -> None:
        """Have the worker with this link serve."""
        self._dispatcher.add_worker(1, link)

    def send(self, kind: int, _id: int, number: int, parts: list[Any]) -> None:
        """Send a message. The dispatcher numbers calls from 1."""
        if kind == ring.FUNCTION:
            self._functions[number] = FunctionHandle(number, bytes(parts[0]))
        elif kind == ring.END:
            assert self._dispatcher.retire_worker(1)
        else:
            future: Future[Any] = Future()
            self._dispatcher.adopt(future)
            future.function_name = "f"
            self._dispatcher.submit(future, self._functions.get(number), parts)
            self._calls += 1
            self._sent.append((self._calls, future))

    def receive(self, timeout_s: float) -> tuple[int, int, int, list[Any]] | None:
        """Return (kind, id, 0, parts) of the next answer; None after the timeout."""
        if not self._sent:
            return None
        call, future = self._sent[0]
        try:
            error = future.exception(timeout_s)
        except FutureTimeoutError:
            return None
        self._sent.popleft()
        if error is None:
            value = future.result()
            parts = value if type(value) is _Received else dump(value)  # the future reads small values itself
            return ring.RESULT, call, 0, parts
        if not isinstance(error, _Parts):
            raise error
        return ring.ERROR, call, 0, error.args[0]

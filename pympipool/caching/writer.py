"""The thread that writes results to disk.

    a call ends ─► its entry, in the mailbox ─► the thread wakes, waits PAUSE_S for more, and writes all that has ended in one
                                                transaction

A killed script loses what ended within the last PAUSE_S, and the calls that ran. Where writing fails, as on a full disk, the
calls go on, and the user is warned once.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._core.mailbox import Mailbox
from pympipool._util.service_threads import ServiceLogger, ServiceThread, flush_records, must_not_wait
from pympipool.caching.entries import Unwritten
from pympipool.caching.inputs import UNKNOWN
from pympipool.caching.modules import changed_since, version_of_files
from pympipool.caching.results import Result, storable_results

if TYPE_CHECKING:
    from pympipool.caching.store import Store

__all__ = ["Writer", "close_writers"]

LOGGER = ServiceLogger("pympipool.cache")

PAUSE_S = 0.05
"""How long results wait for others, with which they are written."""

SHARED_PAUSE_S = 0.5
"""The same on a network file system, where a transaction takes tens of milliseconds."""

WAKE_UPS_BYTES = 4096
"""More than what wakes the thread at once: a wake-up has several bytes, and one that was left would end the pause."""

FLUSH_LIMIT_S = 60.0
"""Longest wait for results to be written at the end of an executor."""

open_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


class Writer:
    """Writes the results of calls.

    Args:
        store: Where it writes them.

    Attributes:
        problem: Why results were not written; "" if all were.
        unkept: Names of functions of which some results were not written, or will not be.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.problem = ""
        self.unkept: set[str] = set()
        self._pause_s = SHARED_PAUSE_S if store.is_shared else PAUSE_S
        self._unfinished: dict[Unwritten, None] = {}  # the calls whose results are not written
        self._by_key: dict[bytes, Unwritten] = {}  # the last one of each key
        self._ended: list[Unwritten] = []
        self._flushed: list[Future[None]] = []
        self._is_closed = self._is_hurried = False
        self._pid = os.getpid()
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._mailbox = Mailbox(self._writing.fileno())
        self._thread = ServiceThread("pympipool_cache", self._run)
        try:
            self._thread.start()
        except BaseException:
            self._reading.close()
            self._writing.close()
            raise
        open_writers.add(self)

    # ---- for any thread ----

    def follow(self, future: Future[Any], entry: Unwritten) -> None:
        """Write the result of a call, or of a batch, when it has ended."""
        entry.future = future
        future.cache_entry = entry
        for key in entry.keys:
            self._by_key[key] = entry
        future._follow(self._mailbox, entry, self._unfinished)

    def close_with(self, owner: object) -> None:
        """Have the thread end after the last call when Python collects an executor. The callback runs no Python code there."""
        self._owner = weakref.ref(owner, self._mailbox.prepare(self._close).send)

    def is_about_to_write(self, key: bytes) -> bool:
        """Return True if a call with this key has returned, and its result is not written."""
        entry = self._by_key.get(key)
        future = None if entry is None else entry.future
        return entry in self._unfinished and future is not None and future.done() and future.has_result

    def flush_before(self, keys: Iterable[bytes]) -> None:
        """Write what has ended, if there is the result of one of these calls among it, so that it is found."""
        if self._by_key and any(map(self.is_about_to_write, keys)):
            self.flush()

    def flush(self) -> None:
        """Wait until the results of all calls that have ended are written, at most `FLUSH_LIMIT_S`."""
        if self._pid != os.getpid() or must_not_wait() or not self._thread.is_alive():
            return
        flushed: Future[None] = Future()
        self._mailbox.post(lambda: self._flushed.append(flushed))  # to the list of that time: the thread replaces it
        self._hurry()
        deadline_s = monotonic() + FLUSH_LIMIT_S
        while self._thread.is_alive() and monotonic() < deadline_s:
            with suppress(FutureTimeoutError):
                flushed.result(0.5)
                return

    def close(self, *, wait: bool) -> None:
        """End the thread after the last call."""
        if self._pid != os.getpid():
            return
        self._mailbox.post(self._close)
        self._hurry()
        if wait:
            self.flush()
            if not self._unfinished and not must_not_wait():
                self._thread.join(FLUSH_LIMIT_S)
            flush_records()

    def _hurry(self) -> None:
        """Have the thread write now what has ended."""
        self._is_hurried = True
        with suppress(OSError):  # the thread has just ended, or has much to read
            self._writing.send(b"\0")

    # ---- in the thread ----

    def _run(self) -> None:
        try:
            while not (self._is_closed and not self._unfinished):
                self._reading.settimeout(None)
                self._reading.recv(WAKE_UPS_BYTES)
                if not self._is_closed and not self._is_hurried:
                    self._reading.settimeout(self._pause_s)
                    with suppress(TimeoutError):
                        self._reading.recv(WAKE_UPS_BYTES)  # until `flush` or `close` sends another byte
                self._is_hurried = False
                self._mailbox.acknowledge()
                self._receive()
                self._write()
                self._tell_flushed()
        finally:
            self._mailbox.close()
            self._receive()
            self._tell_flushed()
            self._reading.close()
            self._writing.close()
            self._store.close()

    def _receive(self) -> None:
        while (post := self._mailbox.take()) is not None:
            if isinstance(post, Unwritten):
                self._ended.append(post)
            else:
                post.function()

    def _tell_flushed(self) -> None:
        flushed, self._flushed = self._flushed, []
        for future in flushed:
            future.set_result(None)

    def _close(self) -> None:
        self._is_closed = True

    def _write(self) -> None:
        """Write what has ended."""
        ended, self._ended = self._ended, []
        try:
            if ended:
                self._store.write(self._results(ended))
        except Exception as problem:  # whatever it is: the thread goes on
            self.problem = self.problem or f"results are not cached in {self._store.path!r}: {problem}"
            LOGGER.warning("%s", self.problem)
        finally:
            for entry in ended:
                self._unfinished.pop(entry, None)
                for key in entry.keys:
                    if self._by_key.get(key) is entry:  # else the call was made again
                        del self._by_key[key]
                entry.finish()

    def _results(self, ended: list[Unwritten]) -> Iterator[Result]:
        """Yield the results of futures. When the next one is asked for, the file of a large one is written."""
        version_of_files(now=True)  # look for changes
        for entry in ended:
            changed = "" if entry.version == UNKNOWN else changed_since(entry.modules, entry.version)
            if changed and entry.function_name not in self.unkept:
                LOGGER.warning(
                    "results of %s() are not cached: the module %s has changed meanwhile", entry.function_name, changed
                )
            if changed or entry.version == UNKNOWN:
                self.unkept.add(entry.function_name)
                continue
            try:
                yield from storable_results(entry)
            except GeneratorExit:
                raise
            except BaseException as problem:  # unpickling may run any code of the user
                self.unkept.add(entry.function_name)
                LOGGER.warning("the result of %s() was not cached: %s", entry.function_name, repr(problem))
            entry.is_written = True


def close_writers() -> None:
    """Write what the calls of executors have returned that have ended with the interpreter."""
    for writer in list(open_writers):
        writer.close(wait=True)

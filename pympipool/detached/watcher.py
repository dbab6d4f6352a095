"""The thread that submits the calls of an executor, and ends their futures.

    submit, map, cancel ─► mailbox ─► submit (submitting.py) ─► look for results, ask for all jobs at once (watches.py)

The folders of the submissions are looked at often, the scheduler is asked at growing intervals.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from subprocess import SubprocessError
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._core.mailbox import Mailbox
from pympipool._util.service_threads import ServiceLogger, ServiceThread, flush_records, must_not_wait
from pympipool._util.shadowing import shadowing
from pympipool.caching.file_waits import FileLockedError
from pympipool.detached import outcomes, records_file
from pympipool.detached.futures import Callbacks
from pympipool.detached.submitting import Call, Group, InputFailed, NotYet
from pympipool.detached.watches import Watches
from pympipool.errors import JobError, JobWarning, WorkerStartError
from pympipool.serialization.exception_forms import copy_exception

if TYPE_CHECKING:
    from pympipool.caching.store import Store
    from pympipool.detached.records import Records
    from pympipool.detached.schedulers import Scheduler
    from pympipool.detached.submitting import Submitter

__all__ = ["Watcher", "flush_watchers"]

LOGGER = ServiceLogger("pympipool.detached")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Pauses between two looks at the folders: the first after a change, and the longest."""

FIRST_QUESTION_S = 0.5
"""Pause after a change until the scheduler is asked; it doubles up to the scheduler's own limit."""

FLUSH_LIMIT_S = 600.0
"""Longest wait at the end of the script until all calls are submitted."""

HUNG_S = 30.0
"""For how long the records may be locked until the user is warned."""

SILENCE_S = 60.0
"""For how long a scheduler may give no answer until the user is warned."""

TRIES_MAX = 20
"""How often a group is tried again that SLURM has refused because of a job that has just ended, or whose input is not in the cache
yet."""

open_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()


class Watcher:
    """Submits calls and ends their futures.

    Args:
        records: The records of the jobs.
        store: The cache.
        scheduler: Runs the jobs.
        submitter: Submits calls.
    """

    def __init__(self, records: Records, store: Store, scheduler: Scheduler, submitter: Submitter) -> None:
        self._records = records
        self._store = store
        self._scheduler = scheduler
        self._submitter = submitter
        self._orders: deque[Callable[[], object]] = deque()  # from other threads
        self._queue: deque[Group] = deque()
        self._cancelled: set[Call] = set()
        self._watches = Watches(records, store, scheduler, submitter, self._queue.append, self._on_end)
        self._open: dict[Call, None] = {}  # the calls that have not ended
        self._flushed: list[Future[None]] = []
        self._is_closed = self._is_interrupted = self._has_forgotten = False
        self._callbacks = Callbacks()
        self._problems: set[str] = set()  # that the user was told of
        self._problem = ""  # the last one
        self._crash: BaseException | None = None
        self._is_over = False
        self._ending = threading.RLock()
        self._pause_s, self._question_s, self._asked_s = FIRST_PAUSE_S, FIRST_QUESTION_S, 0.0
        self._pid = os.getpid()
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._mailbox = Mailbox(self._writing.fileno())
        self._thread = ServiceThread("pympipool_detached", self._main)
        try:
            self._thread.start()
        except BaseException:
            self._reading.close()
            self._writing.close()
            raise
        open_watchers.add(self)

    # ---- for any thread ----

    def submit(self, group: Group) -> None:
        """Submit calls."""
        self._mailbox.post(partial(self._put, group))
        if self._is_over:
            self._fail_rest()

    def cancel(self, call: Call) -> None:
        """Cancel the job of a call whose future was cancelled."""
        self._mailbox.post(partial(self._cancel, call))

    def cancel_all(self) -> None:
        """Cancel all jobs of calls that have not ended, and the calls that are not submitted yet."""
        self._mailbox.post(partial(self._cancel_open, force=True))

    def cancel_waiting(self) -> None:
        """Cancel the calls that have not begun: those that the thread knows at once, then those that were just submitted."""
        self._cancel_open(force=False)
        self._mailbox.post(partial(self._cancel_open, force=False))

    def _cancel_open(self, *, force: bool) -> None:
        for call in reversed(list(self._open)):  # else tasks that wait would start in the place of those that end
            call.future.cancel(force=force)

    def check_running(self) -> None:
        """Raise RuntimeError if the thread has failed."""
        if self._crash is not None:
            raise RuntimeError(f"{self._describe_crash()}; make another Executor")

    def check_may_wait(self) -> None:
        """Raise RuntimeError where a wait for a call would never end: in the thread, and in a forked process."""
        if self._pid != os.getpid():
            raise RuntimeError(
                "this call was submitted by the process that this one is a fork of: only that one gets its result"
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "code in a thread of this executor (a __del__ that the garbage collector ran there, for example) waits for one of"
                " its calls, which needs that thread: do not wait there"
            )

    def run_elsewhere(self, function: Callable[[], object]) -> bool:
        """Have callbacks run in a thread of their own; return False if the caller may run them: it is not the thread."""
        return threading.current_thread() is self._thread and self._callbacks.put(function)

    def open_count(self) -> int:
        """Return the number of calls that have not ended."""
        return len(self._open)

    def close_with(self, owner: object) -> None:
        """Have the thread end after the last call when Python collects an executor."""
        self._owner = weakref.ref(owner, self._mailbox.prepare(self._close).send)

    def flush(self) -> None:
        """Wait until all calls are submitted, or have ended, at most `FLUSH_LIMIT_S`. Ctrl-C ends this wait and all later ones."""
        if self._pid != os.getpid() or must_not_wait() or not self._thread.is_alive() or self._is_interrupted:
            return
        flushed: Future[None] = Future()
        self._mailbox.post(lambda: self._flushed.append(flushed))
        deadline_s = monotonic() + FLUSH_LIMIT_S
        try:
            while self._thread.is_alive() and monotonic() < deadline_s:
                with suppress(FutureTimeoutError):
                    flushed.result(0.5)
                    return
        except KeyboardInterrupt:
            self._is_interrupted = True
            raise

    def close(self, *, wait: bool) -> None:
        """End the thread after the last call; with wait, return then, else when all calls are submitted."""
        if self._pid != os.getpid():
            return
        self._mailbox.post(self._close)
        self.flush()
        if wait and not must_not_wait():
            self._thread.join()
            self._callbacks.join()
        flush_records()

    # ---- in the thread ----

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._crash = error
            raise
        finally:
            self._is_over = True
            self._fail_rest()
            self._callbacks.end()

    def _run(self) -> None:
        try:
            while not (self._is_closed and not self._open and not self._queue and not self._orders):
                self._reading.settimeout(self._pause_s if self._open or self._queue or self._orders else None)
                with suppress(TimeoutError):
                    self._reading.recv(4096)
                    self._hurry()
                self._pause_s = min(self._pause_s * 1.3, LONGEST_PAUSE_S)
                self._mailbox.acknowledge()
                while (function := self._mailbox.peek()) is not None:
                    self._mailbox.drop()
                    self._orders.append(function)
                self._step()
                if not self._queue and not self._orders:
                    self._tell_flushed()
        finally:
            self._mailbox.close()
            self._tell_flushed()
            if self._watches.has_cancels():
                self._warn(f"jobs of cancelled calls go on: {self._problem}. End them by `pympipool jobs cancel`")
            self._reading.close()
            self._writing.close()
            self._records.close()
            self._store.close()

    def _step(self) -> None:
        """Submit what waits, and look at what was submitted. Whatever fails is tried again, and keeps nothing else waiting."""
        while self._orders:
            self._orders[0]()
            self._orders.popleft()
        failed: Exception | None = None
        for part in (self._forget_known, self._send_cancels, self._submit_queue, self._watches.look, self._ask):
            try:
                part()
            except FileLockedError as problem:
                self._problem = str(problem)
                self._pause_s = LONGEST_PAUSE_S
            except (OSError, sqlite3.Error, SubprocessError, WorkerStartError) as problem:
                self._problem = str(problem)
                LOGGER.warning("detached jobs: %s; it is tried again", problem)
                self._warn(f"detached jobs: {problem}; it is tried again until the script ends")
                self._pause_s = LONGEST_PAUSE_S
                failed = problem
        self._warn(self._scheduler.problem)
        if locked := self._records.lock_problem(HUNG_S):
            self._warn(f"detached jobs: {locked}. It is tried again for {records_file.HUNG_LIMIT_S:g} s")
        if locked := self._records.lock_problem(records_file.HUNG_LIMIT_S):
            self._fail_queue(f"{locked}. Nothing has changed for {records_file.HUNG_LIMIT_S:g} s")
        if isinstance(failed, sqlite3.Error) and records_file.is_damage(failed):
            words = records_file.describe_damage(self._submitter.root, failed)
            self._fail_queue(words)
            self._watches.fail_all(words)

    def _forget_known(self) -> None:
        if not self._has_forgotten:
            self._watches.forget_known()
            self._has_forgotten = True

    def _send_cancels(self) -> None:
        if self._cancelled:  # all at once: each question to a scheduler takes time
            cancelled, self._cancelled = self._cancelled, set()
            self._watches.cancel(cancelled)
        self._watches.send_cancels()

    def _submit_queue(self) -> None:
        for _ in range(len(self._queue)):
            self._submit_group(self._queue.popleft())

    def _ask(self) -> None:
        if self._watches and monotonic() - self._asked_s >= self._question_s:
            self._asked_s = monotonic()
            self._question_s = min(self._question_s * 2, self._scheduler.longest_pause_s)
            self._watches.ask()
            self._warn_of_silence()

    def _warn_of_silence(self) -> None:
        silence_s = self._watches.silence_s()
        if silence_s > SILENCE_S:
            self._warn(
                f"{self._scheduler.name} has not answered for {SILENCE_S:g} s: what becomes of detached jobs is not known; it is"
                " asked again until the script ends"
            )

    def _warn(self, problem: str) -> None:
        """Tell the user of a problem, once, in the thread of callbacks: what a warning calls may block, or raise."""
        if problem and problem not in self._problems:
            self._problems.add(problem)
            self._callbacks.put(partial(warnings.warn, problem, JobWarning))

    def _fail_rest(self) -> None:
        """End the futures of calls that the thread has not dealt with when it ended, or gets afterwards."""
        words = "the executor was shut down" if self._crash is None else self._describe_crash()
        with self._ending:
            while (function := self._mailbox.peek()) is not None:
                self._mailbox.drop()
                self._orders.append(function)
            while self._orders:
                with suppress(BaseException):  # the records are closed, and what ended the thread is among them
                    self._orders.popleft()()
            for call in list(self._open):
                self._open.pop(call, None)
                outcomes.fail(call, JobError(call.function, words=words))
            self._tell_flushed()

    def _describe_crash(self) -> str:
        return f"the thread that watches detached jobs has ended: {shadowing(self._crash) or repr(self._crash)}"

    def _hurry(self) -> None:
        """Look soon, and ask soon: something has changed."""
        self._pause_s, self._question_s = FIRST_PAUSE_S, FIRST_QUESTION_S

    def _tell_flushed(self) -> None:
        flushed, self._flushed = self._flushed, []
        for future in flushed:
            future.set_result(None)

    def _close(self) -> None:
        self._is_closed = True

    def _put(self, group: Group) -> None:
        self._queue.append(group)
        self._open.update(dict.fromkeys(group.calls))

    def _cancel(self, call: Call) -> None:
        self._on_end(call)
        self._cancelled.add(call)

    def _on_end(self, call: Call) -> None:
        self._open.pop(call, None)
        self._hurry()

    # ---- submitting ----

    def _submit_group(self, group: Group) -> None:
        group.calls = [call for call in group.calls if not self._has_ended(call)]
        pieces = deque([group])
        try:
            pieces = deque(self._submitter.pieces(group))
            while pieces:
                self._submit_piece(pieces[0])
                pieces.popleft()
        finally:
            self._queue.extend(pieces)  # whatever was raised, no call is forgotten

    def _submit_piece(self, piece: Group) -> None:
        try:
            places = self._submitter.places_of_inputs(piece.calls[0].inputs)
            claims = self._submitter.submit(piece, places)
        except NotYet:
            self._queue.append(piece)
        except InputFailed as failed:
            self._end_with_input(piece, failed.args[0])
        except (OSError, WorkerStartError, LookupError, ValueError, ImportError) as error:
            self._try_again_or_fail(piece, error)
        else:
            for call in piece.calls:
                self._watches.follow(call, claims.get(call.key))

    def _fail_queue(self, words: str) -> None:
        """End the futures of calls that cannot be submitted."""
        queue, self._queue = self._queue, deque()
        for call in [call for group in queue for call in group.calls]:
            outcomes.fail(call, JobError(call.function, words=words))
            self._on_end(call)

    def _try_again_or_fail(self, piece: Group, error: Exception) -> None:
        piece.tries += 1
        if piece.tries < TRIES_MAX and (isinstance(error, LookupError) or "ependency" in str(error)):
            self._queue.append(piece)
            return
        for call in piece.calls:
            outcomes.fail(call, error if call is piece.calls[0] else copy_exception(error))
            self._on_end(call)

    def _has_ended(self, call: Call) -> bool:
        if call.future.done():
            self._on_end(call)
        return call.future.done()

    def _end_with_input(self, piece: Group, failed: Any) -> None:
        for call in piece.calls:
            if failed.cancelled():
                call.future.cancel(force=True)
            else:
                outcomes.fail_without_result(call, "", "", "", ())
            self._on_end(call)


def flush_watchers() -> None:
    """Submit all calls before the interpreter ends. Their jobs go on."""
    for watcher in list(open_watchers):
        watcher.flush()

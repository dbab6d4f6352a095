# cython: language_level=3
"""The future: a `concurrent.futures.Future` that costs a tenth of a microsecond.

The standard library's future creates a condition, two lists and a dictionary for each call. This one keeps its state in
C fields (`future_core.pyx`). It unpickles a result only when that is read. The attributes that the standard library's functions
use (`_condition`, `_state`, `_waiters`, ...) are properties over these fields.

A thread that has waited for a future finds that its callbacks have run, although another thread runs them: `result`,
`exception`, and the `_condition` that `wait` and `as_completed` take, wait for them (`callbacks.pyx`).
"""

from pympipool._core.future_core cimport FutureCore, active_green_threads
from pympipool._core.listeners cimport CANCELLED, PENDING, RUNNING
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.own_frames cimport pmp_result_without_frames

from concurrent.futures import Future as StandardFuture
from concurrent.futures import InvalidStateError

from pympipool._core.listeners import FutureCondition, WaiterList


cdef class FutureMethods(FutureCore):
    """The behaviour of `Future`, which also inherits from the standard library's class."""

    def __reduce__(self):
        raise TypeError(
            "a Future can neither be copied nor sent to another process. As an argument, also inside lists, tuples, sets and"
            " dicts, it is replaced by its result; inside of anything else take its result() first")

    # ---- attributes that the standard library's functions use ----

    @property
    def _condition(self):
        if self.status >= CANCELLED:
            self.settle_callbacks(None)
        elif self.source is not None:
            self.source.check_may_wait()
        return FutureCondition(self)

    @property
    def _state(self):
        if self.status == PENDING or self.seen_pending():
            return "RUNNING" if self.running() else "PENDING"
        return self.state_name()

    @property
    def _waiters(self):
        waiters = WaiterList(self)
        green_threads = active_green_threads()
        return waiters if green_threads is None else green_threads.waiters_of(waiters)

    @property
    def _done_callbacks(self):
        callbacks = []
        lock_state()
        if self.callbacks is None:
            self.callbacks = callbacks
        callbacks = self.callbacks
        unlock_state()
        return callbacks

    @property
    def _result(self):
        self.decode()
        return self.value

    @property
    def _exception(self):
        return self.decoded_error()

    # ---- public methods ----

    def cancel(self, *, bint force=False):
        """Cancel the call if no worker has started it; return True if it is cancelled.

        Args:
            force: Cancel the call also if a worker runs it: the worker is killed, with all its ranks, and replaced. Calls
                that were sent to the same worker run on another one.
        """
        if not self.try_cancel(force):
            return self.status == CANCELLED
        self.run_callbacks()
        return True

    def cancelled(self):
        """Return True if the call was cancelled."""
        return self.status == CANCELLED

    def running(self):
        """Return True while a worker runs the call."""
        lock_state()
        has_call = self.status == PENDING and self.call != NULL and self.source is not None
        unlock_state()
        return self.source.is_started(self) if has_call else self.status == RUNNING

    def done(self):
        """Return True if the call was cancelled or has ended."""
        if self.status < CANCELLED and self.source is not None:
            self.source.poll()
        if self.status < CANCELLED:
            return False
        lock_state()
        is_observed = self.observations is not None
        unlock_state()
        if is_observed:
            self.forget_observation()  # of a wait() that an exception has interrupted
        return True

    def result(self, timeout=None):
        """Wait for the call and return its result.

        Args:
            timeout: Seconds to wait at most; None waits without limit.

        Raises:
            concurrent.futures.TimeoutError: The call has not ended in time.
            concurrent.futures.CancelledError: The call was cancelled.
            Exception: The exception that the call raised.
        """
        self.wait_until_done(timeout)
        lock_state()
        is_packed = self.parts is not None
        unlock_state()
        if is_packed:
            self.decode()
        if self.error is not None:
            try:
                raise self.error
            finally:
                self = None  # break the reference cycle of exception, traceback, frame and future
        return self.value

    def exception(self, timeout=None):
        """Wait like `result`; return the exception that the call raised, or None if it returned."""
        self.wait_until_done(timeout)
        return self.decoded_error()

    def add_done_callback(self, fn):
        """Call fn(future) when the call has ended or was cancelled; at once if that has happened already."""
        green_threads = active_green_threads()
        if green_threads is not None and self.status < CANCELLED:
            fn = green_threads.callback_in_green_thread(fn)
        queue = None
        callbacks = []
        lock_state()
        is_first = self.status < CANCELLED and not self.callbacks
        unlock_state()
        if is_first and self.source is not None:
            queue = self.source.queue_of_loop(fn)
        lock_state()
        try:
            if self.callbacks is None:
                self.callbacks = callbacks
            elif self.callbacks:
                queue = None
            self.callbacks.append(fn)
            queue, self.loop_queue = self.loop_queue, queue
            has_ended = self.status >= CANCELLED
        finally:
            unlock_state()
        if has_ended:
            self.run_callbacks()
        elif self.source is not None:
            self.source.notify_when_done(self)

    def uncached_result(self, timeout=None):
        """Return the result like `result`, without keeping a reference to it.

        A thread that still handles the future then keeps nothing alive. If the result is read again, it is unpickled again.
        """
        self.wait_until_done(timeout)
        parts = self.parts_of(False)
        if parts is None:
            return self.result()
        try:
            return self.load_value(parts)
        except Exception:
            return self.result()  # raises the failure, with the traceback that `result` gives it

    def set_running_or_notify_cancel(self):
        """Mark the future as running; return False if it was cancelled."""
        lock_state()
        is_pending = self.status == PENDING
        if is_pending:
            self.status = RUNNING
        unlock_state()
        if not is_pending and self.status != CANCELLED:
            raise InvalidStateError(f"Future in unexpected state: {self._state}")
        return is_pending

    def set_result(self, result):
        """End the future with a result."""
        if self.end(result, None, None, False):
            self.run_callbacks()

    def set_exception(self, exception):
        """End the future with an exception."""
        if self.end(None, exception, None, False):
            self.run_callbacks()


class Future(FutureMethods, StandardFuture):
    """The future that `Executor.submit` returns: a `concurrent.futures.Future`."""

    __slots__ = ()

    result = pmp_result_without_frames(FutureMethods, FutureMethods.result)

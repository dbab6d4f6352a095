# cython: language_level=3
"""Calls that are tried again after a failure, as the dispatcher sees them.

    deliver_call ─► hand_over: the future stays pending ─► continuation thread (execution/retries.py) ─┬► begin_attempt, submit
                                                                                                       └► accept_failure

From its first failure until the end of its future such a call counts as unfinished (`retrying`).
"""

from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport CANCELLED, PENDING
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.progress_engine cimport wake_waiting_thread
from pympipool._core.trace_buffer cimport unique_now_ns

from functools import partial


cdef class Attempts(FutureRequests):
    """The part of a `Dispatcher` that deals with failures after which a call may be tried again."""

    def may_retry(self, FutureCore future not None, function):
        """Have function() called in the continuation thread if the call fails, once. The future does not end then.

        That is for failures of the call itself: what it raises, and `fail_attempt`.
        """
        post = self.continuations.prepare(function)
        lock_state()
        future.on_failure = post
        unlock_state()

    cdef bint hand_over(self, FutureCore future, object parts) noexcept:
        """Leave the failure of a call that may be retried to the continuation thread; return False for other calls."""
        lock_state()
        post = future.on_failure
        is_handed_over = post is not None and future.status < CANCELLED
        if is_handed_over:
            future.on_failure = None
            future.parts = parts
            future.is_error = True
            self.retrying += not future.counts_as_retried
            future.counts_as_retried = True
            future.status = PENDING
            self.continuations.send(post)
        unlock_state()
        return is_handed_over

    def fail_attempt(self, FutureCore future not None, error):
        """End a future like `fail`, unless its call may be retried."""
        if future.status >= CANCELLED or not self.hand_over(future, partial(identity, error)
                                                            if isinstance(error, BaseException) else error):
            self.fail_with(future, error)

    def accept_failure(self, FutureCore future not None):
        """End a future with the failure of its last attempt."""
        if future.status == PENDING:
            if future.set_parts(future.parts_of(True), True):
                self.queue_callbacks(future)
            wake_waiting_thread(&self.core)

    def begin_attempt(self, FutureCore future not None, error, function):
        """Note that a call is tried again that has failed with this exception. For a trace it is another call, that follows.

        Args:
            function: See `may_retry`; None if this is the last attempt.
        """
        cdef long long submitted_ns = 0
        post = None if function is None else self.continuations.prepare(function)
        recorder = self.present_recorder()
        if recorder is not None and future.submitted_ns != 0:
            lock_state()
            submitted_ns = unique_now_ns()
            unlock_state()
            recorder.inputs[submitted_ns] = [future.submitted_ns]
        future.add_failure(error)
        lock_state()
        _parts, _shared = future.parts, future.shared  # dropped after the step
        future.on_failure = post
        future.parts = None
        future.shared = None
        future.is_error = False
        future.submitted_ns = submitted_ns
        future.ready_ns = 0
        future.times_moved = False
        unlock_state()

    def end_retries(self, FutureCore future not None):
        """Note that a call has ended, after `hand_over`."""
        lock_state()
        self.retrying -= future.counts_as_retried
        future.counts_as_retried = False
        unlock_state()
        wake_waiting_thread(&self.core)


def identity(value):
    """Return the value."""
    return value

# cython: language_level=3
"""The state of a future, in C fields, and how a thread waits for its end.

    submit ── future ──> user: result() ── CompletionSource.progress_until() ──> makes progress while it waits
                 ^
                 └── set_parts(), by the thread that holds the GIL and has received the bytes

A state change is C code that neither releases the GIL nor runs Python code, so it needs no lock but what stands for the GIL
where there is none (`state_lock.pxd`), and no signal handler can interrupt it. It allocates nothing, so that it cannot fail
either. That holds for a change and for telling everything that listens (`listeners.pyx`); the callbacks of users run afterwards.
"""

from pympipool._core.callbacks cimport CallbackThread, FutureWithCallbacks
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.pickle_reader cimport read_value

from concurrent.futures import CancelledError, InvalidStateError, TimeoutError
from time import monotonic

cdef object green_threads = None      # the module _util.green_threads, where a library has replaced threads
cdef frozenset PLAIN_TYPES = frozenset((int, float, complex, bool, str, bytes, type(None)))
cdef dict STATE_NAMES = {
    <int>PENDING: "PENDING",
    <int>RUNNING: "RUNNING",
    <int>CANCELLED: "CANCELLED_AND_NOTIFIED",
    <int>FINISHED: "FINISHED",
}


def set_green_threads(module):
    """Let green threads that wait for a future wait by the functions of this module from now on."""
    global green_threads
    green_threads = module


cdef object active_green_threads():
    """Return the module by whose functions green threads wait, or None."""
    return green_threads


cdef class CompletionSource(CallbackThread):
    """The origin of a future's result, with the requests that a future makes to it."""

    cdef bint progress_until(self, FutureCore future, double deadline_s) except -1:
        """Make progress until the future is done or the deadline (monotonic, s; 0: none) has passed.

        Returns:
            False, at once, if another thread makes progress already. The caller must then wait on the condition.
        """
        return False

    cdef int poll(self) except -1:
        """Set the results that have arrived on their futures, without waiting."""
        return 0

    cdef bint try_cancel(self, FutureCore future, bint force) except -1:
        """Take back the future's call, and cancel the future, if no worker has started it; else return False.

        Args:
            force: If a worker runs the call, have the worker killed, and cancel the future.
        """
        return False

    cdef bint is_started(self, FutureCore future) except -1:
        """Return True if a worker has started the call."""
        return False

    cdef int notify_when_done(self, FutureCore future) except -1:
        """Set the result of this future as soon as it arrives: a callback or another thread waits for it."""
        return 0

    cdef void notify_later(self) noexcept:
        """Set all results, from now on, within milliseconds after they arrive."""

    cdef void record_cancelled(self, FutureCore future) noexcept:
        """Record the end of a traced future that was cancelled."""

    cdef int check_may_wait(self) except -1:
        """Raise RuntimeError if the calling thread is one without which the future may never be done."""
        return 0

    # ---- for the thread of an event loop, see event_loops.pyx ----

    cdef EntryQueue queue_of_loop(self, object callback):
        """Return the queue of futures whose callbacks the loop of this thread runs; None: a thread of its own runs this one."""
        return None

    cdef void expect_poll(self) noexcept:
        """Leave progress to the loop: it will call `progress_for_loop` soon."""

    cdef bint progress_for_loop(self, bint may_spin) except -1:
        """Set the results that have arrived, or arrive within microseconds; return True if there were any."""
        return False

    cdef bint has_unfinished(self) except -1:
        """Return True if calls wait or run."""
        return False

    def load(self, parts, is_error):
        """Unpickle the result, or the exception, that was given to set_parts."""
        raise NotImplementedError


cdef class FutureCore(FutureWithCallbacks):
    """The state of a `Future`, for the dispatcher."""

    def __cinit__(self):
        self.attempts = 1

    def __init__(self):
        pass  # in place of the standard library's, which would create the objects that this class avoids

    # ---- retries ----

    @property
    def retried_errors(self):
        """The exceptions of the attempts that were followed by another one, oldest first."""
        return list(self.failures or ())

    def add_failure(self, error):
        """Note that the call is tried again that has failed with this exception."""
        self.failures = [*(self.failures or ()), error]
        self.attempts += 1

    def failure(self):
        """Return the exception with which the last attempt of a call has failed that may be retried."""
        lock_state()
        parts = self.parts
        unlock_state()
        return self.source.load(parts, True)

    # ---- what the call was given ----

    def keep(self, fn, args, kwargs):
        """Keep a call's function and arguments until the call has ended.

        An argument may stand for something that exists only as long as the argument does: a temporary folder, an object
        of a Manager. Numbers and strings are not kept, since many calls may wait.
        """
        self.keep_arguments(fn, args, kwargs)

    cdef int keep_arguments(self, object fn, object args, object kwargs) except -1:
        cdef object kept = fn
        if kwargs:
            kept = (fn, args, kwargs)
        else:
            for arg in args:
                if type(arg) not in PLAIN_TYPES:
                    kept = (fn, args)
                    break
        lock_state()
        kept, self.kept = self.kept, kept
        unlock_state()
        return 0

    cdef void drop_kept(self, bint with_shared) noexcept:
        """Drop what only an unfinished call needs. This may run finalizers of users."""
        cdef dict _shared = None
        lock_state()
        _kept, _retry, _on_failure = self.kept, self.retry, self.on_failure  # all this is dropped after the step
        self.kept = self.retry = self.on_failure = None
        if with_shared:
            _shared, self.shared = self.shared, None
        unlock_state()

    # ---- what the call returns ----

    def keep_shared(self, worker, shared_object):
        """Keep what the call has put into shared memory for its result, as long as this future exists.

        The result, which may never be unpickled, has only the key of it.

        Args:
            worker: The number of the worker that runs the call. If another one ran it before, that has died.
        """
        cdef dict shared = {worker: []}
        lock_state()
        try:
            if self.status < CANCELLED:
                if self.shared is None or worker not in self.shared:
                    shared, self.shared = self.shared, shared  # what the worker before has shared is dropped at the end
                self.shared[worker].append(shared_object)
        finally:
            unlock_state()

    # ---- for calls that wait for this one ----

    @property
    def has_result(self):
        """True if the call has returned a result, as far as is known without unpickling it."""
        return self.status == FINISHED and not self.has_failed()

    @property
    def pending_error(self):
        """The function that makes the exception of this future when it is read (see `Completion.fail`), or None."""
        parts = self.parts_of(True)
        return parts if callable(parts) else None

    def pickled_result(self):
        """Return the result as it was received, [pickle, *buffers], or None if it was unpickled already."""
        parts = self.received_result()
        if parts is None:
            return None
        if self.cache_entry is not None:
            parts = self.cache_entry.take(parts, False)
        return parts if type(parts) is list else [parts]

    def received_result(self):
        """Return the parts of the result as they were received, whatever the cache would make of them; None if they were read."""
        return self.parts_of(False) if self.status == FINISHED else None

    cdef object parts_of(self, bint error):
        """Return the parts of an exception, or those of a result; None if it is the other one, or was read."""
        lock_state()
        parts = self.parts if self.is_error == error else None
        unlock_state()
        return parts

    # ---- setting results ----

    def answer(self, CompletionSource source not None, parts):
        """End a future that has no call with a pickled result. The source unpickles it when it is read."""
        self.source = source
        if self.set_parts(parts, False):
            self.run_callbacks()

    cdef bint set_parts(self, object parts, bint is_error) except -1:
        """End the future with bytes to unpickle later; return True if there are callbacks to run."""
        try:
            return self.end(None, None, parts, is_error)
        except InvalidStateError:
            return False  # the user has ended it

    cdef bint set_error(self, object error) except -1:
        """End the future with an exception; return True if there are callbacks to run."""
        try:
            return self.end(None, error, None, False)
        except InvalidStateError:
            return False

    cdef bint end(self, object value, object error, object parts, bint is_error) except -1:
        self.finish(value, error, parts, is_error)
        self.tell_listeners()
        self.drop_kept(parts is None or is_error)
        return self.has_callbacks()

    cdef int finish(self, object value, object error, object parts, bint is_error) except -1:
        lock_state()
        _before = self.parts  # of a failed attempt; dropped after the step
        has_ended = self.status >= CANCELLED
        if not has_ended:
            self.value = value
            self.error = error
            self.parts = parts
            self.is_error = is_error
            self.status = FINISHED
        unlock_state()
        if has_ended:
            raise InvalidStateError(f"{self.state_name()}: {self!r}")
        return 0

    cdef str state_name(self):
        return STATE_NAMES[<int>self.status]

    cdef bint try_cancel(self, bint force) except -1:
        """Cancel the call, without running callbacks of users; return False if it runs, or has ended, or was cancelled."""
        lock_state()
        is_pending = self.status == PENDING
        has_call = self.call != NULL and self.source is not None
        if is_pending and not has_call:
            self.status = CANCELLED
        unlock_state()
        if not is_pending or (has_call and not self.source.try_cancel(self, force)):
            return False
        self.tell_listeners()
        if self.submitted_ns != 0:
            self.source.record_cancelled(self)
        self.drop_kept(True)
        return True

    # ---- for listeners ----

    cdef int expect_end(self) except -1:
        if self.source is not None:
            self.source.notify_when_done(self)
        return 0

    cdef void expect_end_later(self) noexcept:
        if self.source is not None:
            self.source.notify_later()

    cdef bint has_failed(self):
        lock_state()
        has_failed = self.status == FINISHED and (self.is_error or self.error is not None)
        unlock_state()
        return has_failed

    # ---- waiting and unpickling ----

    cdef int wait_until_done(self, object timeout) except -1:
        """Wait until the future is done and its callbacks have run; raise TimeoutError or CancelledError."""
        if self.status < CANCELLED:
            self.wait(timeout)
        self.settle_callbacks(timeout)
        if self.status == CANCELLED:
            raise CancelledError()
        return 0

    cdef int settle_callbacks(self, object timeout) except -1:
        """Wait until the callbacks of this future, which is done, have run."""
        if self.has_callbacks_left() and self.loop_queue is None and green_threads is None:
            self.wait_for_callbacks(self.source, timeout)
        return 0

    cdef int wait(self, object timeout) except -1:
        """Wait until the future is done; raise TimeoutError after the timeout."""
        cdef double deadline_s = 0
        if timeout is not None:
            deadline_s = monotonic() + max(<double>timeout, 0.0)
        while self.status < CANCELLED:
            if green_threads is not None and green_threads.wait_until_done(self, deadline_s):
                pass
            elif self.source is None or not self.source.progress_until(self, deadline_s):
                self.wait_for_end(-1.0 if deadline_s == 0 else max(deadline_s - monotonic(), 0.0))
            if self.status < CANCELLED and deadline_s != 0 and monotonic() >= deadline_s:
                raise TimeoutError()
        return 0

    cdef object load_value(self, object parts):
        """Return the result that parts are the pickle of."""
        if self.cache_entry is not None:
            return self.source.load(self.cache_entry.take(parts, True), False)
        value = read_value(parts)
        return self.source.load(parts, False) if value is ... else value

    cdef int decode(self) except -1:
        """Unpickle the result, once. An exception in unpickling becomes the call's exception.

        Raises:
            MemoryError: There is no memory for the result. It is not kept: there may be memory next time, and the
                interpreter has a reserve of few such objects for the time when there is none at all.
        """
        lock_state()
        parts = self.parts
        is_error = self.is_error
        unlock_state()
        if parts is None:
            return 0
        value = error = None
        try:
            value = self.source.load(parts, True) if is_error else self.load_value(parts)
        except MemoryError:
            raise
        except Exception as failure:
            error = failure.with_traceback(None)
        if is_error and error is None:
            error, value = value, None
        lock_state()
        if self.parts is not None:  # otherwise another thread was faster
            self.error = error
            self.value = value
            self.parts = None
        unlock_state()
        return 0

    cdef object decoded_error(self):
        try:
            self.decode()
        except MemoryError as error:
            return error.with_traceback(None)
        return self.error

# cython: language_level=3
"""Sets results on futures, and ends futures whose calls get none.

    done (of pump.pyx) ─► deliver: sets the bytes on the future ─► unpickled by the thread that reads the result
    a call fails, or is cancelled ─► fail, cancel
    code of users would run ─► call_soon: the completion thread does it

Callbacks of users run in a thread of their own (`callbacks.pyx`). What follows from the end of a call, such as the start of
a call that waited for its result, runs in another thread of its own, the continuation thread: there results are unpickled,
which may run code of users and take long.
"""

from cpython.pythread cimport PyThread_get_thread_ident

from pympipool._core.call_traces cimport CallTraces
from pympipool._core.calls cimport free_call, parts_of_result
from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport CANCELLED, PENDING, RUNNING
from pympipool._core.mailbox cimport EntryQueue, Mailbox, Post, lock_state, run_until_there_is_memory, unlock_state
from pympipool._core.progress_engine cimport pump_and_notify, request_completion, wake_waiting_thread
from pympipool._core.pump cimport record_unanswered
from pympipool._core.state_lock cimport pmp_count
from pympipool._core.trace_buffer cimport FAILED, Outcome, unique_now_ns
from pympipool._core.types cimport Call, Core, pmp_mutex_lock, pmp_mutex_unlock, remove

from functools import partial

from pympipool._util.service_threads import ServiceLogger

cdef object LOGGER = ServiceLogger("pympipool.dispatch")


cdef class Completion(CallTraces):
    """The part of a `Dispatcher` that ends futures."""

    def __cinit__(self, load, load_error, *_):
        self.load_result = load
        self.load_error = load_error
        self.ended = EntryQueue()
        self.continuations = Mailbox()
        self.requests = Mailbox()

    def load(self, parts, is_error):
        if type(parts) is not list:
            if is_error and callable(parts):
                return parts()
            if type(parts) is int:
                raise MemoryError(f"no memory for a result of {parts} bytes")
            parts = [parts]
        return self.load_error(parts) if is_error else self.load_result(parts)

    # ---- futures ----

    def adopt(self, FutureCore future not None):
        """Make this dispatcher the completion source of a new future. For a trace, the call is submitted now."""
        future.source = self
        lock_state()
        if self.recorder is not None:
            future.submitted_ns = unique_now_ns()
        unlock_state()

    def fail(self, FutureCore future not None, error):
        """End a future that has no call any more with an exception.

        Args:
            error: The exception, which no other future has. Or a function without arguments that returns it: the thread
                that reads the exception calls it.
        """
        self.fail_with(future, error)

    cdef void fail_with(self, FutureCore future, object error) noexcept:
        lock_state()
        has_ended = future.status >= CANCELLED
        if not has_ended:
            future.status = RUNNING  # cannot be cancelled from here on
        unlock_state()
        if has_ended:
            return
        pmp_count(&self.lost, 1)
        self.note(future, FAILED)
        if isinstance(error, BaseException):
            has_callbacks = future.set_error(error)
        else:
            has_callbacks = future.set_parts(error, True)
        if has_callbacks:
            self.queue_callbacks(future)
        wake_waiting_thread(&self.core)

    cdef void queue_callbacks(self, FutureCore future) noexcept:
        """Have the callbacks of a future run, which has ended, by the thread for callbacks or by an event loop."""
        lock_state()
        queue = self.ended if future.loop_queue is None else future.loop_queue
        unlock_state()
        queue.put(future)

    def cancel(self, FutureCore future not None):
        """Cancel a future's call if no worker has started it. Its callbacks run in the thread for callbacks."""
        self.try_to_cancel(future)

    cdef void try_to_cancel(self, FutureCore future) noexcept:
        if future.try_cancel(False):
            if future.has_callbacks():
                self.queue_callbacks(future)
            wake_waiting_thread(&self.core)

    cdef bint hand_over(self, FutureCore future, object parts) noexcept:
        """Leave the failure of a call that may be retried to the continuation thread; return False for other calls."""
        return False

    def fail_soon(self, FutureCore future not None, error):
        """End a future like `fail`, but in the completion thread (see `call_soon`)."""
        self.call_soon(self.fail, future, error)

    def call_soon(self, function, *args):
        """Call function(*args) in the completion thread; again, if it raises MemoryError.

        For the supervisor, which must not run code of users: the end of a future releases what its call was given, and
        calls that wait for it are sent.
        """
        self.requests.post(partial(function, *args) if args else function)
        request_completion(&self.core)

    cdef void run_requests(self) noexcept:
        """Do what `call_soon` was given. A request counts as unfinished until it is done."""
        while self.requests.has_entry():
            pmp_count(&self.running_requests, 1)
            self.run_posted(<Post>self.requests.pop())
            pmp_count(&self.running_requests, -1)
            wake_waiting_thread(&self.core)

    cdef void run_posted(self, Post post) noexcept:
        """Run a function that was posted, whatever it raises: other calls must go on.

        What belongs to a call fails the call, and nothing is raised. So what is raised here is a shortage of memory before
        anything could be done, or a fault of ours.
        """
        try:
            run_until_there_is_memory(post.function)
        except BaseException:  # also SystemExit of user code, of a finalizer for example
            LOGGER.exception("unexpected failure in a thread of an executor")

    @property
    def unfinished_count(self):
        """Number of calls that wait or run, and of results that are not set on their futures yet."""
        cdef Py_ssize_t unfinished
        lock_state()
        pmp_mutex_lock(&self.core.lock)
        unfinished = self.core.waiting.length + self.core.done.length
        unfinished += self.requests.length + self.running_requests + self.delivering + self.retrying
        unfinished += self.core.in_flight
        pmp_mutex_unlock(&self.core.lock)
        unlock_state()
        return unfinished

    def after_fork_in_child(self):
        """Detach a forked child from the state that its parent goes on using."""
        self.in_forked_child = True

    def wake_waiting_thread(self):
        """Make the waiting thread that makes progress check again if it can stop waiting."""
        wake_waiting_thread(&self.core)

    # ---- results ----

    cdef bint pump(self) noexcept:
        """Do one round; return True if there are results to deliver."""
        pmp_mutex_lock(&self.core.lock)
        pump_and_notify(&self.core)
        cdef bint has_results = self.core.done.first != NULL
        pmp_mutex_unlock(&self.core.lock)
        return has_results

    cdef void deliver(self) noexcept:
        """Set the results that have arrived on their futures. Runs no Python code (see `listeners.pyx`)."""
        cdef bint delivered = False
        cdef Call *call
        while True:
            call = self.take_done_call()
            if call == NULL:
                break
            self.deliver_call(call)
            pmp_count(&self.delivering, -1)
            delivered = True
        if delivered and self.waiting_thread != PyThread_get_thread_ident():
            wake_waiting_thread(&self.core)  # the waiting thread's future may be among them

    cdef Call *take_done_call(self) noexcept:
        """Part the next call whose result has arrived from its future, and return it; NULL: there is none."""
        cdef Call *call
        cdef FutureCore future
        lock_state()
        pmp_mutex_lock(&self.core.lock)
        call = take_done(&self.core)
        pmp_count(&self.delivering, call != NULL)
        pmp_mutex_unlock(&self.core.lock)
        if call != NULL:
            future = <FutureCore>call.future
            future.call = NULL
            if future.status == PENDING:
                future.status = RUNNING  # cannot be cancelled from here on
            future.run_ns = call.run_ns
        unlock_state()
        return call

    cdef void deliver_call(self, Call *call) noexcept:
        cdef FutureCore future = <FutureCore>call.future
        cdef bint is_error = call.is_error
        if future.status < CANCELLED:  # otherwise the user has ended it, by set_result for example
            try:
                parts = parts_of_result(call)
                is_error = is_error or type(parts) is int
            except BaseException:  # no memory, not even for the size of the result: the reader gets MemoryError()
                parts = MemoryError
                is_error = True
            if not (is_error and self.hand_over(future, parts)) and future.set_parts(parts, is_error):
                self.queue_callbacks(future)
        free_call(call)  # may run user code, as the last reference to the arguments may go

    cdef void end_waiting(self, Outcome outcome, object make_error) noexcept:
        """End the calls that wait now: each leaves the list when its future ends.

        Args:
            outcome: For traces: CANCELLED or FAILED.
            make_error: Makes the exception of each failed call.
        """
        cdef Py_ssize_t left = self.core.waiting.length
        cdef Call *call
        while left > 0:
            left -= 1
            call = self.take_waiting_call(outcome)
            if call == NULL:
                return
            self.end_call(call, outcome, make_error)

    cdef Call *take_waiting_call(self, Outcome outcome) noexcept:
        """Part the first waiting call from its future, and return it; NULL: no call waits."""
        cdef Call *call
        lock_state()
        pmp_mutex_lock(&self.core.lock)
        call = self.core.waiting.first
        if call != NULL:
            remove(&self.core.waiting, call)
            record_unanswered(&self.core, NULL, call, outcome)
        pmp_mutex_unlock(&self.core.lock)
        if call != NULL:
            (<FutureCore>call.future).call = NULL
        unlock_state()
        return call

    cdef void end_call(self, Call *call, Outcome outcome, object make_error) noexcept:
        """Cancel or fail the future of a call that is in no list any more, and free the call."""
        cdef FutureCore future = <FutureCore>call.future
        if outcome == FAILED:
            self.fail_with(future, make_error)
        else:
            self.try_to_cancel(future)
        free_call(call)  # last, because it may run finalizers of users


cdef Call *take_done(Core *core) noexcept:
    """Return the next call whose result has arrived, or NULL. The caller holds the lock."""
    cdef Call *call = core.done.first
    if call != NULL:
        remove(&core.done, call)
        core.watched_done -= call.watched
    return call

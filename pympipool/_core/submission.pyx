# cython: language_level=3
"""Takes calls, and queues them for the workers.

    submit(future, function, parts)       a call that is pickled ─┐
    submit_small(function, args, kwargs)  most calls ─────────────┴─► Call ─► pump.pyx

A call is queued in one function of C, which no signal handler can interrupt: whole, or not at all.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t

from pympipool._core.calls cimport COPY_LIMIT, FunctionHandle, free_call, new_call, new_small_call
from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport PENDING
from pympipool._core.mailbox cimport Mailbox, lock_state, unlock_state
from pympipool._core.opcodes cimport Pickle, begin, release
from pympipool._core.pickle_writer cimport ITEMS_MAX, write_call
from pympipool._core.progress_engine cimport send_and_notify
from pympipool._core.pump cimport send_reserved
from pympipool._core.ring cimport PMP_CACHED, PMP_TRACED, pmp_now_ns
from pympipool._core.scheduler cimport find_worker, is_claimed, recall_all
from pympipool._core.state_lock cimport pmp_count, pmp_get_item
from pympipool._core.trace_buffer cimport CANCELLED, FAILED
from pympipool._core.types cimport Call, Worker, append, pmp_mutex_lock, pmp_mutex_unlock
from pympipool._core.workers cimport Workers

from pympipool._core.future import Future

cdef extern from *:
    """
    static inline PyObject *pmp_new_object(PyObject *type, PyObject *args) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, args, NULL);
    }
    """
    object new_object "pmp_new_object"(object type, object args)

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *address)


cdef class Submission(Workers):
    """The part of a `Dispatcher` that takes calls."""

    @property
    def is_open(self):
        """True as long as calls are accepted."""
        return self.closing_reason() is None

    def check_open(self):
        """Raise RuntimeError if calls are not accepted any more."""
        reason = self.closing_reason()
        if reason is not None:
            raise RuntimeError(reason)

    cdef str closing_reason(self):
        """Return the reason for rejecting new calls, or None."""
        lock_state()
        reason = self.closed
        unlock_state()
        return reason

    def close(self, str reason not None):
        """Reject new calls with this reason, except those that are admitted already."""
        lock_state()
        self.closed = reason
        unlock_state()

    def kill(self, str reason not None):
        """Reject new calls with this reason, and cancel those that are admitted already and submitted from now on."""
        lock_state()
        self.closed = reason
        self.killed = True
        unlock_state()

    def admit(self, dict pending not None, member, Mailbox mailbox not None, function, bint admitted):
        """Accept a call that another thread will submit: post the function that does so, and count the call.

        This is one step, which no signal handler can interrupt: either the call is accepted and will be submitted, or
        nothing has happened.

        Args:
            pending: What has been accepted and is not finished. Gets the member.
            admitted: Accept the call even if the dispatcher is closed.

        Returns:
            False if the call must be cancelled: the executor is being killed.

        Raises:
            RuntimeError: The dispatcher is closed.
        """
        post = mailbox.prepare(function)  # first, because the garbage collector may let another thread close the dispatcher
        lock_state()
        try:
            is_killed = self.killed or self.core.stopping
            is_accepted = not is_killed and (self.closed is None or admitted)
            if is_accepted:
                pending[member] = None
                mailbox.send(post)
        finally:
            unlock_state()
        if not is_accepted and not admitted:
            raise RuntimeError(self.closing_reason())
        return is_accepted

    def fail_all(self, make_error):
        """End the waiting calls, and all that will be submitted, with an exception each, which make_error() returns."""
        lock_state()
        _before, self.broken = self.broken, make_error  # what was there is dropped after the step
        unlock_state()
        self.fail_waiting(make_error)

    def reject(self, make_error):
        """End all calls that are submitted from now on with an exception each, which make_error() returns.

        Nothing changes if they end with one already.
        """
        lock_state()
        if self.broken is None:
            self.broken = make_error
        unlock_state()

    def fail_waiting(self, make_error):
        """End the waiting calls soon, with an exception each, which make_error() returns."""
        self.call_soon(self._fail_waiting, make_error)

    def _fail_waiting(self, make_error):
        self.end_waiting(FAILED, make_error)

    # ---- calls ----

    def take_small_calls(self, dict functions not None, kinds not None, int attempts):
        """Have `submit_small` take calls.

        Args:
            functions: The functions that have a number, by their id.
            kinds: As of `dump_small_call`.
            attempts: As of `submit`.
        """
        self.kinds = kinds
        self.attempts_of_small = attempts
        self.functions = functions

    def submit_small(self, fn, tuple args not None, dict kwargs not None):
        """Pickle and queue a call of a function that has a number, with small arguments: the whole of most calls of `submit`.

        Returns:
            Its future; None: nothing has happened, and `submit` must take the call, or say why it does not.
        """
        cdef Pickle pickle
        cdef Call *call
        cdef FutureCore future
        cdef FunctionHandle function = self.find_function(fn)
        cdef list parts = [None]
        if function is None:
            return None
        begin(&pickle, ITEMS_MAX)
        try:
            if not write_call(&pickle, args, kwargs, self.kinds, parts) or len(parts) > 1 or pickle.size_bytes > COPY_LIMIT:
                return None
            future = <FutureCore>new_object(Future, ())
            future.source = self
            future.function_name = function.name
            future.keep_arguments(fn, args, kwargs)
            call = new_small_call(pickle.data, pickle.size_bytes)
        except Exception:  # no memory, or a handle that is none: `submit` raises the error
            return None
        finally:
            release(&pickle)
        call.function = function.function
        pmp_count(&call.function.references, 1)
        call.attempts_left = self.attempts_of_small
        # Checked last: what is above may have run the garbage collector, and so code of users.
        lock_state()
        is_taken = self.closed is None and self.broken is None and self.recorder is None and not self.in_forked_child
        if is_taken:
            self.queue_call(future, call, 0)
        unlock_state()
        if not is_taken:
            free_call(call)
            return None
        return future

    cdef FunctionHandle find_function(self, fn):
        """Return a function that has a number and is still what was sent; otherwise None."""
        cdef FunctionHandle function
        cdef PyObject *found
        if self.functions is None:
            return None
        found = pmp_get_item(self.functions, PyLong_FromVoidPtr(<void *>fn))
        if found == NULL:
            return None
        function = <FunctionHandle>found
        Py_DECREF(function)  # the reference that was given; this function has its own
        return function if function.is_unchanged() else None

    def submit(self, FutureCore future not None, FunctionHandle function, list parts not None,
               *, attempts=0, worker=None, bint admitted=False):
        """Queue a call, and send it if there is a worker for it now. Do nothing if the future is cancelled.

        Args:
            future: Gets the result; must be pending and adopted by this dispatcher (see `adopt`).
            function: The function to run, or None if parts[0] contains it.
            parts: The pickled arguments and their buffers, at most 1024 parts.
            attempts: Number of retries after the death of a worker.
            worker: The number of a reserved worker, to which the call is sent now.
            admitted: Accept the call even if the dispatcher is closed.

        Raises:
            RuntimeError: The dispatcher is closed.
        """
        if self.fail_if_broken(future):
            return
        cdef Call *call = new_call(parts)
        cdef uint64_t number = 0 if worker is None else worker
        if function is not None:
            call.function = function.function
            pmp_count(&call.function.references, 1)
        call.attempts_left = attempts
        if future.rows:
            call.rows = future.rows
        lock_state()
        try:
            rejection = self.reason_to_reject(future, admitted)  # checked last: creating the call may have released the GIL
            if rejection == NONE:
                if future.submitted_ns != 0:
                    self.move_times_to(future, call)
                self.queue_call(future, call, number)
                call = NULL
        finally:
            unlock_state()
            if call != NULL:  # rejected, or there is no memory
                free_call(call)
        if rejection == KILLED:
            self.cancel(future)
        elif rejection == BROKEN:
            self.fail_if_broken(future)
        elif rejection == CLOSED:
            raise RuntimeError(self.closing_reason())

    cdef Rejection reason_to_reject(self, FutureCore future, bint admitted) noexcept:
        if future.status != PENDING:
            return ENDED
        if admitted and (self.killed or self.core.stopping):
            return KILLED
        if self.broken is not None:
            return BROKEN
        return CLOSED if self.closed is not None and not admitted else NONE

    cdef void queue_call(self, FutureCore future, Call *call, uint64_t number) noexcept:
        """Queue a call, and send it if there is a worker for it now: one step, which no signal handler can interrupt.

        Args:
            number: Of a reserved worker, to which the call is sent now; 0: none.
        """
        cdef Worker *reserved = NULL
        Py_INCREF(future)
        call.future = <void *>future
        future.call = call
        call.watched = (future.callbacks is not None or future.waiters is not None or future.end_locks is not None
                        or future.posts is not None or future.on_failure is not None)
        pmp_mutex_lock(&self.core.lock)
        self.next_id += 1
        call.id = self.next_id
        if future.submitted_ns != 0:
            call.id |= PMP_TRACED
        if future.cache_entry is not None and future.rows == 0:  # a batch may have an entry by now, but its results travel
            call.id |= PMP_CACHED
        self.core.submitted += 1
        if self.core.first_ns == 0:
            self.core.first_ns = pmp_now_ns()
        if number != 0:
            reserved = find_worker(&self.core, number)
        if reserved == NULL or not send_reserved(&self.core, reserved, call):
            append(&self.core.waiting, call)
        send_and_notify(&self.core)
        pmp_mutex_unlock(&self.core.lock)
        if self.on_crowded is not None:
            self.tell_if_crowded()

    cdef void tell_if_crowded(self) noexcept:
        """Have the function of `call_when_crowded` called if there are so many calls."""
        lock_state()
        post = self.on_crowded
        if post is not None and self.count_calls() > self.crowd:
            self.on_crowded = None
            post.mailbox.send(post)
        unlock_state()

    def call_when_crowded(self, Mailbox mailbox not None, function, Py_ssize_t calls):
        """Have function() called in the thread of a mailbox, once, when more than so many calls wait or run; maybe now."""
        post = mailbox.prepare(function)
        lock_state()
        self.crowd = calls
        post, self.on_crowded = self.on_crowded, post
        unlock_state()
        self.tell_if_crowded()

    @property
    def call_count(self):
        """Number of calls that wait or run."""
        return self.count_calls()

    cdef Py_ssize_t count_calls(self) noexcept:
        pmp_mutex_lock(&self.core.lock)
        calls = self.core.waiting.length + self.core.in_flight
        pmp_mutex_unlock(&self.core.lock)
        return calls

    # ---- the end of calls ----

    def cancel_waiting(self):
        """Cancel all calls that no worker has started."""
        pmp_mutex_lock(&self.core.lock)
        for i in range(self.core.worker_count):
            recall_all(&self.core, self.core.workers[i])
        pmp_mutex_unlock(&self.core.lock)
        self.end_waiting(CANCELLED, None)

    def fail_if_broken(self, FutureCore future not None):
        """End a call with the exception that all calls end with (see `fail_all` and `reject`); return False if there is none."""
        lock_state()
        make_error = self.broken
        unlock_state()
        if make_error is not None:
            self.fail(future, make_error)
        return make_error is not None

    def take_waiting(self, list futures not None):
        """Take the calls that wait now: their futures, which are still pending, are added to the list."""
        cdef Call *call
        while True:
            futures.append(None)  # first, because nothing may fail once a call is in no list
            call = self.take_waiting_call(FAILED)
            if call == NULL:
                futures.pop()
                return
            futures[len(futures) - 1] = <object>call.future
            free_call(call)

    @property
    def waiting_count(self):
        """Number of calls that were not sent to a worker yet."""
        pmp_mutex_lock(&self.core.lock)
        waiting = self.core.waiting.length
        pmp_mutex_unlock(&self.core.lock)
        return waiting

    def statistics(self):
        """Return how many calls are in which state. Each call of a batch counts.

        Returns:
            (waiting, running, returned, failed without an answer, raised (of the returned), seconds from the first
            submission to the last result, or to now if there are calls that wait or run).
        """
        cdef Py_ssize_t waiting
        cdef Py_ssize_t running = 0
        cdef Worker *worker
        pmp_mutex_lock(&self.core.lock)
        waiting = self.core.waiting.rows
        for i in range(self.core.worker_count):
            worker = self.core.workers[i]
            waiting += worker.in_flight.rows
            if worker.in_flight.first != NULL and is_claimed(worker, worker.in_flight.first):
                running += 1
        returned, raised = self.core.returned, self.core.failed
        span_ns = (pmp_now_ns() if waiting > 0 else self.core.last_ns) - self.core.first_ns
        pmp_mutex_unlock(&self.core.lock)
        return waiting - running, running, returned, <long long>self.lost, raised, max(span_ns, 0) / 1e9

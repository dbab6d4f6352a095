# cython: language_level=3
"""Results to futures, and what futures ask: the side of the dispatcher that users' threads are on.

    done (of pump.pyx) ─► deliver: bytes are set on the future ─► unpickled where somebody looks
    future.result()       ─► help:    the thread moves bytes itself, until its future is done
    future.cancel()       ─► try_cancel, future.running() ─► begun, future.done() ─► poll

Callbacks of futures run in a thread of their own: a thread that helps may hold locks that a callback wants, and one
that takes long, or waits for another call itself, must hold up nobody else.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t
from libc.string cimport memset

from pympipool._core.calls cimport free_call, parts_of_result
from pympipool._core.future cimport CANCELLED, PENDING, RUNNING, FutureCore, CompletionSource
from pympipool._core.scheduler cimport is_claimed, recall, worker_of
from pympipool._core.types cimport Call, Core, Worker, append, pthread_mutex_lock, pthread_mutex_unlock, remove
from pympipool._core.pump cimport record_unanswered
from pympipool._core.trace_buffer cimport CANCELLED as WAS_CANCELLED
from pympipool._core.trace_buffer cimport FAILED, UNFINISHED, Outcome, Record, record, unique_now_ns
from pympipool._core.ring cimport pmp_doorbell_ring, pmp_now_ns
from pympipool._core.progress_engine cimport (
    request_completion, release_progress, wake_waiting_thread, pump_and_notify, acquire_progress, wait_for_completion,
)

import logging
import threading
from queue import SimpleQueue
from time import monotonic, sleep

cdef object LOGGER = logging.getLogger("pympipool.dispatch")
cdef unsigned long MAIN_THREAD = threading.main_thread().ident
cdef double OTHERS_HELP_S = 0.005
cdef double SLICE_S = 0.1


cdef class Completion(CompletionSource):
    """The part of a `Dispatcher` that knows futures."""

    def __cinit__(self, load, load_error, *_):
        self.load_result = load
        self.load_error = load_error
        self.pending_callbacks = SimpleQueue()
        self.signal_check_interval_s = SLICE_S

    def load(self, parts, is_error):
        if type(parts) is not list:
            parts = [parts]
        return self.load_error(parts) if is_error else self.load_result(parts)

    # ---- futures ----

    def adopt(self, FutureCore future not None):
        """Makes this dispatcher the one that a fresh future asks for help. To a trace, the call is submitted now."""
        future.source = self
        if self.recorder is not None:
            future.submitted_ns = unique_now_ns()

    def fail(self, FutureCore future not None, error):
        """Ends a future that has no call any more with an exception."""
        if future.status >= CANCELLED:
            return
        future.status = RUNNING  # no cancelling from here on
        self.lost += 1
        self.note(future, FAILED)
        self.queue_callbacks(future, future.set_error(error))
        wake_waiting_thread(&self.core)

    @property
    def unfinished_count(self):
        """Calls that wait or run, and results that were not delivered."""
        pthread_mutex_lock(&self.core.lock)
        count = self.core.waiting.length + self.core.done.length + self.core.deferred.length
        for i in range(self.core.worker_count):
            count += self.core.workers[i].in_flight.length
        pthread_mutex_unlock(&self.core.lock)
        return count

    def wait_until_idle(self, pending):
        """Helps until no call waits or runs, and pending() is 0 too."""
        while self.unfinished_count > 0 or pending() > 0:
            if self.helper != 0 and self.helper != PyThread_get_thread_ident():
                sleep(OTHERS_HELP_S)
                continue
            self.progress_once()

    def after_fork_in_child(self):
        """In a forked child: touches nothing any more of what the parent goes on with."""
        self.abandoned = True

    def wake_waiting_thread(self):
        """Makes a thread that waits look again whether what it waits for has come."""
        wake_waiting_thread(&self.core)

    cdef int progress_once(self) except -1:
        """Moves and delivers as the helper for a moment."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef bint nested = self.helper == me  # in a signal handler, say
        cdef int news
        self.helper = me
        acquire_progress(&self.core)
        try:
            with nogil:
                news = wait_for_completion(&self.core, <int64_t>(self.signal_check_interval_s * 1e9))
            if news == 1:
                self.deliver()
            else:
                PyErr_CheckSignals()
        finally:
            if not nested:
                self.helper = 0
                release_progress(&self.core)
        return 0

    # ---- what futures ask ----

    cdef bint progress_until(self, FutureCore future, double deadline_s) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.abandoned:
            raise RuntimeError(
                "this call was submitted by the process that this one is a fork of: only that one gets its result")
        if self.helper != 0 and self.helper != me:
            return False
        cdef bint nested = self.helper == me  # a signal handler that waits for a future, say
        self.helper = me
        acquire_progress(&self.core)
        try:
            self.progress_until_done(future, deadline_s)
        finally:
            if not nested:
                self.helper = 0
                release_progress(&self.core)
        return True

    cdef int progress_until_done(self, FutureCore future, double deadline_s) except -1:
        cdef double signal_check_interval_s = self.signal_check_interval_s
        cdef int64_t timeout_ns
        cdef int news
        while future.status < CANCELLED:
            if deadline_s != 0:
                signal_check_interval_s = min(self.signal_check_interval_s, deadline_s - monotonic())
                if signal_check_interval_s <= 0:
                    return 0
            timeout_ns = <int64_t>(signal_check_interval_s * 1e9)
            with nogil:
                news = wait_for_completion(&self.core, timeout_ns)
            if news == 1:
                self.deliver()
            else:
                PyErr_CheckSignals()
        return 0

    cdef int poll(self) except -1:
        if self.abandoned:
            return 0
        self.pump()
        if self.core.done.first != NULL:
            self.deliver()
        return 0

    cdef bint try_cancel(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        cdef Worker *worker
        cdef bint is_cancelled = False
        if self.abandoned:
            return False
        pthread_mutex_lock(&self.core.lock)
        worker = worker_of(&self.core, call)
        if worker != NULL:
            is_cancelled = recall(worker, call)
            if is_cancelled and worker.in_flight.length == 0:
                pump_and_notify(&self.core)  # it is idle now: no result of it will bring the next round
        elif call.result == NULL:
            remove(&self.core.waiting, call)
            is_cancelled = True
        if is_cancelled:
            record_unanswered(&self.core, NULL, call, WAS_CANCELLED)
        pthread_mutex_unlock(&self.core.lock)
        if is_cancelled:
            free_call(call)
        return is_cancelled

    cdef bint is_started(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        if self.abandoned:
            return False
        pthread_mutex_lock(&self.core.lock)
        worker = worker_of(&self.core, call)
        is_started = worker != NULL and is_claimed(worker, call)
        pthread_mutex_unlock(&self.core.lock)
        return is_started

    cdef int notify_when_done(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        if call == NULL or call.watched or self.abandoned:
            return 0
        pthread_mutex_lock(&self.core.lock)
        call.watched = True
        if call.result != NULL:
            self.core.watched_done += 1
            request_completion(&self.core)
        pthread_mutex_unlock(&self.core.lock)
        pmp_doorbell_ring(&self.core.short_sleep_bell)  # whoever waits should not wait for a sleep_briefly to end
        return 0

    # ---- for a trace ----

    def mark_ready(self, FutureCore future not None):
        """Says that a call waits for nothing but a worker that is to be started for it."""
        if future.submitted_ns != 0:
            future.ready_ns = pmp_now_ns()

    def record_inputs(self, FutureCore future not None, inputs):
        """Keeps which calls a call waits for."""
        if self.recorder is not None and future.submitted_ns != 0:
            self.recorder.inputs[future.submitted_ns] = [
                (<FutureCore>one).submitted_ns for one in inputs
                if isinstance(one, FutureCore) and (<FutureCore>one).submitted_ns != 0]

    def record_unfinished(self, futures):
        """Records calls that have not even come to a worker."""
        for future in futures:
            self.note(future, UNFINISHED)

    cdef int record_cancelled(self, FutureCore future) except -1:
        return self.note(future, WAS_CANCELLED)

    cdef int note(self, FutureCore future, Outcome outcome) except -1:
        """Records a call that the dispatcher has never had."""
        cdef Record what
        if future.submitted_ns == 0 or future.times_moved or self.recorder is None or self.abandoned:
            return 0
        memset(&what, 0, sizeof(what))
        what.times.submitted_ns = future.submitted_ns
        what.times.ready_ns = future.ready_ns
        what.times.name = self.recorder.index_of_name(future.function_name)
        what.times.size = future.rows or 1
        what.received_ns = pmp_now_ns()
        what.outcome = outcome
        pthread_mutex_lock(&self.core.lock)
        if self.core.recording != NULL:
            record(self.core.recording, &what, NULL)
        pthread_mutex_unlock(&self.core.lock)
        return 0

    cdef int move_times_to(self, FutureCore future, Call *call) except -1:
        """Gives a call the times of its future; it has them recorded from here on."""
        if self.recorder is None:
            return 0
        call.times.name = self.recorder.index_of_name(future.function_name)
        call.times.size = future.rows or 1
        call.times.ready_ns = future.ready_ns or pmp_now_ns()
        call.times.submitted_ns = future.submitted_ns
        future.times_moved = True
        return 0

    # ---- delivery ----

    cdef int pump(self) except -1:
        pthread_mutex_lock(&self.core.lock)
        pump_and_notify(&self.core)
        pthread_mutex_unlock(&self.core.lock)
        return 0

    cdef int deliver(self) except -1:
        """Sets what has arrived on its futures.

        Ctrl-C raises in the main thread, between any two steps of Python code. So the main thread sets only
        what takes none, and leaves futures that others wait for to the deliverer.
        """
        cdef bint is_main = PyThread_get_thread_ident() == MAIN_THREAD
        cdef bint delivered = False
        cdef bint left = False
        cdef Call *call
        while True:
            pthread_mutex_lock(&self.core.lock)
            call = take_done(&self.core, is_main)
            if call != NULL and is_main and has_listeners(call):
                append(&self.core.deferred, call)
                left = True
                pthread_mutex_unlock(&self.core.lock)
                continue
            pthread_mutex_unlock(&self.core.lock)
            if call == NULL:
                break
            self.deliver_call(call)
            delivered = True
        if left:
            request_completion(&self.core)
        if delivered and self.helper != PyThread_get_thread_ident():
            wake_waiting_thread(&self.core)  # its future may have been among them
        return 0

    cdef int deliver_call(self, Call *call) except -1:
        cdef FutureCore future = <FutureCore>call.future
        future.call = NULL
        if future.status == PENDING:
            future.status = RUNNING  # no cancelling from here on
        future.run_ns = call.run_ns
        parts = parts_of_result(call)
        has_callbacks = False
        try:
            if future.status < CANCELLED:  # else somebody outside has ended it
                has_callbacks = future.set_parts(parts, call.is_error)
        finally:
            free_call(call)
        return self.queue_callbacks(future, has_callbacks)

    cdef int queue_callbacks(self, FutureCore future, bint has_callbacks) except -1:
        """Leaves the callbacks of a future that has ended to the thread for them."""
        if not has_callbacks:
            return 0
        if self.caller is None:
            caller = threading.Thread(
                target=self._run_callbacks, name="pympipool_callbacks", daemon=True)
            if self.caller is None:  # still: making it may have let go of the GIL
                self.caller = caller
                caller.start()
        self.pending_callbacks.put(future)
        return 0

    def _run_callbacks(self):
        while True:
            future = self.pending_callbacks.get()
            if future is None:
                return
            try:
                future.run_callbacks()
            except BaseException:  # SystemExit: the callbacks of others must run
                LOGGER.exception("a callback ended its thread")
            del future


cdef Call *take_done(Core *core, bint is_main) noexcept:
    """The next call whose result has arrived; NULL: none. The lock is held."""
    cdef Call *call = core.deferred.first
    if call != NULL and not is_main:
        remove(&core.deferred, call)
        return call
    call = core.done.first
    if call != NULL:
        remove(&core.done, call)
        core.watched_done -= call.watched
    return call


cdef bint has_listeners(Call *call) noexcept:
    """Whether setting the result would run Python code. Reads fields only: the lock is held."""
    cdef FutureCore future = <FutureCore>call.future
    return (future.condition is not None or future.internal_callbacks is not None
            or future.callbacks is not None)

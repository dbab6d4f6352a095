# cython: language_level=3
"""Results to futures, and what futures ask: the side of the dispatcher that users' threads are on.

    done (of pump.pyx) ─► deliver: bytes are set on the future ─► unpickled where somebody looks
    future.result()       ─► help:    the thread moves bytes itself, until its future is done
    future.cancel()       ─► withdraw, future.running() ─► begun, future.done() ─► poll

Callbacks of futures run in a thread of their own: a thread that helps may hold locks that a callback wants, and one
that takes long, or waits for another call itself, must hold up nobody else.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t
from libc.string cimport memset

from pympipool._core.calls cimport free_call, parts_of_result
from pympipool._core.future cimport CANCELLED, PENDING, RUNNING, FutureCore, Source
from pympipool._core.scheduler cimport (
    Call, Core, Worker, append, pthread_mutex_lock, pthread_mutex_unlock, remove, recall, is_claimed,
    worker_of,
)
from pympipool._core.pump cimport note_end
from pympipool._core.trace_buffer cimport CANCELLED as WAS_CANCELLED
from pympipool._core.trace_buffer cimport FAILED, UNFINISHED, Outcome, Record, record, unique_now_ns
from pympipool._core.ring cimport pmp_doorbell_ring, pmp_now_ns
from pympipool._core.progress_engine cimport (
    demand_delivery, release_progress, kick_helper, pump_and_tell, acquire_progress, wait_for_news,
)

import logging
import threading
from queue import SimpleQueue
from time import monotonic, sleep

cdef object LOGGER = logging.getLogger("pympipool.dispatch")
cdef unsigned long MAIN_THREAD = threading.main_thread().ident
cdef double OTHERS_HELP_S = 0.005
cdef double SLICE_S = 0.1


cdef class Delivery(Source):
    """The part of a `Dispatcher` that knows futures."""

    def __cinit__(self, load, load_error, *_):
        self.load_result = load
        self.load_error = load_error
        self.callbacks_due = SimpleQueue()
        self.slice_s = SLICE_S

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
        self.settle(future, future.set_error(error))
        kick_helper(&self.core)

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
            self.help_a_slice()

    def after_fork_in_child(self):
        """In a forked child: touches nothing any more of what the parent goes on with."""
        self.abandoned = True

    def kick(self):
        """Makes a thread that waits look again whether what it waits for has come."""
        kick_helper(&self.core)

    cdef int help_a_slice(self) except -1:
        """Moves and delivers as the helper for a moment."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef bint nested = self.helper == me  # in a signal handler, say
        cdef int news
        self.helper = me
        acquire_progress(&self.core)
        try:
            with nogil:
                news = wait_for_news(&self.core, <int64_t>(self.slice_s * 1e9))
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

    cdef bint help(self, FutureCore future, double deadline_s) except -1:
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
            self.help_until(future, deadline_s)
        finally:
            if not nested:
                self.helper = 0
                release_progress(&self.core)
        return True

    cdef int help_until(self, FutureCore future, double deadline_s) except -1:
        cdef double slice_s = self.slice_s
        cdef int64_t timeout_ns
        cdef int news
        while future.status < CANCELLED:
            if deadline_s != 0:
                slice_s = min(self.slice_s, deadline_s - monotonic())
                if slice_s <= 0:
                    return 0
            timeout_ns = <int64_t>(slice_s * 1e9)
            with nogil:
                news = wait_for_news(&self.core, timeout_ns)
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

    cdef bint withdraw(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        cdef Worker *worker
        cdef bint withdrawn = False
        if self.abandoned:
            return False
        pthread_mutex_lock(&self.core.lock)
        worker = worker_of(&self.core, call)
        if worker != NULL:
            withdrawn = recall(worker, call)
            if withdrawn and worker.in_flight.length == 0:
                pump_and_tell(&self.core)  # it is idle now: no result of it will bring the next round
        elif call.result == NULL:
            remove(&self.core.waiting, call)
            withdrawn = True
        if withdrawn:
            note_end(&self.core, NULL, call, WAS_CANCELLED)
        pthread_mutex_unlock(&self.core.lock)
        if withdrawn:
            free_call(call)
        return withdrawn

    cdef bint begun(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        if self.abandoned:
            return False
        pthread_mutex_lock(&self.core.lock)
        worker = worker_of(&self.core, call)
        begun = worker != NULL and is_claimed(worker, call)
        pthread_mutex_unlock(&self.core.lock)
        return begun

    cdef int watch(self, FutureCore future) except -1:
        cdef Call *call = <Call *>future.call
        if call == NULL or call.watched or self.abandoned:
            return 0
        pthread_mutex_lock(&self.core.lock)
        call.watched = True
        if call.result != NULL:
            self.core.watched_done += 1
            demand_delivery(&self.core)
        pthread_mutex_unlock(&self.core.lock)
        pmp_doorbell_ring(&self.core.nap_bell)  # whoever waits should not wait for a nap to end
        return 0

    # ---- for a trace ----

    def mark_ready(self, FutureCore future not None):
        """Says that a call waits for nothing but a worker that is to be started for it."""
        if future.submitted_ns != 0:
            future.ready_ns = pmp_now_ns()

    def note_inputs(self, FutureCore future not None, inputs):
        """Keeps which calls a call waits for."""
        if self.recorder is not None and future.submitted_ns != 0:
            self.recorder.inputs[future.submitted_ns] = [
                (<FutureCore>one).submitted_ns for one in inputs
                if isinstance(one, FutureCore) and (<FutureCore>one).submitted_ns != 0]

    def note_unfinished(self, futures):
        """Records calls that have not even come to a worker."""
        for future in futures:
            self.note(future, UNFINISHED)

    cdef int note_cancelled(self, FutureCore future) except -1:
        return self.note(future, WAS_CANCELLED)

    cdef int note(self, FutureCore future, Outcome outcome) except -1:
        """Records a call that the dispatcher has never had."""
        cdef Record what
        if future.submitted_ns == 0 or future.carried or self.recorder is None or self.abandoned:
            return 0
        memset(&what, 0, sizeof(what))
        what.times.submitted_ns = future.submitted_ns
        what.times.ready_ns = future.ready_ns
        what.times.name = self.recorder.number_of(future.function_name)
        what.times.size = future.rows or 1
        what.received_ns = pmp_now_ns()
        what.outcome = outcome
        pthread_mutex_lock(&self.core.lock)
        if self.core.recording != NULL:
            record(self.core.recording, &what, NULL)
        pthread_mutex_unlock(&self.core.lock)
        return 0

    cdef int hand_times(self, FutureCore future, Call *call) except -1:
        """Gives a call the times of its future; it has them recorded from here on."""
        if self.recorder is None:
            return 0
        call.times.name = self.recorder.number_of(future.function_name)
        call.times.size = future.rows or 1
        call.times.ready_ns = future.ready_ns or pmp_now_ns()
        call.times.submitted_ns = future.submitted_ns
        future.carried = True
        return 0

    # ---- delivery ----

    cdef int pump(self) except -1:
        pthread_mutex_lock(&self.core.lock)
        pump_and_tell(&self.core)
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
            demand_delivery(&self.core)
        if delivered and self.helper != PyThread_get_thread_ident():
            kick_helper(&self.core)  # its future may have been among them
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
        return self.settle(future, has_callbacks)

    cdef int settle(self, FutureCore future, bint has_callbacks) except -1:
        """Leaves the callbacks of a future that has ended to the thread for them."""
        if not has_callbacks:
            return 0
        if self.caller is None:
            caller = threading.Thread(
                target=self._run_callbacks, name="pympipool_callbacks", daemon=True)
            if self.caller is None:  # still: making it may have let go of the GIL
                self.caller = caller
                caller.start()
        self.callbacks_due.put(future)
        return 0

    def _run_callbacks(self):
        while True:
            future = self.callbacks_due.get()
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
    return (future.condition is not None or future.relays is not None
            or future.callbacks is not None)

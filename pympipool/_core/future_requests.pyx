# cython: language_level=3
"""Serves the requests of futures: the dispatcher as users' threads see it.

    future.result()    ─► progress_until: the waiting thread makes progress itself until its future is done
    future.cancel()    ─► try_cancel
    future.running()   ─► is_started
    future.done()      ─► poll
    await of asyncio   ─► progress_for_loop (see event_loops.pyx)
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t

from pympipool._core.calls cimport free_call
from pympipool._core.completion cimport Completion
from pympipool._core.event_loops cimport is_of_asyncio, new_loop_queue, running_loop
from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport CANCELLED, PENDING
from pympipool._core.mailbox cimport EntryQueue, Post, lock_state, unlock_state
from pympipool._core.progress_engine cimport (
    acquire_progress, make_progress_briefly, note_late_result, pump_and_notify, release_progress, request_completion,
    wait_for_completion,
)
from pympipool._core.pump cimport drain, record_unanswered
from pympipool._core.ring cimport pmp_doorbell_ring
from pympipool._core.scheduler cimport is_claimed, recall, recall_all
from pympipool._core.trace_buffer cimport CANCELLED as WAS_CANCELLED
from pympipool._core.types cimport Call, Core, Worker, pmp_mutex_lock, pmp_mutex_unlock, remove
from pympipool._core.worker_sets cimport update_worker

from time import monotonic, sleep

cdef double OTHER_THREAD_S = 0.005  # polling interval of `wait_until_idle` while another thread makes progress
cdef double SIGNAL_CHECK_INTERVAL_S = 0.1
cdef double COMPLETION_CHECK_S = 0.002  # polling interval of these service threads where code in them waits for a future
cdef str WAITS_FOR_ITSELF = (
    "code in a thread of this executor (a __del__ that the garbage collector ran there, or a handler of a logger) waits for"
    " one of its calls, which needs that thread: do not wait there")


cdef class FutureRequests(Completion):
    """The part of a `Dispatcher` that futures ask."""

    def __cinit__(self, *_):
        self.signal_check_interval_s = SIGNAL_CHECK_INTERVAL_S

    @property
    def supervisor_thread_id(self):
        """The thread that watches the workers; set by it."""
        return <unsigned long>self.watching_thread_id

    @supervisor_thread_id.setter
    def supervisor_thread_id(self, unsigned long thread):
        self.watching_thread_id = thread

    def wait_until_idle(self, pending):
        """Make progress until no call waits or runs, and pending() is 0 too."""
        while pending() > 0 or self.unfinished_count > 0:  # in this order: calls move from there to here
            if not self.progress_once():
                sleep(OTHER_THREAD_S)

    cdef bint progress_once(self) except -1:
        """Make progress as the waiting thread once, for at most `signal_check_interval_s`; False: another thread does so."""
        cdef Turn turn = self.take_turn(PyThread_get_thread_ident())
        cdef int code
        if turn == NOT_NOW:
            return False
        try:
            with nogil:
                code = wait_for_completion(&self.core, <int64_t>(self.signal_check_interval_s * 1e9))
            if code == 1:
                self.deliver()
            else:
                PyErr_CheckSignals()
        finally:
            self.end_turn(turn)
        return True

    cdef Turn take_turn(self, unsigned long thread) noexcept:
        """Make the calling thread the waiting thread that makes progress, if no other one is that."""
        cdef Turn turn = FIRST
        lock_state()
        if self.waiting_thread == thread:
            turn = NESTED
        elif self.waiting_thread != 0:
            turn = NOT_NOW
        else:
            self.waiting_thread = thread
        unlock_state()
        if turn != NOT_NOW:
            acquire_progress(&self.core)
        return turn

    cdef void end_turn(self, Turn turn) noexcept:
        """Let other threads make progress again."""
        if turn == FIRST:
            release_progress(&self.core)  # first, since it must not undo what the next thread does in `take_turn`
            self.waiting_thread = 0

    # ---- requests of futures ----

    cdef bint progress_until(self, FutureCore future, double deadline_s) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.in_forked_child:
            raise RuntimeError(
                "this call was submitted by the process that this one is a fork of: only that one gets its result")
        if me == self.watching_thread_id:
            raise RuntimeError(WAITS_FOR_ITSELF)
        if me == self.continuation_thread_id:
            self.continue_until_done(future, deadline_s)
            return True
        if me == self.completion_thread_id:
            self.deliver_until_done(future, deadline_s)
            return True
        cdef Turn turn = self.take_turn(me)
        if turn == NOT_NOW:
            return False
        try:
            self.progress_until_done(future, deadline_s)
        finally:
            self.end_turn(turn)
        return True

    cdef int progress_until_done(self, FutureCore future, double deadline_s) except -1:
        cdef double timeout_s = self.signal_check_interval_s
        cdef int64_t timeout_ns
        cdef int code
        while future.status < CANCELLED:
            if deadline_s != 0:
                timeout_s = min(self.signal_check_interval_s, deadline_s - monotonic())
                if timeout_s <= 0:
                    return 0
            timeout_ns = <int64_t>(timeout_s * 1e9)
            with nogil:
                code = wait_for_completion(&self.core, timeout_ns)
            if code == 1:
                self.deliver()
            else:
                PyErr_CheckSignals()
        return 0

    cdef int deliver_until_done(self, FutureCore future, double deadline_s) except -1:
        """Wait in the completion thread, where code of users waits for a future: go on with what only this thread does."""
        while future.status < CANCELLED and (deadline_s == 0 or monotonic() < deadline_s):
            self.deliver()
            self.run_requests()
            sleep(COMPLETION_CHECK_S)
        return 0

    cdef int continue_until_done(self, FutureCore future, double deadline_s) except -1:
        """Wait in the continuation thread, where code of users may run, and go on with what this thread has to do."""
        while future.status < CANCELLED and (deadline_s == 0 or monotonic() < deadline_s):
            self.deliver()
            if self.continuations.has_entry():
                self.run_posted(<Post>self.continuations.pop())
            else:
                sleep(COMPLETION_CHECK_S)
        return 0

    cdef int poll(self) except -1:
        if self.in_forked_child:
            return 0
        if self.pump():
            if PyThread_get_thread_ident() == self.watching_thread_id:
                request_completion(&self.core)
            else:
                self.deliver()
        return 0

    cdef bint try_cancel(self, FutureCore future, bint force) except -1:
        cdef Call *call
        cdef Worker *worker
        cdef bint is_cancelled = False
        cdef bint was_ended = False
        if self.in_forked_child:
            return False
        lock_state()
        call = <Call *>future.call
        if call == NULL or future.status != PENDING:  # its result has arrived meanwhile
            unlock_state()
            return False
        pmp_mutex_lock(&self.core.lock)
        worker = call.worker
        if force and worker != NULL and is_claimed(worker, call):
            was_ended = condemn(&self.core, worker, call)
            worker = call.worker
        if was_ended:
            record_unanswered(&self.core, worker, call, WAS_CANCELLED)
            call.times.submitted_ns = 0
            request_completion(&self.core)
        elif worker != NULL:
            is_cancelled = recall(&self.core, call)
            if is_cancelled and worker.in_flight.length == 0:
                pump_and_notify(&self.core)  # the worker is idle now, so no result of it will start the next round
        elif call.result == NULL and call.lost_bytes == 0:
            remove(&self.core.waiting, call)
            is_cancelled = True
        if is_cancelled:
            record_unanswered(&self.core, NULL, call, WAS_CANCELLED)
        pmp_mutex_unlock(&self.core.lock)
        if is_cancelled or was_ended:
            future.status = CANCELLED
        unlock_state()
        if is_cancelled or was_ended:
            future.tell_listeners()
        if is_cancelled:
            free_call(call)  # last, because it may run finalizers of users
        return is_cancelled or was_ended

    cdef bint is_started(self, FutureCore future) except -1:
        cdef Call *call
        cdef bint is_started = False
        if self.in_forked_child:
            return False
        lock_state()
        call = <Call *>future.call
        if call != NULL:
            pmp_mutex_lock(&self.core.lock)
            is_started = call.worker != NULL and is_claimed(call.worker, call)
            pmp_mutex_unlock(&self.core.lock)
        unlock_state()
        return is_started

    cdef int notify_when_done(self, FutureCore future) except -1:
        cdef Call *call
        cdef bint is_watched
        lock_state()
        call = <Call *>future.call
        is_watched = call == NULL or call.watched or self.in_forked_child
        if not is_watched:
            pmp_mutex_lock(&self.core.lock)
            call.watched = True
            if call.result != NULL or call.lost_bytes != 0:
                self.core.watched_done += 1
                request_completion(&self.core)
            pmp_mutex_unlock(&self.core.lock)
        unlock_state()
        if not is_watched and not self.core.poll_expected:
            pmp_doorbell_ring(&self.core.short_sleep_bell)  # a waiting thread need not wait for the end of a short sleep
        return 0

    cdef void notify_later(self) noexcept:
        if self.in_forked_child or self.core.sets_all:
            return
        pmp_mutex_lock(&self.core.lock)
        self.core.sets_all = True
        pump_and_notify(&self.core)  # wakes the progress thread for what was received before
        pmp_mutex_unlock(&self.core.lock)

    # ---- event loops ----

    cdef EntryQueue queue_of_loop(self, object callback):
        loop = running_loop()
        if loop is None or self.in_forked_child or not is_of_asyncio(callback):
            return None
        queue = self.present_loop_queue()
        if queue is None or queue.loop is not loop:
            if queue is not None and not queue.loop.is_closed():
                return None  # of two loops that run at the same time, one has the queue
            before, queue = queue, new_loop_queue(loop, self)
            if queue is None:
                return None
            lock_state()
            is_taken = self.loop_queue is not before
            if not is_taken:
                self.loop_queue = queue
            unlock_state()
            if is_taken:
                queue.end()  # another loop was faster
                return None
        queue.schedule()
        return queue

    cdef LoopQueue present_loop_queue(self):
        """Return the queue of the event loop, or None."""
        lock_state()
        queue = self.loop_queue
        unlock_state()
        return queue

    cdef void expect_poll(self) noexcept:
        self.core.poll_expected = True

    cdef bint progress_for_loop(self, bint may_spin) except -1:
        cdef bint has_results
        cdef Turn turn
        if self.in_forked_child:
            return False
        self.core.poll_expected = False
        self.core.polls += 1
        turn = self.take_turn(PyThread_get_thread_ident()) if may_spin and self.waiting_thread == 0 else NOT_NOW
        if turn == NOT_NOW:
            lock_state()
            if self.waiting_thread == 0:  # otherwise that thread may be using its spinner
                note_late_result(&self.core)
            self.core.failed_poll_ns = 0  # in any case: a result of later would not be the late one
            unlock_state()
            has_results = self.pump()
            self.deliver()
            return has_results
        try:
            with nogil:
                has_results = make_progress_briefly(&self.core)
            if has_results:
                self.deliver()
        finally:
            self.end_turn(turn)
        return has_results

    cdef bint has_unfinished(self) except -1:
        return self.unfinished_count > 0

    cdef int check_may_wait(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if me in (self.watching_thread_id, self.completion_thread_id, self.continuation_thread_id):
            raise RuntimeError(WAITS_FOR_ITSELF)
        return 0

    cdef bint may_wait_for_callbacks(self) except -1:
        """Return False for the threads without which no callback would run, and in a forked child."""
        cdef unsigned long me = PyThread_get_thread_ident()
        return not self.in_forked_child and me != self.callback_thread_id and me != self.completion_thread_id


cdef bint stop_behind(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Have a worker begin no call after this one, for which it is to be killed: its others wait again. The caller holds the lock.

    The worker answers a call before it begins the next one. So if it had begun another call when the others were recalled, the
    answer is found after that.

    Returns:
        False if the call has ended by now, or does not run: then the worker goes on.
    """
    cdef bint was_retired = worker.retired
    worker.retired = True
    update_worker(core, worker)
    recall_all(core, worker)
    if not worker.failure:
        drain(core, worker)
    if call.worker == worker:
        worker.condemned = True
        return True
    worker.retired = was_retired
    update_worker(core, worker)
    return False


cdef bint condemn(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Have a worker killed whose call was cancelled. Return False if the call has ended. The caller holds the lock."""
    if stop_behind(core, worker, call):
        call.cancelled = core.kill_requested = True
    pump_and_notify(core)
    return call.cancelled

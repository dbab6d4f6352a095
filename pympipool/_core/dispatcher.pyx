# cython: language_level=3
"""The dispatcher: takes calls, gives them to workers, and sets results on futures.

    submit(future, function, parts) ─► Call ─► pump.pyx: waiting, in flight, rings ─► done ─► deliver

`pump.pyx` moves messages and touches no Python object; `completion.pyx` and `future_requests.pyx` deal with futures, and
`workers.pyx` with workers. This module takes calls, and runs the threads: the progress thread, which never takes the GIL; the
completion thread, which sets the results that no waiting thread fetches; the continuation thread and the thread for callbacks
(see `completion.pyx`).
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from pympipool._core.calls cimport FunctionHandle, free_call, free_calls, new_call
from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport PENDING, now_s
from pympipool._core.mailbox cimport Mailbox, Post
from pympipool._core.scheduler cimport find_worker, is_claimed, recall_all
from pympipool._core.types cimport (
    Call, Worker, append, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from pympipool._core.pump cimport send_reserved
from pympipool._core.trace_buffer cimport CANCELLED, FAILED
from pympipool._core.ring cimport (
    PMP_TRACED, Segment, pmp_doorbell, pmp_doorbell_arm, pmp_doorbell_disarm, pmp_doorbell_sleep, pmp_now_ns,
    pmp_spinner_init, news_in, notices_in, relay_bell_in, relay_news_in, usable_cores,
)
from pympipool._core.progress_engine cimport (
    request_completion, wake_progress_thread, run_progress_thread, pump_and_notify,
)
from pympipool._core.workers cimport Notices, Workers, close_worker

import threading
from time import monotonic

from pympipool._core.ring import SPIN_NS, doorbell_segment
from pympipool._util.service_threads import ServiceLogger, ServiceThread

cdef object LOGGER = ServiceLogger("pympipool.dispatch")

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_LAZY
    void *dlopen(const char *path, int flags)

cdef double START_FAILED_S = 5.0  # longest wait for threads that have started, if another one cannot be started


@cython.no_gc_clear  # shared data that end with it still ring its workers, in the memory that its attributes keep
cdef class Dispatcher(Workers):
    """Gives calls to workers and results to futures.

    Args:
        load: Unpickles a result from its parts (a list of bytes-like objects).
        load_error: Unpickles an exception from its parts.
        on_kill_requested: Called without arguments, in the completion thread, when a worker must be killed (see
            `workers_to_kill`).
    """

    cdef object on_kill_requested
    cdef readonly Segment doorbells
    cdef uint64_t next_id
    cdef str closed              # the reason for rejecting new calls; None: they are accepted
    cdef object broken           # makes the exception that every call ends with; None: calls run
    cdef bint killed             # every call that is submitted from now on is cancelled
    cdef list threads

    def __cinit__(self, load, load_error, on_kill_requested):
        self.doorbells = doorbell_segment()
        cdef pmp_doorbell *bells = <pmp_doorbell *>self.doorbells.memory()
        self.core.progress_bell = &bells[0]
        self.core.waiting_thread_bell = &bells[1]
        self.core.news = news_in(self.doorbells)
        self.core.relay_bell = relay_bell_in(self.doorbells)
        self.core.relay_news = relay_news_in(self.doorbells)
        pmp_spinner_init(&self.core.waiting_thread_spinner, SPIN_NS)
        pmp_spinner_init(&self.core.no_spin_spinner, SPIN_NS)
        self.core.no_spin_spinner.near_miss_ns = 0
        self.core.core_count = usable_cores()
        if pthread_mutex_init(&self.core.lock, NULL) != 0:
            raise MemoryError("no mutex")
        cdef Notices notices = Notices.__new__(Notices)
        notices.core = &self.core
        notices.board = notices_in(self.doorbells)
        Py_INCREF(notices)
        self.core.notices = <void *>notices
        self.on_kill_requested = on_kill_requested
        self.threads = []

    def __dealloc__(self):
        if self.core.notices != NULL:
            (<Notices>self.core.notices).core = NULL
            Py_DECREF(<object>self.core.notices)
        for i in range(self.core.worker_count):
            free_calls(&self.core.workers[i].in_flight)
            close_worker(self.core.workers[i])
        free_calls(&self.core.waiting)
        free_calls(&self.core.done)
        free(self.core.workers)
        free(self.core.slots)
        free(self.core.with_one.workers)
        free(self.core.with_several.workers)
        pthread_mutex_destroy(&self.core.lock)

    # ---- threads ----

    def start(self):
        """Start the threads; all of them, or none if one cannot be started.

        Raises:
            RuntimeError: No more threads can be started.
        """
        threads = (
            ServiceThread("pympipool_progress", self._progress),
            ServiceThread("pympipool_completion", self._complete),
            ServiceThread("pympipool_continuations", self._continue),
            ServiceThread("pympipool_callbacks", self._run_callbacks, may_wait=True),
        )
        try:
            for thread in threads:
                thread.start()
                self.threads.append(thread)
        except BaseException:  # no more threads, or Ctrl-C: those that run must end
            self.abandon()
            raise

    def abandon(self):
        """End the threads that run, and wait for that: the executor could not be made."""
        self.stop()
        self.continuations.end()
        self.ended.end()
        self.join(START_FAILED_S)

    def stop(self):
        """Make the threads end, and return at once; see `join`. Calls without a result stay without one."""
        self.core.stopping = True
        self.doorbells.close_descriptor()  # no further worker will get it
        wake_progress_thread(&self.core)
        request_completion(&self.core)

    def join(self, double timeout_s):
        """Wait for the end of all threads, and so of all callbacks; return False if that takes longer than the timeout."""
        cdef double deadline_s = monotonic() + timeout_s
        me = threading.current_thread()
        for thread in self.threads:
            if thread is not me:
                thread.join(max(deadline_s - monotonic(), 0.0))
                if thread.is_alive():
                    return False
        return True

    def _progress(self):
        with nogil:
            run_progress_thread(&self.core)

    def _complete(self):
        cdef bint stopping = False
        cdef Post on_kill_requested = self.requests.prepare(self.on_kill_requested)
        self.completion_thread_id = PyThread_get_thread_ident()
        with nogil:
            # glibc loads this library when a thread ends by pthread_exit, as CPython ends threads that take the GIL after
            # the end of the interpreter. If there is no memory then, glibc aborts the process.
            dlopen(b"libgcc_s.so.1", RTLD_LAZY)
        try:
            while not stopping:
                with nogil:
                    pmp_doorbell_arm(&self.core.completion_bell)
                    if not self.core.completion_requested and not self.core.stopping:
                        pmp_doorbell_sleep(&self.core.completion_bell, -1)
                    pmp_doorbell_disarm(&self.core.completion_bell)
                    self.core.completion_requested = False
                stopping = self.core.stopping
                self.deliver()
                self.run_requests()
                if self.core.kill_requested:
                    self.core.kill_requested = False
                    self.run_posted(on_kill_requested)
        finally:
            self.completion_thread_id = 0
            self.continuations.end()  # here because `join` may never be called
            self.ended.end()
            if self.loop_queue is not None:
                self.loop_queue.end()

    def _run_callbacks(self):
        cdef FutureCore future
        self.callback_thread_id = PyThread_get_thread_ident()
        while True:
            future = <FutureCore>self.ended.receive_entry()
            if future is None:
                break
            self.callbacks_since_s = now_s()
            try:
                future.run_callbacks()
            except BaseException:  # also SystemExit: the callbacks of other futures must run
                LOGGER.exception("a callback raised what ends a thread elsewhere")
            self.callbacks_since_s = 0
            future = None
        self.callback_thread_id = 0

    def _continue(self):
        cdef Post post
        self.continuation_thread_id = PyThread_get_thread_ident()
        while True:
            post = <Post>self.continuations.receive_entry()
            if post is None:
                break
            self.run_posted(post)
            post = None
        self.continuation_thread_id = 0

    # ---- calls ----

    @property
    def is_open(self):
        """True as long as calls are accepted."""
        return self.closed is None

    def check_open(self):
        """Raise RuntimeError if calls are not accepted any more."""
        if self.closed is not None:
            raise RuntimeError(self.closed)

    def close(self, str reason not None):
        """Reject new calls with this reason, except those that are admitted already."""
        self.closed = reason

    def kill(self, str reason not None):
        """Reject new calls with this reason, and cancel those that are admitted already and submitted from now on."""
        self.closed = reason
        self.killed = True

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
        if self.killed or self.core.stopping:
            if admitted:
                return False
            raise RuntimeError(self.closed)
        if self.closed is not None and not admitted:
            raise RuntimeError(self.closed)
        pending[member] = None
        mailbox.send(post)
        return True

    def fail_all(self, make_error):
        """End the waiting calls, and all that will be submitted, with an exception each, which make_error() returns."""
        self.broken = make_error
        self.fail_waiting(make_error)

    def fail_waiting(self, make_error):
        """End the waiting calls soon, with an exception each, which make_error() returns."""
        self.call_soon(self._fail_waiting, make_error)

    def _fail_waiting(self, make_error):
        self.end_waiting(FAILED, make_error)

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
        if self.broken is not None:
            self.fail(future, self.broken)
            return
        cdef Call *call = new_call(parts)
        cdef Worker *reserved = NULL
        cdef uint64_t number = 0 if worker is None else worker
        if function is not None:
            call.function = function.function
            call.function.references += 1
        call.attempts_left = attempts
        if future.rows:
            call.rows = future.rows
        if future.status != PENDING:
            free_call(call)
            return
        if admitted and (self.killed or self.core.stopping):
            free_call(call)
            self.cancel(future)
            return
        if self.broken is not None:  # checked again, as below
            free_call(call)
            self.fail(future, self.broken)
            return
        if self.closed is not None and not admitted:  # checked again: creating the call may have released the GIL
            free_call(call)
            raise RuntimeError(self.closed)
        try:
            if future.submitted_ns != 0:
                self.move_times_to(future, call)
        except BaseException:  # no memory
            free_call(call)
            raise
        Py_INCREF(future)
        call.future = <void *>future
        future.call = call
        call.watched = (future.callbacks is not None or future.waiters is not None or future.end_locks is not None
                        or future.posts is not None or future.on_failure is not None)
        pthread_mutex_lock(&self.core.lock)
        self.next_id += 1
        call.id = self.next_id | (PMP_TRACED if future.submitted_ns != 0 else 0)
        self.core.submitted += 1
        if self.core.first_ns == 0:
            self.core.first_ns = pmp_now_ns()
        if number != 0:
            reserved = find_worker(&self.core, number)
        if reserved == NULL or not send_reserved(&self.core, reserved, call):
            append(&self.core.waiting, call)
        pump_and_notify(&self.core)
        pthread_mutex_unlock(&self.core.lock)

    # ---- the end of calls ----

    def cancel_waiting(self):
        """Cancel all calls that no worker has started."""
        pthread_mutex_lock(&self.core.lock)
        for i in range(self.core.worker_count):
            recall_all(&self.core, self.core.workers[i])
        pthread_mutex_unlock(&self.core.lock)
        self.end_waiting(CANCELLED, None)

    @property
    def waiting_count(self):
        """Number of calls that were not sent to a worker yet."""
        pthread_mutex_lock(&self.core.lock)
        count = self.core.waiting.length
        pthread_mutex_unlock(&self.core.lock)
        return count

    def statistics(self):
        """Return how many calls are in which state. Each call of a batch counts.

        Returns:
            (waiting, running, returned, failed without an answer, raised (of the returned), seconds from the first
            submission to the last result, or to now if there are calls that wait or run).
        """
        cdef Py_ssize_t waiting
        cdef Py_ssize_t running = 0
        cdef Worker *worker
        pthread_mutex_lock(&self.core.lock)
        waiting = self.core.waiting.rows
        for i in range(self.core.worker_count):
            worker = self.core.workers[i]
            waiting += worker.in_flight.rows
            if worker.in_flight.first != NULL and is_claimed(worker, worker.in_flight.first):
                running += 1
        returned, raised = self.core.returned, self.core.failed
        span_ns = (pmp_now_ns() if waiting > 0 else self.core.last_ns) - self.core.first_ns
        pthread_mutex_unlock(&self.core.lock)
        return waiting - running, running, returned, self.lost, raised, max(span_ns, 0) / 1e9

# cython: language_level=3
"""The dispatcher: takes calls, gives them to workers, and sets results on futures.

    submission.pyx ─► Call ─► pump.pyx: waiting, in flight, rings ─► done ─► completion.pyx

`pump.pyx` moves messages and touches no Python object; `completion.pyx` and `future_requests.pyx` deal with futures, and
`workers.pyx` with workers. This module runs the threads: the progress thread, which never takes the GIL; the completion thread,
which sets the results that no waiting thread fetches; the continuation thread and the thread for callbacks (see `completion.pyx`).
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from pympipool._core.calls cimport free_calls
from pympipool._core.future_core cimport FutureCore
from pympipool._core.listeners cimport now_s
from pympipool._core.mailbox cimport Post
from pympipool._core.progress_engine cimport request_completion, run_progress_thread, wake_progress_thread
from pympipool._core.ring cimport (
    PMP_STORED_PARTS_MAX, Segment, init_short_spinner, news_in, notices_in, pmp_doorbell, pmp_doorbell_arm,
    pmp_doorbell_disarm, pmp_doorbell_sleep, pmp_shm, pmp_shm_duplicate, pmp_spinner_init, pmp_store_clear, raise_errno,
    relay_bell_in, relay_news_in, usable_cores,
)
from pympipool._core.scheduler cimport find_worker
from pympipool._core.submission cimport Submission
from pympipool._core.types cimport (
    Call, Worker, pmp_mutex_destroy, pmp_mutex_init, pmp_mutex_lock, pmp_mutex_unlock,
)
from pympipool._core.workers cimport Notices, close_worker

import threading
from time import monotonic

from pympipool._core.ring import SPIN_NS, doorbell_segment
from pympipool._util.service_threads import ServiceLogger, ServiceThread

cdef object LOGGER = ServiceLogger("pympipool.dispatch")

cdef extern from "platform.h" nogil:
    void pmp_load_unwinder()

cdef double START_FAILED_S = 5.0  # longest wait for threads that have started, if another one cannot be started


@cython.no_gc_clear  # shared data that end with it still ring its workers, in the memory that its attributes keep
cdef class Dispatcher(Submission):
    """Gives calls to workers and results to futures.

    Args:
        load: Unpickles a result from its parts (a list of bytes-like objects).
        load_error: Unpickles an exception from its parts.
        on_kill_requested: Called without arguments, in the completion thread, when a worker must be killed (see
            `workers_to_kill`).
    """

    cdef object on_kill_requested
    cdef readonly Segment doorbells
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
        init_short_spinner(&self.core.short_spinner, SPIN_NS)
        self.core.core_count = usable_cores()
        if pmp_mutex_init(&self.core.lock) != 0:
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
        pmp_store_clear(&self.core.store)
        free(self.core.workers)
        free(self.core.slots)
        free(self.core.with_one.workers)
        free(self.core.with_several.workers)
        pmp_mutex_destroy(&self.core.lock)

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

    def stored_parts(self, uint64_t worker, uint64_t call):
        """Return the segments with the large parts of a call that a worker of several ranks runs, in the order of the parts.

        Args:
            worker: The worker's number.
            call: The call's id.

        Raises:
            OSError: No descriptor is free.
        """
        cdef pmp_shm copies[PMP_STORED_PARTS_MAX]
        cdef list segments = [Segment.__new__(Segment, -1) for _ in range(PMP_STORED_PARTS_MAX)]
        cdef int count = 0
        pmp_mutex_lock(&self.core.lock)
        code = duplicate_stored(find_worker(&self.core, worker), call, copies, &count)
        pmp_mutex_unlock(&self.core.lock)
        for i in range(count):
            (<Segment>segments[i]).shm = copies[i]
        if code < 0:
            raise_errno(code, "no descriptor is free for the arguments of a call")
        return segments[:count]

    def stop(self):
        """Make the threads end, and return at once; see `join`. Calls without a result stay without one."""
        pmp_mutex_lock(&self.core.lock)
        pmp_store_clear(&self.core.store)
        pmp_mutex_unlock(&self.core.lock)
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
            pmp_load_unwinder()
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
            loop_queue = self.present_loop_queue()
            if loop_queue is not None:
                loop_queue.end()

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


cdef int duplicate_stored(Worker *worker, uint64_t id, pmp_shm *copies, int *count) noexcept nogil:
    """Duplicate the segments of a call in flight, which may have none. Errors: -EMFILE, after `count` of them."""
    cdef Call *call = NULL if worker == NULL else worker.in_flight.first
    cdef int code = 0
    while call != NULL and call.id != id:
        call = call.next
    if call == NULL or call.stored == NULL:
        return 0
    for i in range(<int>call.stored.stored_count):
        code = pmp_shm_duplicate(&copies[i], &call.stored.segments[i].shm)
        if code < 0:
            return code
        count[0] += 1
    return 0

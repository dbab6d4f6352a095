# cython: language_level=3
"""The workers of a dispatcher: added, retired, removed when they have died, and asked what they do."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EBUSY, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from pympipool._core.calls cimport free_calls, take_futures
from pympipool._core.attempts cimport Attempts
from pympipool._core.dead_workers cimport UNBEGUN_ENDS_MAX, requeue_calls
from pympipool._core.future_core cimport FutureCore
from pympipool._core.future_requests cimport stop_behind
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.progress_engine cimport pump_and_notify, wake_progress_thread, wake_waiting_thread
from pympipool._core.pump cimport record_unanswered, ring_worker, unwatch, watch
from pympipool._core.ring cimport (
    PMP_END, PMP_NEWS_SLOTS, Segment, process_buffer_pool, pmp_head, pmp_link_open_master, pmp_link_rank_count,
    pmp_link_shares_bell, pmp_notices_add, pmp_now_ns, pmp_part, pmp_receiver, pmp_receiver_close, pmp_send,
    pmp_store_clear, raise_errno,
)
from pympipool._core.scheduler cimport find_worker, is_claimed, recall_all
from pympipool._core.trace_buffer cimport FAILED
from pympipool._core.types cimport (
    WATCHED_MAX, Call, CallList, Core, Worker, pmp_mutex_lock, pmp_mutex_unlock,
)
from pympipool._core.worker_sets cimport leave_sets, update_worker


cdef struct Running:
    uint64_t number
    int64_t since_ns
    void *future


cdef class Notices(Announcer):
    """Tells all workers of a dispatcher that shared data have ended."""

    cdef void announce(self) noexcept:
        if self.core == NULL:
            return
        pmp_mutex_lock(&self.core.lock)
        pmp_notices_add(self.board)
        for i in range(self.core.worker_count):
            ring_worker(self.core.workers[i])
        pmp_mutex_unlock(&self.core.lock)


cdef class Workers(Attempts):
    """The part of a `Dispatcher` that deals with workers."""

    def __cinit__(self, *_):
        self.segments = {}

    @property
    def notices(self):
        """Tells the workers of the end of shared data."""
        return <Notices>self.core.notices

    def add_worker(self, uint64_t number, Segment link not None, *, bint reserved=False, dict about=None):
        """Open the master's side of a worker's link. The worker gets calls from now on.

        Args:
            number: Identifies the worker; never reused.
            link: The worker's segment.
            reserved: Send the worker only the call that is submitted with its number.
            about: Metadata of the worker for traces.

        Raises:
            OSError: The segment is not a link, or there are as many workers as one executor can have on this host.
        """
        cdef object key = number
        metadata = {**(about or {}), "ready_ns": pmp_now_ns(), "gone_ns": 0}
        self.segments[key] = link
        try:
            self.worker_metadata[key] = metadata
            recorder = self.present_recorder()
            if recorder is not None:
                recorder.workers[key] = metadata
            self.open_worker(number, link, reserved)  # last: from now on the worker gets calls
        except BaseException:
            self.segments.pop(key, None)
            self.worker_metadata.pop(key, None)
            raise
        self.pump()
        wake_progress_thread(&self.core)  # with two workers there are deadlines, which no doorbell announces
        wake_waiting_thread(&self.core)

    cdef int open_worker(self, uint64_t number, Segment link, bint reserved) except -1:
        """Open the worker's rings and add the worker to the list."""
        cdef Worker *worker
        cdef int code
        cdef int rank_count = pmp_link_rank_count(link.memory(), link.shm.size_bytes)
        if rank_count < 0:
            raise_errno(rank_count, "the segment is no link")
        worker = <Worker *>calloc(1, sizeof(Worker) + rank_count * sizeof(pmp_receiver))
        if worker == NULL:
            raise MemoryError()
        worker.results = <pmp_receiver *>(worker + 1)
        worker.rank_count = rank_count
        worker.number = number
        worker.added_ns = pmp_now_ns()
        worker.reserved = reserved
        worker.link = link.memory()
        if pmp_link_shares_bell(worker.link):
            worker.relay_bell = self.core.relay_bell
            worker.relay_news = self.core.relay_news
        pmp_mutex_lock(&self.core.lock)
        code = -ENOMEM
        if has_room_for_worker(&self.core):
            worker.slot = free_slot(&self.core)
            code = -EBUSY
        if code == -EBUSY and worker.slot < PMP_NEWS_SLOTS:
            code = pmp_link_open_master(link.memory(), link.shm.size_bytes, rank_count, worker.slot, &worker.calls,
                                        worker.results, &worker.bells)
        if code == 0:
            for rank in range(rank_count):
                worker.results[rank].pool = process_buffer_pool()
            insert_worker(&self.core, worker)
        pmp_mutex_unlock(&self.core.lock)
        if code < 0:
            free(worker)
        if code == -ENOMEM:
            raise MemoryError()
        if code == -EBUSY:
            raise OSError(f"an executor can have {PMP_NEWS_SLOTS} workers on this host")
        if code < 0:
            raise_errno(code, "the segment is no link")
        return 0

    def retire_worker(self, uint64_t number):
        """Send the worker no more calls, recall those it has not started, and tell it to exit after the one it runs.

        Returns:
            False if the worker's ring has no room for that message. The worker must then be ended in another way.
        """
        cdef pmp_head head
        cdef pmp_part part
        cdef int code = -1
        head.kind = PMP_END
        head.part_count = 1
        head.id = head.tag = 0
        part.data = NULL
        part.size_bytes = 0
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        if worker != NULL:
            worker.retired = True
            update_worker(&self.core, worker)
            recall_all(&self.core, worker)
            pump_and_notify(&self.core)
            if worker.sending == NULL:
                code = pmp_send(&worker.calls, &head, &part, NULL)
                ring_worker(worker)
        pmp_mutex_unlock(&self.core.lock)
        return code == 0

    def remove_dead_worker(self, uint64_t number):
        """Remove a worker that is dead.

        The results that the worker had sent are received. The calls that it had not begun go to the front of the
        waiting calls.

        Returns:
            The futures of the calls that count as begun by the worker and that have no retry left: one or none. It may have
            been cancelled. It has `is_unbegun` if no worker had begun it, but several have died that were to do so next.

        Raises:
            MemoryError: The worker is still there: call this again.
        """
        cdef object key = number
        cdef Worker *worker
        cdef Call *call
        cdef CallList calls
        cdef Py_ssize_t count
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        count = 0 if worker == NULL else requeue_calls(&self.core, worker)
        pmp_mutex_unlock(&self.core.lock)
        if worker == NULL:
            return []
        futures = [None] * count
        if key in self.worker_metadata:
            self.worker_metadata[key]["gone_ns"] = pmp_now_ns()
        # No failure from here on.
        lock_state()
        pmp_mutex_lock(&self.core.lock)
        calls = worker.in_flight
        call = calls.first
        while call != NULL:
            record_unanswered(&self.core, worker, call, FAILED)
            call.worker = NULL
            (<FutureCore>call.future).is_unbegun = call.unbegun_ends > UNBEGUN_ENDS_MAX
            call = call.next
        self.core.in_flight -= calls.length
        self.free_worker(worker)
        pmp_mutex_unlock(&self.core.lock)
        take_futures(&calls, futures)
        unlock_state()
        free_calls(&calls)
        self.segments.pop(key, None)
        self.worker_metadata.pop(key, None)
        self.pump()
        return futures

    cdef void free_worker(self, Worker *worker) noexcept:
        """Take a worker off the list and free it. The caller holds the lock."""
        cdef int i = 0
        while self.core.workers[i] != worker:
            i += 1
        self.core.worker_count -= 1
        self.core.rank_count -= worker.rank_count
        self.core.workers[i] = self.core.workers[self.core.worker_count]
        self.core.slots[worker.slot] = NULL
        if self.core.last_used == worker:
            self.core.last_used = NULL
        leave_sets(&self.core, worker)
        unwatch(&self.core, worker)
        if worker.rank_count > 1:
            pmp_store_clear(&self.core.store)
        close_worker(worker)

    def workers_to_kill(self):
        """Return the workers that must be killed.

        Returns:
            (number, True if the call that it runs was cancelled, False if its ring holds invalid data) of each of them.
        """
        return [(number, condemned) for number, (_, _, failed, condemned) in self.copy_states().items()
                if failed or condemned]

    def current_call(self, uint64_t number):
        """Return the id of the worker's first call in flight, or 0."""
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        id = 0 if worker == NULL or worker.in_flight.first == NULL else worker.in_flight.first.id
        pmp_mutex_unlock(&self.core.lock)
        return id

    def condemn_call(self, uint64_t number, uint64_t id):
        """Have only this call fail when its worker is killed, which must happen soon: the worker begins no other call.

        Returns:
            False if the worker does not run the call, or not any more. It must not be killed for it then.
        """
        cdef bint is_condemned = False
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        if worker != NULL and worker.in_flight.first != NULL and worker.in_flight.first.id == id:
            is_condemned = stop_behind(&self.core, worker, worker.in_flight.first)
            if is_condemned:
                worker.failing_call = id
            pump_and_notify(&self.core)
        pmp_mutex_unlock(&self.core.lock)
        return is_condemned

    def ended_calls(self, uint64_t number):
        """Return the number of calls that have ended at a worker, or 0 if there is no such worker."""
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        ended = 0 if worker == NULL else worker.ended
        pmp_mutex_unlock(&self.core.lock)
        return ended

    def keep_shared(self, uint64_t number, shared_object):
        """Have the future of the call that a worker runs keep what the call has put into shared memory for its result.

        The worker waits for that. So when its answers have been received, this call is the first in flight.
        """
        cdef FutureCore future = None
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        if worker != NULL:
            pump_and_notify(&self.core)
            if worker.in_flight.first != NULL and not worker.condemned:
                future = <FutureCore>worker.in_flight.first.future
        pmp_mutex_unlock(&self.core.lock)
        if future is not None:
            future.keep_shared(number, shared_object)

    def running_time(self, uint64_t number):
        """Return the seconds since the worker started the call that it runs, or 0 if it runs none."""
        cdef int64_t started_ns = 0
        pmp_mutex_lock(&self.core.lock)
        worker = find_worker(&self.core, number)
        if (worker != NULL and worker.in_flight.first != NULL
                and is_claimed(worker, worker.in_flight.first)):
            started_ns = worker.front_since_ns
        pmp_mutex_unlock(&self.core.lock)
        return 0.0 if started_ns == 0 else (pmp_now_ns() - started_ns) / 1e9

    def load_of_workers(self):
        """Return {number: (calls in flight, calls that ended there)}."""
        return {number: state[:2] for number, state in self.copy_states().items()}

    def running_calls(self):
        """Return {number: (name of the function, seconds since the call was sent, or the one before ended)} of busy workers."""
        cdef Running *running
        cdef Running *one
        cdef Worker *worker
        cdef int count = 0
        pmp_mutex_lock(&self.core.lock)
        running = <Running *>malloc(self.core.worker_count * sizeof(Running) or 1)
        if running != NULL:
            for i in range(self.core.worker_count):
                worker = self.core.workers[i]
                if worker.in_flight.first != NULL and worker.in_flight.first.future != NULL:
                    one = &running[count]
                    one.number, one.since_ns, one.future = worker.number, worker.front_since_ns, worker.in_flight.first.future
                    Py_INCREF(<object>one.future)  # here, because the call may end; nothing is allocated with the lock held
                    count += 1
        pmp_mutex_unlock(&self.core.lock)
        if running == NULL:
            raise MemoryError()
        found = {}
        try:
            for i in range(count):
                seconds = (pmp_now_ns() - running[i].since_ns) / 1e9
                found[running[i].number] = (<FutureCore>running[i].future).function_name, seconds
        finally:
            for i in range(count):
                Py_DECREF(<object>running[i].future)
            free(running)
        return found

    cdef dict copy_states(self):
        """Return {number: (calls in flight, calls that ended there, ring holds invalid data, call was cancelled)}."""
        cdef Worker *copies
        cdef int count = 0
        pmp_mutex_lock(&self.core.lock)
        copies = <Worker *>malloc(self.core.worker_count * sizeof(Worker) or 1)
        if copies != NULL:
            count = self.core.worker_count
            for i in range(count):
                copies[i] = self.core.workers[i][0]
        pmp_mutex_unlock(&self.core.lock)
        if copies == NULL:
            raise MemoryError()
        try:
            return {copies[i].number: (copies[i].in_flight.length, copies[i].ended, copies[i].failure != 0,
                                       bool(copies[i].condemned and not copies[i].failing_call))
                    for i in range(count)}
        finally:
            free(copies)


cdef bint has_room_for_worker(Core *core) noexcept nogil:
    """Return True if the arrays of workers have room for one more, or have got it. The caller holds the lock."""
    cdef void **arrays[4]
    cdef void *grown
    arrays[:] = [<void **>&core.workers, <void **>&core.slots, <void **>&core.with_one.workers,
                 <void **>&core.with_several.workers]
    for i in range(4):
        grown = realloc(arrays[i][0], (max(core.worker_count, <int>core.slot_count) + 1) * sizeof(Worker *))
        if grown == NULL:
            return False
        arrays[i][0] = grown
    return True


cdef uint32_t free_slot(Core *core) noexcept nogil:
    """Return the first slot that no worker has."""
    cdef uint32_t slot = 0
    while slot < core.slot_count and core.slots[slot] != NULL:
        slot += 1
    return slot


cdef void insert_worker(Core *core, Worker *worker) noexcept nogil:
    """Add a worker that is open to all arrays and sets. There is room; the caller holds the lock."""
    core.workers[core.worker_count] = worker
    core.worker_count += 1
    core.rank_count += worker.rank_count
    core.slots[worker.slot] = worker
    core.slot_count = max(core.slot_count, worker.slot + 1)
    update_worker(core, worker)
    if core.watched_count < WATCHED_MAX:
        watch(core, worker)


cdef void close_worker(Worker *worker) noexcept:
    """Free a worker and the messages that are only partly received."""
    for rank in range(worker.rank_count):
        pmp_receiver_close(&worker.results[rank])
    free(worker)

# cython: language_level=3, boundscheck=False, cdivision=True
"""The workers' lines: which worker gets a call, and which calls it has to give back; in C, without the GIL.

Which worker gets a call: the one used last while what is in its line takes less time than to wake another one, else an
idle one, else the one with the least estimated time in its line, as long as that stays about a millisecond (so workers
never wait for the master) or it is but one call ahead. A call that is behind one that turns out to be long is taken back
(`rebalance`), and so is one that its worker does not begin, because it was stopped or gets no core; until it has noticed
that, others are preferred.

The lock is held in all of this.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint64_t

from pympipool._core.ring cimport (
    pmp_fits_record, pmp_now_ns, pmp_ring_claimed, pmp_ring_is_empty, pmp_ring_revoke,
)

cdef enum:
    MICROSECOND = 1_000
    MILLISECOND = 1_000_000
    OVERHEAD_NS = 2 * MICROSECOND    # of a call, besides its run time
    OUTLIER_FACTOR = 8                     # times longer or shorter than usual: of others it says little
    UNKNOWN_NS = 500 * MICROSECOND   # run time of a function that was never run
    PREFETCH_NS = 1 * MILLISECOND       # work to lie in a worker's line
    WAKE_NS = 20 * MICROSECOND       # what an idle worker needs to begin
    OVERSUBSCRIBED_WAKE_NS = 80 * MICROSECOND  # ... where it has to get a core from somebody first, from us even
    PREFETCH_ONE_NS = 20 * MILLISECOND  # up to here, being refilled late would be felt
    IN_FLIGHT_MAX = 1024                  # calls in a line
    RECALL_AFTER_NS = 200 * MICROSECOND      # a call runs longer than short ones do
    OVERDUE_NS = 2 * MILLISECOND       # ... than anybody should have to wait behind it
    UNRESPONSIVE_NS = 5 * MILLISECOND      # to wake up takes longer only if one was stopped, or has no core


# ---- lists ----

cdef void append(CallList *calls, Call *call) noexcept nogil:
    call.next = NULL
    call.previous = calls.last
    if calls.last == NULL:
        calls.first = call
    else:
        calls.last.next = call
    calls.last = call
    calls.length += 1
    calls.rows += call.rows


cdef void prepend(CallList *calls, Call *call) noexcept nogil:
    call.previous = NULL
    call.next = calls.first
    if calls.first == NULL:
        calls.last = call
    else:
        calls.first.previous = call
    calls.first = call
    calls.length += 1
    calls.rows += call.rows


cdef void remove(CallList *calls, Call *call) noexcept nogil:
    if call.previous == NULL:
        calls.first = call.next
    else:
        call.previous.next = call.next
    if call.next == NULL:
        calls.last = call.previous
    else:
        call.next.previous = call.previous
    calls.length -= 1
    calls.rows -= call.rows


cdef Worker *find_worker(Core *core, uint64_t number) noexcept nogil:
    for i in range(core.worker_count):
        if core.workers[i].number == number:
            return core.workers[i]
    return NULL


cdef Worker *worker_of(Core *core, Call *call) noexcept nogil:
    """The worker in whose line the call is, or NULL."""
    cdef Call *other
    for i in range(core.worker_count):
        other = core.workers[i].in_flight.first
        while other != NULL:
            if other == call:
                return core.workers[i]
            other = other.next
    return NULL


# ---- estimates ----

cdef void update_estimate(Core *core, Call *call, int64_t run_ns) noexcept nogil:
    """Moves the estimate of the call's function towards what this call took.

    One that took far longer than usual may just have lost its core for a while, and says little of the others."""
    cdef int64_t *estimate = &core.default_estimate_ns
    if call.function != NULL:
        estimate = &call.function.estimate_ns
    if run_ns < 1:
        run_ns = 1
    if estimate[0] == 0:
        estimate[0] = run_ns
    elif run_ns < estimate[0] // OUTLIER_FACTOR:
        estimate[0] = estimate[0] // 2
    else:
        estimate[0] = (3 * estimate[0] + min(run_ns, OUTLIER_FACTOR * estimate[0])) // 4


cdef int64_t estimate(Core *core, Call *call) noexcept nogil:
    cdef int64_t run_ns = core.default_estimate_ns
    if call.function != NULL:
        run_ns = call.function.estimate_ns
    return OVERHEAD_NS + (run_ns if run_ns > 0 else UNKNOWN_NS)


# ---- who gets a call ----

cdef void enqueue(Worker *worker, Call *call, uint64_t position) noexcept nogil:
    if worker.in_flight.length == 0:
        worker.progress_ns = pmp_now_ns()
    call.position = position
    append(&worker.in_flight, call)
    worker.in_flight_estimate_ns += call.estimate_ns


cdef bint fits(Worker *worker, Call *call) noexcept nogil:
    """Whether call and function are one record each, so that sending them cannot stall."""
    return (pmp_fits_record(&worker.calls, call.part_count, call.parts)
            and (call.function == NULL
                 or pmp_fits_record(&worker.calls, 1, &call.function.part)))


cdef bint is_late(Worker *worker, int64_t now_ns) noexcept nogil:
    """Nobody should wait behind the call that this worker runs."""
    cdef int64_t limit_ns = 2 * worker.in_flight.first.estimate_ns
    return now_ns - worker.progress_ns > (limit_ns if limit_ns > OVERDUE_NS else OVERDUE_NS)


cdef bint is_responsive(Worker *worker) noexcept nogil:
    """Whether a worker that a call was taken back from, unbegun, has gone past it since."""
    if worker.unresponsive and pmp_ring_is_empty(&worker.calls.producer):
        worker.unresponsive = False
    return not worker.unresponsive


cdef bint is_open(Worker *worker) noexcept nogil:
    """Whether calls may be sent to the worker at all."""
    return not (worker.reserved or worker.retired or worker.failure or worker.sending != NULL)


cdef bint is_nearly_idle(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil:
    """Whether the worker should end what is in its line, and the call too, before an idle one would have begun it. That
    is believed once: a call that it did not come true for has waited enough."""
    cdef int64_t wake_ns = WAKE_NS if core.worker_count < core.core_count else OVERSUBSCRIBED_WAKE_NS
    return (not call.was_recalled and worker.in_flight.length > 0
            and worker.in_flight_estimate_ns + call.estimate_ns < wake_ns and now_ns - worker.progress_ns < wake_ns
            and is_open(worker) and fits(worker, call))


cdef Worker *select_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil:
    """The worker to send a call to now, or NULL: the one used last if it is idle, or nearly so (it is awake
    and warm), else another idle one, else the one with the shortest line, else an absent one."""
    cdef Worker *best = NULL
    cdef Worker *absent = NULL
    cdef Worker *worker
    cdef int i, index
    if core.last_used < core.worker_count and is_nearly_idle(core, core.workers[core.last_used], call, now_ns):
        return core.workers[core.last_used]
    for i in range(core.worker_count):
        index = core.last_used + i
        if index >= core.worker_count:
            index -= core.worker_count
        worker = core.workers[index]
        if not is_open(worker):
            continue
        if worker.in_flight.length == 0:
            if not is_responsive(worker):
                absent = worker
                continue
            core.last_used = index
            return worker
        if best != NULL and worker.in_flight_estimate_ns >= best.in_flight_estimate_ns:
            continue
        if worker.in_flight_estimate_ns + call.estimate_ns > PREFETCH_NS and (
                worker.in_flight.length > 1 or worker.in_flight_estimate_ns > PREFETCH_ONE_NS):
            continue
        if worker.in_flight.length >= IN_FLIGHT_MAX or not fits(worker, call) or is_late(worker, now_ns):
            continue
        best = worker
    return best if best != NULL else absent


# ---- taking back ----

cdef bint is_claimed(Worker *worker, Call *call) noexcept nogil:
    return (call.position == UINT64_MAX
            or pmp_ring_claimed(&worker.calls.producer, call.position))


cdef bint recall(Worker *worker, Call *call) noexcept nogil:
    """Takes a call out of a worker's line; False when the worker has begun it."""
    if call.position == UINT64_MAX:
        return False
    if pmp_ring_revoke(&worker.calls.producer, call.position) != 0:
        return False
    remove(&worker.in_flight, call)
    worker.in_flight_estimate_ns -= call.estimate_ns
    return True


cdef bint is_idle(Worker *worker) noexcept nogil:
    return worker.in_flight.length == 0 and not worker.reserved and not worker.retired and not worker.failure


cdef bint has_idle(Core *core) noexcept nogil:
    for i in range(core.worker_count):
        if is_idle(core.workers[i]):
            return True
    return False


cdef bint has_ready(Core *core) noexcept nogil:
    """Whether there is a worker that would begin a call at once."""
    for i in range(core.worker_count):
        if is_idle(core.workers[i]) and is_responsive(core.workers[i]):
            return True
    return False


cdef void rebalance(Core *core, int64_t now_ns) noexcept nogil:
    """Takes back what waits behind a long call, or is not begun at all."""
    cdef bint idle = has_ready(core)
    cdef Worker *worker
    cdef Call *call
    for i in range(core.worker_count):
        worker = core.workers[i]
        if worker.reserved or worker.in_flight.length == 0:
            continue
        if not (idle and now_ns - worker.progress_ns > RECALL_AFTER_NS) and not is_late(worker, now_ns):
            continue
        if worker.in_flight.length == 1 and not idle:
            continue
        call = worker.in_flight.last
        while call != worker.in_flight.first:
            call = take_back_to_waiting(core, worker, call)
            if call == NULL:
                break
        else:
            if idle and now_ns - worker.progress_ns > UNRESPONSIVE_NS:
                take_back_to_waiting(core, worker, call)
                worker.unresponsive = worker.in_flight.length == 0


cdef Call *take_back_to_waiting(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Moves a call to the front of the waiting ones; the one before it, or NULL if it was begun."""
    cdef Call *previous = call.previous
    if not recall(worker, call):
        return NULL
    call.was_recalled = True
    prepend(&core.waiting, call)
    return previous


cdef int64_t next_deadline_ns(Core *core) noexcept nogil:
    """After what time a call may be late without anybody ringing; -1: never."""
    cdef Worker *worker
    if core.waiting.first != NULL and has_idle(core):
        return OVERDUE_NS  # its ring is full of calls taken back, which it skips without ringing
    if core.worker_count < 2:
        return -1
    for i in range(core.worker_count):
        worker = core.workers[i]
        if worker.in_flight.length > 1:
            return RECALL_AFTER_NS if has_ready(core) else OVERDUE_NS
        if worker.in_flight.length == 1 and not is_claimed(worker, worker.in_flight.first):
            return OVERDUE_NS
    return -1

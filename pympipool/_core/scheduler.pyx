# cython: language_level=3, boundscheck=False, cdivision=True
"""The scheduler: which worker gets a call, and which calls are recalled from a worker; in C, without the GIL.

    waiting calls ── select_worker ──► in flight at a worker ──► result
                  ◄── rebalance ─────┘

A call goes to the first of these that applies:

1. the worker used last, if its calls in flight take less time than waking another worker would
2. an idle worker: of several the one that was used last
3. the worker whose calls in flight have the smallest estimated time, as long as that is about a millisecond or only one
   call is sent ahead; so workers never wait for the master

`rebalance` recalls calls that are behind a call that turns out to be long. It also recalls a call that its worker does
not start, because the worker was stopped or gets no core. Such a worker is unresponsive: other workers are preferred
until it has noticed the recall.

Nothing here looks at all workers for each call: `worker_sets.pxd` knows which ones are idle or have calls. `rebalance` looks at
those that have calls which may have to be recalled. It is called when one of these calls is due, and never takes more
than a small part of the time.

The caller of every function here holds the lock.
"""

from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint64_t

from pympipool._core.types cimport Call, Core, Worker, WorkerHeap, append, prepend, remove
from pympipool._core.worker_sets cimport (
    RECALL_AFTER_NS, accepts_calls, join_at_end, leave_heap, leave_list, unresponsive_after_ns, update_worker,
)
from pympipool._core.ring cimport (
    PMP_OVERDUE_NS, PMP_PREFETCH_NS, pmp_fits_record, pmp_now_ns, pmp_ring_claimed, pmp_ring_is_empty, pmp_ring_revoke,
)

cdef enum:
    MICROSECOND = 1_000
    MILLISECOND = 1_000_000

    # Overhead of a call besides its run time. It is a tenth of that in transport/tcp/prefetch.py: a ring needs no network.
    OVERHEAD_NS = 2 * MICROSECOND

    # A run time that differs from the estimate by more than this factor says little about other calls.
    OUTLIER_FACTOR = 8

    # Estimated run time of a function that never ran. It makes such calls go to idle workers first. Over TCP they are not
    # sent ahead at all, since a recall takes a round trip there; on a ring a recall costs next to nothing.
    UNKNOWN_NS = 500 * MICROSECOND

    # Time that an idle worker needs to start a call.
    WAKE_NS = 20 * MICROSECOND

    # The same time where there are more workers than spare cores: the worker must first get a core, maybe the master's.
    OVERSUBSCRIBED_WAKE_NS = 80 * MICROSECOND

    # One call is sent ahead to a worker whose calls in flight take up to this long. For longer calls, the delay
    # of sending the next call only after a result would not be felt.
    PREFETCH_ONE_NS = 20 * MILLISECOND

    # Number of unresponsive workers that are checked at a time: there may be hundreds.
    RESPONSE_CHECKS = 8

    # `rebalance` looks at many workers if many have calls. It takes at most this part of all time ...
    REBALANCE_SHARE = 16

    # ... is called at most that often ...
    REBALANCE_INTERVAL_NS = 50 * MICROSECOND

    # ... and at least that often. Its thread may have waited for a core meanwhile, and that is no part of its work.
    REBALANCE_PAUSE_MAX_NS = PMP_OVERDUE_NS


# ---- workers ----

cdef Worker *find_worker(Core *core, uint64_t number) noexcept nogil:
    """Return the worker with this number, or NULL."""
    for i in range(core.worker_count):
        if core.workers[i].number == number:
            return core.workers[i]
    return NULL


# ---- estimates ----

cdef void update_estimate(Core *core, Call *call, int64_t run_ns) noexcept nogil:
    """Move the estimate for the call's function towards the run time of this call.

    A call that took far longer than usual may have lost its core for a while. It says little about other calls, so it
    counts as OUTLIER_FACTOR times the estimate.
    """
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
    """Return the estimated run time and overhead of a call, ns."""
    cdef int64_t run_ns = core.default_estimate_ns
    if call.function != NULL:
        run_ns = call.function.estimate_ns
    return OVERHEAD_NS + (run_ns if run_ns > 0 else UNKNOWN_NS)


# ---- selection ----

cdef void set_front(Worker *worker, int64_t now_ns) noexcept nogil:
    """Note that another call is the first in flight from now on."""
    worker.front_since_ns = now_ns
    worker.front_claimed = worker.front_overdue = False


cdef void enqueue(Core *core, Worker *worker, Call *call, uint64_t position) noexcept nogil:
    """Add a call that was sent to the worker's calls in flight. UINT64_MAX as position: it cannot be recalled.

    The caller calls `update_worker`, here and in `dequeue`.
    """
    if worker.in_flight.length == 0:
        set_front(worker, pmp_now_ns())
    call.position = position
    call.worker = worker
    append(&worker.in_flight, call)
    worker.in_flight_estimate_ns += call.estimate_ns
    core.in_flight += 1


cdef void dequeue(Core *core, Call *call) noexcept nogil:
    """Remove a call from its worker's calls in flight."""
    cdef Worker *worker = call.worker
    if call == worker.in_flight.first:
        worker.front_claimed = worker.front_overdue = False
    call.worker = NULL
    remove(&worker.in_flight, call)
    worker.in_flight_estimate_ns -= call.estimate_ns
    core.in_flight -= 1


cdef bint fits_record(Worker *worker, Call *call) noexcept nogil:
    """Return True if the call and its function are one record each, so that sending them cannot stall."""
    return (pmp_fits_record(&worker.calls, call.part_count, call.parts)
            and (call.function == NULL
                 or pmp_fits_record(&worker.calls, 1, &call.function.part)))


cdef int64_t overdue_after_ns(Worker *worker) noexcept nogil:
    """Return how long the worker's first call may run before no other call should wait behind it, ns."""
    return max(2 * worker.in_flight.first.estimate_ns, <int64_t>PMP_OVERDUE_NS)


cdef bint is_overdue(Worker *worker, int64_t now_ns) noexcept nogil:
    """Return True if the call that this worker runs takes so long that no other call should wait behind it."""
    return now_ns - worker.front_since_ns > overdue_after_ns(worker)


cdef bint is_idle_soon(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil:
    """Return True if the worker is expected to finish its calls in flight and this one before an idle worker would wake up.

    A call that was recalled before goes to an idle worker if there is one: the expectation was wrong for it once, and
    it has waited enough.
    """
    cdef int64_t wake_ns = WAKE_NS if core.rank_count < core.core_count else OVERSUBSCRIBED_WAKE_NS
    return (not call.was_recalled and worker.in_flight.length > 0
            and worker.in_flight_estimate_ns + call.estimate_ns < wake_ns and now_ns - worker.front_since_ns < wake_ns
            and accepts_calls(worker) and fits_record(worker, call))


cdef Worker *idle_worker(Core *core) noexcept nogil:
    """Return the idle worker that was used last and would start a call at once, or NULL.

    An unresponsive worker counts as idle again when it has gone past the call that it did not start.
    """
    cdef Worker *worker
    cdef int left = RESPONSE_CHECKS
    while core.idle.first == NULL and core.unresponsive.first != NULL and left > 0:
        left -= 1
        worker = core.unresponsive.first
        if pmp_ring_is_empty(&worker.calls.producer):
            worker.unresponsive = False
            update_worker(core, worker)
        elif worker.next == NULL:
            break
        else:  # the next check begins with another one
            leave_list(worker)
            join_at_end(&core.unresponsive, worker)
    return core.idle.first


cdef Worker *least_loaded(WorkerHeap *heap, int64_t now_ns) noexcept nogil:
    """Return the worker with the smallest estimate in flight that is not overdue, or NULL."""
    while heap.count > 0 and is_overdue(heap.workers[0], now_ns):
        heap.workers[0].front_overdue = True
        leave_heap(heap.workers[0])
    return heap.workers[0] if heap.count > 0 else NULL


cdef Worker *prefetching_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil:
    """Return the worker with the smallest estimate in flight, or NULL if the call must not be sent ahead."""
    cdef Worker *best = least_loaded(&core.with_one, now_ns)
    cdef Worker *other = least_loaded(&core.with_several, now_ns)
    if best != NULL and (best.in_flight_estimate_ns + call.estimate_ns > PMP_PREFETCH_NS
                         and best.in_flight_estimate_ns > PREFETCH_ONE_NS):
        best = NULL
    if other != NULL and other.in_flight_estimate_ns + call.estimate_ns <= PMP_PREFETCH_NS and (
            best == NULL or other.in_flight_estimate_ns < best.in_flight_estimate_ns):
        best = other
    return best if best != NULL and fits_record(best, call) else NULL


cdef Worker *select_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil:
    """Return the worker to send a call to now, or NULL if the call must wait.

    The order of preference is: the worker used last if it will be idle soon (it is awake and its caches are warm), the idle
    worker that was used last, the worker with the smallest estimate in flight, an unresponsive worker.
    """
    cdef Worker *worker
    if core.last_used != NULL and is_idle_soon(core, core.last_used, call, now_ns):
        return core.last_used
    worker = idle_worker(core)
    if worker != NULL:
        core.last_used = worker
        return worker
    worker = prefetching_worker(core, call, now_ns)
    return worker if worker != NULL else core.unresponsive.first


# ---- recall ----

cdef bint is_claimed(Worker *worker, Call *call) noexcept nogil:
    """Return True if the worker has started the call, or may have."""
    return (call.position == UINT64_MAX
            or pmp_ring_claimed(&worker.calls.producer, call.position))


cdef bint recall(Core *core, Call *call) noexcept nogil:
    """Take a call in flight back from its worker; return False if the worker has started it.

    A recalled call is in no list; the caller adds it to one.
    """
    cdef Worker *worker = call.worker
    if call.position == UINT64_MAX:
        return False
    if pmp_ring_revoke(&worker.calls.producer, call.position) != 0:
        return False
    dequeue(core, call)
    update_worker(core, worker)
    return True


cdef void recall_all(Core *core, Worker *worker) noexcept nogil:
    """Recall the calls that a worker has not started; they wait again."""
    cdef Call *call = worker.in_flight.last
    cdef Call *previous
    while call != NULL:
        previous = call.previous
        if not recall(core, call):
            return
        prepend(&core.waiting, call)
        call = previous


cdef Call *requeue(Core *core, Call *call) noexcept nogil:
    """Recall a call and move it to the front of the waiting calls.

    Returns:
        The call before it at the worker; NULL if there is none, or if the worker has started the call.
    """
    cdef Call *previous = call.previous
    if not recall(core, call):
        return NULL
    call.was_recalled = True
    prepend(&core.waiting, call)
    return previous


cdef int64_t recall_time_ns(Worker *worker, bint idle) noexcept nogil:
    """Return the time at which the worker's calls are to be recalled that are behind its first one.

    Args:
        idle: Another worker would start them at once.
    """
    return worker.front_since_ns + (<int64_t>RECALL_AFTER_NS if idle else overdue_after_ns(worker))


cdef void recall_waiting(Core *core, Worker *worker, bint may_recall_first) noexcept nogil:
    """Recall the calls behind the worker's first one; if all of them are, and if wanted, that one too."""
    cdef Call *call = worker.in_flight.last
    while call != worker.in_flight.first:
        call = requeue(core, call)
        if call == NULL:
            return
    if may_recall_first:
        requeue(core, call)
        worker.unresponsive = worker.in_flight.length == 0
        update_worker(core, worker)


cdef bint note_if_claimed(Worker *worker) noexcept nogil:
    """Return True if the worker has started its only call; then it leaves the list `unclaimed`."""
    if not is_claimed(worker, worker.in_flight.first):
        return False
    worker.front_claimed = True
    leave_list(worker)
    return True


cdef bint waits_for_relay(Worker *worker, int64_t now_ns) noexcept nogil:
    """Return True if the relay has not taken the first call of the worker yet: those behind it do not wait for that call."""
    return (worker.relay_bell != NULL and now_ns - worker.front_since_ns <= unresponsive_after_ns(worker)
            and not is_claimed(worker, worker.in_flight.first))


cdef void rebalance(Core *core, int64_t now_ns) noexcept nogil:
    """Recall calls that are behind a long call, and calls that an unresponsive worker does not start."""
    cdef Worker *worker
    cdef Worker *following
    cdef int64_t next_ns = INT64_MAX
    cdef int64_t ended_ns, pause_ns
    cdef bint idle = idle_worker(core) != NULL
    core.rebalance_ns = INT64_MAX
    following = core.several.first
    while following != NULL:
        worker = following
        following = worker.next
        if waits_for_relay(worker, now_ns):
            next_ns = min(next_ns, now_ns + RECALL_AFTER_NS)
            continue
        if now_ns > recall_time_ns(worker, idle):
            recall_waiting(core, worker, idle and now_ns - worker.front_since_ns > unresponsive_after_ns(worker))
        if worker.in_flight.length > 1:
            next_ns = min(next_ns, recall_time_ns(worker, idle))
    following = core.unclaimed.first if idle else NULL
    while following != NULL:
        worker = following
        following = worker.next
        if note_if_claimed(worker):
            continue
        if now_ns - worker.front_since_ns > unresponsive_after_ns(worker):
            recall_waiting(core, worker, True)
        else:
            next_ns = min(next_ns, worker.front_since_ns + unresponsive_after_ns(worker))
    core.rebalance_ns = min(core.rebalance_ns, next_ns)
    ended_ns = pmp_now_ns()
    pause_ns = max(<int64_t>REBALANCE_INTERVAL_NS, REBALANCE_SHARE * (ended_ns - now_ns))
    core.next_rebalance_ns = ended_ns + min(pause_ns, <int64_t>REBALANCE_PAUSE_MAX_NS)


cdef bint has_unclaimed(Core *core) noexcept nogil:
    """Return True if a worker has one call in flight and has not started it."""
    while core.unclaimed.first != NULL and note_if_claimed(core.unclaimed.first):
        pass
    return core.unclaimed.first != NULL


cdef int64_t next_deadline_ns(Core *core) noexcept nogil:
    """Return the time, in ns from now, after which a call may be late without a doorbell being rung; -1: never.

    A thread that sleeps must wake up after this time and do a round.
    """
    if core.waiting.first != NULL and (core.idle.first != NULL or core.unresponsive.first != NULL):
        return PMP_OVERDUE_NS  # the worker's ring is full of recalled calls, which the worker skips without ringing
    if core.worker_count < 2:
        return -1
    if core.several.first != NULL:
        return RECALL_AFTER_NS if idle_worker(core) != NULL else PMP_OVERDUE_NS
    return PMP_OVERDUE_NS if has_unclaimed(core) else -1

# cython: language_level=3, boundscheck=False, cdivision=True
"""The scheduler: which worker gets a call, and which calls are recalled from a worker; in C, without the GIL.

    waiting calls ── select_worker ──► in flight at a worker ──► result
                  ◄── rebalance ─────┘

A call goes to the first of these that applies:

1. the worker used last, if its calls in flight take less time than waking another worker would
2. an idle worker
3. the worker whose calls in flight have the smallest estimated time, as long as that is about a millisecond or only one
   call is sent ahead; so workers never wait for the master

`rebalance` recalls calls that are behind a call that turns out to be long. It also recalls a call that its worker does
not start, because the worker was stopped or gets no core. Such a worker is unresponsive: other workers are preferred
until it has noticed the recall.

The caller of every function here holds the lock.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint64_t

from pympipool._core.types cimport Call, Core, Worker, append, prepend, remove
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

    # Largest number of calls in flight at one worker. Over TCP it is smaller: the calls must fit into the kernels' buffers.
    IN_FLIGHT_MAX = 1024

    # Run time after which a call no longer counts as short: calls behind it are recalled if another worker is idle.
    RECALL_AFTER_NS = 200 * MICROSECOND

    # A call that was not started for this long is recalled. Waking up takes longer only if the worker was
    # stopped, or has no core.
    UNRESPONSIVE_NS = 5 * MILLISECOND


# ---- workers ----

cdef Worker *find_worker(Core *core, uint64_t number) noexcept nogil:
    """Return the worker with this number, or NULL."""
    for i in range(core.worker_count):
        if core.workers[i].number == number:
            return core.workers[i]
    return NULL


cdef Worker *worker_of(Core *core, Call *call) noexcept nogil:
    """Return the worker at which the call is in flight, or NULL."""
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

cdef void enqueue(Worker *worker, Call *call, uint64_t position) noexcept nogil:
    """Add a call that was sent to the worker's calls in flight. UINT64_MAX as position: it cannot be recalled."""
    if worker.in_flight.length == 0:
        worker.front_since_ns = pmp_now_ns()
    call.position = position
    append(&worker.in_flight, call)
    worker.in_flight_estimate_ns += call.estimate_ns


cdef bint fits_record(Worker *worker, Call *call) noexcept nogil:
    """Return True if the call and its function are one record each, so that sending them cannot stall."""
    return (pmp_fits_record(&worker.calls, call.part_count, call.parts)
            and (call.function == NULL
                 or pmp_fits_record(&worker.calls, 1, &call.function.part)))


cdef bint is_overdue(Worker *worker, int64_t now_ns) noexcept nogil:
    """Return True if the call that this worker runs takes so long that no other call should wait behind it."""
    cdef int64_t limit_ns = 2 * worker.in_flight.first.estimate_ns
    return now_ns - worker.front_since_ns > (limit_ns if limit_ns > PMP_OVERDUE_NS else PMP_OVERDUE_NS)


cdef bint is_responsive(Worker *worker) noexcept nogil:
    """Return False as long as a worker has not gone past a call that it did not start and that was recalled."""
    if worker.unresponsive and pmp_ring_is_empty(&worker.calls.producer):
        worker.unresponsive = False
    return not worker.unresponsive


cdef bint accepts_calls(Worker *worker) noexcept nogil:
    """Return True if calls may be sent to the worker."""
    return not (worker.reserved or worker.retired or worker.failure or worker.sending != NULL)


cdef bint is_idle_soon(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil:
    """Return True if the worker is expected to finish its calls in flight and this one before an idle worker would wake up.

    A call that was recalled before goes to an idle worker if there is one: the expectation was wrong for it once, and
    it has waited enough.
    """
    cdef int64_t wake_ns = WAKE_NS if core.rank_count < core.core_count else OVERSUBSCRIBED_WAKE_NS
    return (not call.was_recalled and worker.in_flight.length > 0
            and worker.in_flight_estimate_ns + call.estimate_ns < wake_ns and now_ns - worker.front_since_ns < wake_ns
            and accepts_calls(worker) and fits_record(worker, call))


cdef Worker *select_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil:
    """Return the worker to send a call to now, or NULL if the call must wait.

    The order of preference is: the worker used last if it is idle or soon will be (it is awake and its caches are warm),
    another idle worker, the worker with the smallest estimate in flight, an unresponsive worker.
    """
    cdef Worker *best = NULL
    cdef Worker *unresponsive = NULL
    cdef Worker *worker
    cdef int i, index
    if core.last_used < core.worker_count and is_idle_soon(core, core.workers[core.last_used], call, now_ns):
        return core.workers[core.last_used]
    for i in range(core.worker_count):
        index = core.last_used + i
        if index >= core.worker_count:
            index -= core.worker_count
        worker = core.workers[index]
        if not accepts_calls(worker):
            continue
        if worker.in_flight.length == 0:
            if not is_responsive(worker):
                unresponsive = worker
                continue
            core.last_used = index
            return worker
        if best != NULL and worker.in_flight_estimate_ns >= best.in_flight_estimate_ns:
            continue
        if worker.in_flight_estimate_ns + call.estimate_ns > PMP_PREFETCH_NS and (
                worker.in_flight.length > 1 or worker.in_flight_estimate_ns > PREFETCH_ONE_NS):
            continue
        if worker.in_flight.length >= IN_FLIGHT_MAX or not fits_record(worker, call) or is_overdue(worker, now_ns):
            continue
        best = worker
    return best if best != NULL else unresponsive


# ---- recall ----

cdef bint is_claimed(Worker *worker, Call *call) noexcept nogil:
    """Return True if the worker has started the call, or may have."""
    return (call.position == UINT64_MAX
            or pmp_ring_claimed(&worker.calls.producer, call.position))


cdef bint recall(Worker *worker, Call *call) noexcept nogil:
    """Take a call back from its worker; return False if the worker has started it.

    A recalled call is in no list; the caller adds it to one.
    """
    if call.position == UINT64_MAX:
        return False
    if pmp_ring_revoke(&worker.calls.producer, call.position) != 0:
        return False
    remove(&worker.in_flight, call)
    worker.in_flight_estimate_ns -= call.estimate_ns
    return True


cdef void recall_all(Core *core, Worker *worker) noexcept nogil:
    """Recall the calls that a worker has not started; they wait again."""
    cdef Call *call = worker.in_flight.last
    cdef Call *previous
    while call != NULL:
        previous = call.previous
        if not recall(worker, call):
            return
        prepend(&core.waiting, call)
        call = previous


cdef bint is_idle(Worker *worker) noexcept nogil:
    """Return True if the worker has no calls in flight and may get some."""
    return worker.in_flight.length == 0 and not worker.reserved and not worker.retired and not worker.failure


cdef bint has_idle_worker(Core *core) noexcept nogil:
    """Return True if a worker has no calls in flight and may get some."""
    for i in range(core.worker_count):
        if is_idle(core.workers[i]):
            return True
    return False


cdef bint has_responsive_idle(Core *core) noexcept nogil:
    """Return True if there is a worker that would start a call at once."""
    for i in range(core.worker_count):
        if is_idle(core.workers[i]) and is_responsive(core.workers[i]):
            return True
    return False


cdef void rebalance(Core *core, int64_t now_ns) noexcept nogil:
    """Recall calls that are behind a long call, and calls that an unresponsive worker does not start."""
    cdef bint idle = has_responsive_idle(core)
    cdef Worker *worker
    cdef Call *call
    for i in range(core.worker_count):
        worker = core.workers[i]
        if worker.reserved or worker.in_flight.length == 0:
            continue
        if not (idle and now_ns - worker.front_since_ns > RECALL_AFTER_NS) and not is_overdue(worker, now_ns):
            continue
        if worker.in_flight.length == 1 and not idle:
            continue
        call = worker.in_flight.last
        while call != worker.in_flight.first:
            call = requeue(core, worker, call)
            if call == NULL:
                break
        else:
            if idle and now_ns - worker.front_since_ns > UNRESPONSIVE_NS:
                requeue(core, worker, call)
                worker.unresponsive = worker.in_flight.length == 0


cdef Call *requeue(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Recall a call and move it to the front of the waiting calls.

    Returns:
        The call before it at the worker; NULL if there is none, or if the worker has started the call.
    """
    cdef Call *previous = call.previous
    if not recall(worker, call):
        return NULL
    call.was_recalled = True
    prepend(&core.waiting, call)
    return previous


cdef int64_t next_deadline_ns(Core *core) noexcept nogil:
    """Return the time, in ns from now, after which a call may be late without a doorbell being rung; -1: never.

    A thread that sleeps must wake up after this time and call `rebalance`.
    """
    cdef Worker *worker
    if core.waiting.first != NULL and has_idle_worker(core):
        return PMP_OVERDUE_NS  # the worker's ring is full of recalled calls, which the worker skips without ringing
    if core.worker_count < 2:
        return -1
    for i in range(core.worker_count):
        worker = core.workers[i]
        if worker.in_flight.length > 1:
            return RECALL_AFTER_NS if has_responsive_idle(core) else PMP_OVERDUE_NS
        if worker.in_flight.length == 1 and not is_claimed(worker, worker.in_flight.first):
            return PMP_OVERDUE_NS
    return -1

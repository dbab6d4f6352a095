"""Which workers are idle, which may get another call, and which calls may have to be recalled: known without a search.

                  no call in flight              one                             more
    lists         idle, unresponsive             unclaimed, until it is started  several
    heaps         -                              with_one                        with_several

A worker is in at most one list and one heap. `update_worker` puts it where it belongs. It is called, with the lock held, after
each change of what it asks for.
"""

from libc.stdint cimport int64_t

from pympipool._core.types cimport Core, Worker, WorkerHeap, WorkerList

cdef enum:
    # Run time after which a call no longer counts as short: calls behind it are recalled if another worker is idle, ns.
    RECALL_AFTER_NS = 200_000

    # A call that was not started for this long is recalled, ns. Waking up takes longer only if the worker was
    # stopped, or has no core.
    UNRESPONSIVE_NS = 5_000_000

    # The same for a worker behind the relay, which takes the call for it. A burst of calls for thousands of workers keeps the
    # relay busy for so long, and a call that is recalled meanwhile goes to the end of its work once more.
    RELAY_UNRESPONSIVE_NS = 500_000_000


# ---- lists ----

cdef inline void leave_list(Worker *worker) noexcept nogil:
    cdef WorkerList *members = worker.list
    if members == NULL:
        return
    if worker.previous == NULL:
        members.first = worker.next
    else:
        worker.previous.next = worker.next
    if worker.next == NULL:
        members.last = worker.previous
    else:
        worker.next.previous = worker.previous
    worker.list = NULL


cdef inline void join_at_front(WorkerList *members, Worker *worker) noexcept nogil:
    worker.list = members
    worker.previous = NULL
    worker.next = members.first
    if members.first == NULL:
        members.last = worker
    else:
        members.first.previous = worker
    members.first = worker


cdef inline void join_at_end(WorkerList *members, Worker *worker) noexcept nogil:
    worker.list = members
    worker.next = NULL
    worker.previous = members.last
    if members.last == NULL:
        members.first = worker
    else:
        members.last.next = worker
    members.last = worker


# ---- heaps ----

cdef inline void place(WorkerHeap *heap, int index, Worker *worker) noexcept nogil:
    heap.workers[index] = worker
    worker.heap_index = index


cdef inline void sift(WorkerHeap *heap, int index, Worker *worker) noexcept nogil:
    """Put a worker at this index, or where it belongs above or below."""
    cdef int64_t key = worker.in_flight_estimate_ns
    cdef int other
    while index > 0:
        other = (index - 1) // 2
        if heap.workers[other].in_flight_estimate_ns <= key:
            break
        place(heap, index, heap.workers[other])
        index = other
    while True:
        other = 2 * index + 1
        if other >= heap.count:
            break
        if other + 1 < heap.count and (
                heap.workers[other + 1].in_flight_estimate_ns < heap.workers[other].in_flight_estimate_ns):
            other += 1
        if heap.workers[other].in_flight_estimate_ns >= key:
            break
        place(heap, index, heap.workers[other])
        index = other
    place(heap, index, worker)


cdef inline void leave_heap(Worker *worker) noexcept nogil:
    cdef WorkerHeap *heap = worker.heap
    cdef Worker *last
    if heap == NULL:
        return
    worker.heap = NULL
    heap.count -= 1
    last = heap.workers[heap.count]
    if last != worker:
        sift(heap, worker.heap_index, last)


cdef inline void join_heap(WorkerHeap *heap, Worker *worker) noexcept nogil:
    worker.heap = heap
    heap.count += 1
    sift(heap, heap.count - 1, worker)


# ---- where a worker belongs ----

cdef inline int64_t unresponsive_after_ns(Worker *worker) noexcept nogil:
    """Return for how long a worker may leave its first call unclaimed, ns."""
    return UNRESPONSIVE_NS if worker.relay_bell == NULL else RELAY_UNRESPONSIVE_NS


cdef inline bint accepts_calls(Worker *worker) noexcept nogil:
    """Return True if calls may be sent to the worker."""
    return not (worker.reserved or worker.retired or worker.failure or worker.sending != NULL)


cdef inline WorkerList *list_of(Core *core, Worker *worker, bint accepts) noexcept nogil:
    if worker.in_flight.length > 1:
        return &core.several if not worker.reserved else NULL
    if worker.in_flight.length == 1:
        return &core.unclaimed if not (worker.reserved or worker.front_claimed) else NULL
    if not accepts:
        return NULL
    return &core.unresponsive if worker.unresponsive else &core.idle


cdef inline WorkerHeap *heap_of(Core *core, Worker *worker, bint accepts) noexcept nogil:
    if not accepts or worker.in_flight.length == 0 or worker.front_overdue:
        return NULL
    return &core.with_one if worker.in_flight.length == 1 else &core.with_several


cdef inline void update_worker(Core *core, Worker *worker) noexcept nogil:
    """Put a worker into the list and the heap where it belongs."""
    cdef bint accepts = accepts_calls(worker)
    cdef WorkerList *members = list_of(core, worker, accepts)
    cdef WorkerHeap *heap = heap_of(core, worker, accepts)
    cdef bint may_stall = worker.sending != NULL or worker.receiving or worker.in_flight.length == 1
    if members != worker.list:
        leave_list(worker)
        if members == &core.idle and core.idle.first == NULL:
            core.rebalance_ns = 0  # it may take over a call that waits behind another one
        elif members == &core.several:
            core.rebalance_ns = min(core.rebalance_ns, worker.front_since_ns + RECALL_AFTER_NS)
        elif members == &core.unclaimed:
            core.rebalance_ns = min(core.rebalance_ns, worker.front_since_ns + unresponsive_after_ns(worker))
        if members != NULL and worker.ended == 0:
            join_at_end(members, worker)  # workers without any use yet get their first calls in the order of their numbers
        elif members != NULL:
            join_at_front(members, worker)
    if heap != worker.heap:
        leave_heap(worker)
        if heap != NULL:
            join_heap(heap, worker)
    elif heap != NULL:
        sift(heap, worker.heap_index, worker)
    core.stalling += may_stall - worker.may_stall
    worker.may_stall = may_stall


cdef inline void leave_sets(Core *core, Worker *worker) noexcept nogil:
    """Take a worker that will be freed out of all sets."""
    leave_list(worker)
    leave_heap(worker)
    core.stalling -= worker.may_stall
    worker.may_stall = False

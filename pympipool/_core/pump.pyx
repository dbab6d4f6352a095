# cython: language_level=3, boundscheck=False, cdivision=True
"""Moves messages between the master and its workers, in C: touches no Python object and needs no GIL.

                     ┌──────── waiting ◄──── recalled ───────┐
    submit ─────────►│ calls   │                             │
                     └───┬─────┘                     ┌───────┴────────┐
                         └─ dispatch_waiting: send ─►│ calls in flight│──► ring ──► worker
                     ┌─────────┐                     └───────┬────────┘
    deliver ◄────────│  done   │◄──── drain: receive ────────┘◄─────── ring ◄──┘
                     └─────────┘

A round looks at the rings of the few workers that it watches, and at those of workers that have set their bit in `Core.news`: see
csrc/news.h.

`pump` does one round of this. Any thread that holds `core.lock` may call it; `progress_engine.pyx` decides which thread
does so and when. No thread waits for the GIL while it holds the lock. Results are only added to `done` here;
`completion.pyx` sets them on their futures, with the GIL.
"""

from libc.errno cimport EAGAIN, EBADMSG
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pympipool._core.answers cimport (
    check_answer, forget_answer, has_answer, keep_answer, receive_answer, record_times, total_bytes,
)
from pympipool._core.scheduler cimport (
    dequeue, enqueue, estimate, is_claimed, rebalance, requeue, select_worker, set_front, update_estimate,
)
from pympipool._core.types cimport WATCHED_MAX, Call, Core, Function, Worker, append, prepend, remove
from pympipool._core.worker_sets cimport update_worker
from pympipool._core.trace_buffer cimport FAILED, Outcome, Record, record
from pympipool._core.ring cimport (
    PMP_CALL, PMP_FUNCTION, PMP_FUNCTION_CACHE_SIZE, PMP_RECALLED, PMP_TRACED, pmp_doorbell_ring,
    pmp_doorbell_ring_after_fence, pmp_head, pmp_link_awaits_room, pmp_news_add, pmp_news_clear, pmp_news_next, pmp_now_ns,
    pmp_part, pmp_send, pmp_sender_has_room, pmp_store_begin, pmp_store_free, pmp_store_keep, pmp_store_next,
)

cdef enum:
    # Parts of at least so many bytes lie once in shared memory for all ranks of a worker: then a rank's request for them takes
    # little time beside what it takes to copy them ...
    STORED_BYTES_MIN = 16 << 20

    # ... if the copies of all ranks but one would take so many bytes.
    SAVED_BYTES_MIN = 64 << 20


cdef void ring_worker(Worker *worker) noexcept nogil:
    """Wake the ranks of a worker that sleep, or the relay for it."""
    if worker.relay_bell != NULL:
        pmp_news_add(worker.relay_news, worker.slot)
        pmp_doorbell_ring_after_fence(worker.relay_bell)
        return
    pmp_doorbell_ring(&worker.bells[0])
    for i in range(1, worker.rank_count):
        pmp_doorbell_ring_after_fence(&worker.bells[i])


# ---- from workers: drain ----

cdef void record_unanswered(Core *core, Worker *worker, Call *call, Outcome outcome) noexcept nogil:
    """Record the end of a traced call that no worker has answered. The caller holds the lock; worker may be NULL."""
    cdef Record entry
    if call.times.submitted_ns == 0 or core.recording == NULL:
        return
    memset(&entry, 0, sizeof(entry))
    entry.times = call.times
    entry.received_ns = pmp_now_ns()
    entry.argument_bytes = total_bytes(call.parts, call.part_count)
    entry.outcome = outcome
    if worker != NULL:
        entry.worker = worker.number
        if is_claimed(worker, call):
            entry.started_ns = max(worker.front_since_ns, call.times.sent_ns)  # approximate: the worker has reported no times
    record(core.recording, &entry, NULL)


cdef int complete(Core *core, Worker *worker, int64_t now_ns) noexcept nogil:
    """Move the worker's first call in flight, which all ranks have answered, to `done`. Errors: -EBADMSG."""
    cdef Call *call = worker.in_flight.first
    cdef bint lost
    if call == NULL or call == worker.sending or check_answer(worker, call, &lost) < 0:
        return -EBADMSG
    if lost:
        record_unanswered(core, worker, call, FAILED)
    elif call.id & PMP_TRACED:
        record_times(core, worker, call, now_ns)
    keep_answer(worker, call, lost)
    pmp_store_keep(&core.store, call.stored)  # now: the rank that has answered last still has it, so that closing takes no time
    call.stored = NULL
    dequeue(core, call)
    set_front(worker, now_ns)
    worker.ended += call.rows
    worker.unresponsive = False
    update_estimate(core, call, <int64_t>call.run_ns)
    append(&core.done, call)
    core.returned += call.rows
    core.failed += call.is_error
    core.last_ns = now_ns
    if call.watched:
        core.watched_done += 1
    return 0


cdef int on_recalled(Core *core, Worker *worker) noexcept nogil:
    """Requeue a call that was sent ahead to another host and not started there. Errors: -EBADMSG.

    The calls behind it are requeued first, so that calls keep their order.
    """
    cdef Call *call = worker.in_flight.last
    while call != NULL and call.id != worker.results[0].head.id:
        call = call.previous
    if call == NULL or call == worker.sending or worker.reserved:
        return -EBADMSG
    while worker.in_flight.last != call:
        if requeue(core, worker.in_flight.last) == NULL:
            break
    dequeue(core, call)
    call.position = UINT64_MAX
    call.was_recalled = True
    prepend(&core.waiting, call)
    return 0


cdef int drain(Core *core, Worker *worker) noexcept nogil:
    """Receive all results that a worker has sent; return 0, or the negative errno that makes the worker unusable."""
    cdef int64_t now_ns = pmp_now_ns()
    cdef int code
    while True:
        code = receive_answer(worker)
        if code == 0:
            if worker.results[0].head.kind == PMP_RECALLED and worker.rank_count == 1:
                code = on_recalled(core, worker)
            else:
                code = complete(core, worker, now_ns)
            forget_answer(worker)
        if code == -EAGAIN:
            break
        if code < 0:
            worker.failure = code
            core.kill_requested = True
            break
    worker.receiving = False
    for i in range(worker.rank_count):
        worker.receiving = worker.receiving or worker.results[i].busy
    update_worker(core, worker)
    if worker.relay_bell == NULL or pmp_link_awaits_room(worker.link):
        ring_worker(worker)  # it may be waiting for room
    return worker.failure


# ---- to workers: dispatch_waiting ----

cdef bint send_function(Worker *worker, Call *call) noexcept nogil:
    """Send the call's function unless the worker has it; return True if the worker has it afterwards."""
    cdef Function *function = call.function
    cdef pmp_head head
    if function == NULL or worker.known[function.number % PMP_FUNCTION_CACHE_SIZE] == function.number:
        return True
    head.kind = PMP_FUNCTION
    head.part_count = 1
    head.id = 0
    head.tag = function.number
    cdef int code = pmp_send(&worker.calls, &head, &function.part, NULL)
    if code == 0:
        worker.known[function.number % PMP_FUNCTION_CACHE_SIZE] = function.number
    return code == 0


cdef int store_parts(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Store a call's large parts once for all ranks; return 0 if the call can be sent now, -EAGAIN if not all is stored.

    Without memory for that, the call is sent with its parts, as to one process.
    """
    cdef int code
    if worker.rank_count == 1:
        pmp_store_free(call.stored)  # it was stored for a worker that has died, whose ranks were all on this host
        call.stored = NULL
        return 0
    if call.stored == NULL and worker.sending != call:
        call.stored = pmp_store_begin(call.parts, call.part_count,
                                      max(STORED_BYTES_MIN, SAVED_BYTES_MIN // (worker.rank_count - 1)))
    if call.stored == NULL:
        return 0
    code = pmp_store_next(&core.store, call.stored)
    if code == -EAGAIN:
        core.storing = True
        pmp_news_add(core.news, worker.slot)  # so that a round serves a worker that it does not watch
        return code
    if code < 0:
        pmp_store_free(call.stored)
        call.stored = NULL
    return 0


cdef int send_parts(Worker *worker, Call *call, uint64_t *position) noexcept nogil:
    """Send a call's function and its parts, or the next fragments. Errors as of `pmp_send`."""
    cdef pmp_head head
    cdef pmp_part *parts = call.parts if call.stored == NULL else call.stored.parts
    if not send_function(worker, call):
        return -EAGAIN
    head.kind = PMP_CALL
    head.part_count = call.part_count
    head.id = call.id
    head.tag = 0 if call.function == NULL else call.function.number
    return pmp_send(&worker.calls, &head, parts, position)


cdef bint send_call(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Send a call, or store or send more of it; return False if nothing could be done.

    The call is in flight as soon as any part of it was stored or sent.
    """
    cdef uint64_t position = UINT64_MAX
    cdef uint64_t begins_at = worker.calls.producer.head
    cdef bint resumed = worker.sending == call
    cdef bint is_stored = store_parts(core, worker, call) == 0
    cdef int code = send_parts(worker, call, &position) if is_stored else -EAGAIN
    if code == 0:
        worker.sending = NULL
    elif worker.calls.busy or not is_stored:
        worker.sending = call
    elif not resumed:
        return False
    if resumed:
        call.position = position
    else:
        call.begins_at = begins_at
        enqueue(core, worker, call, position)
    update_worker(core, worker)
    if is_stored:
        ring_worker(worker)
    return True


cdef bint send_reserved(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Send a call to the worker that was started for it; return False if there was no room. It cannot be recalled."""
    call.estimate_ns = estimate(core, call)
    call.times.sent_ns = pmp_now_ns()
    if not send_call(core, worker, call):
        return False
    call.position = UINT64_MAX
    return True


cdef void dispatch_waiting(Core *core, int64_t now_ns) noexcept nogil:
    """Send waiting calls as long as there are workers for them."""
    cdef Worker *worker
    cdef Call *call
    while core.waiting.first != NULL:
        call = core.waiting.first
        call.estimate_ns = estimate(core, call)
        worker = select_worker(core, call, now_ns)
        if worker == NULL:
            return
        remove(&core.waiting, call)
        call.times.sent_ns = now_ns
        if not send_call(core, worker, call):
            prepend(&core.waiting, call)
            return


# ---- which workers have news ----

cdef bint may_serve(Worker *worker) noexcept nogil:
    """Return True if `serve` would do something."""
    return (has_answer(worker) and not worker.failure) or (
        worker.sending != NULL and pmp_sender_has_room(&worker.calls))


cdef void serve(Core *core, Worker *worker) noexcept nogil:
    """Receive what a worker has sent, and send the next fragments of a large call."""
    if has_answer(worker) and not worker.failure:
        drain(core, worker)
    if worker.sending != NULL and pmp_sender_has_room(&worker.calls):
        send_call(core, worker, worker.sending)


cdef bint has_news(Core *core) noexcept nogil:
    """Return True if a round would serve a worker."""
    for i in range(core.watched_count):
        if may_serve(core.watched[i]):
            return True
    return pmp_news_next(core.news, core.watched_slots, 0, core.slot_count) < core.slot_count


cdef void set_watched(Core *core, Worker *worker, int index) noexcept nogil:
    core.watched[index] = worker
    core.watched_slots[worker.slot // 64] |= <uint64_t>1 << (worker.slot % 64)
    worker.watched = True


cdef void clear_watched(Core *core, Worker *worker) noexcept nogil:
    """Have the worker announce its news again. What it has sent without that must be looked for afterwards."""
    core.watched_slots[worker.slot // 64] &= ~(<uint64_t>1 << (worker.slot % 64))
    worker.watched = False
    pmp_news_clear(core.news, worker.slot)


cdef void watch(Core *core, Worker *worker) noexcept nogil:
    """Look at a worker's rings in every round from now on. If there are many, the one watched longest is not watched any more."""
    cdef int index = core.watched_count
    cdef Worker *other
    if index < WATCHED_MAX:
        core.watched_count += 1
        set_watched(core, worker, index)
        return
    index = core.next_unwatched
    core.next_unwatched = (index + 1) % WATCHED_MAX
    other = core.watched[index]
    set_watched(core, worker, index)
    clear_watched(core, other)
    serve(core, other)


cdef void unwatch(Core *core, Worker *worker) noexcept nogil:
    """Look at a worker's rings no more: the worker has ended."""
    cdef int index = 0
    if not worker.watched:
        return
    while core.watched[index] != worker:
        index += 1
    core.watched_count -= 1
    core.watched[index] = core.watched[core.watched_count]
    core.next_unwatched = 0
    clear_watched(core, worker)


# ---- one round ----

cdef void serve_workers(Core *core) noexcept nogil:
    """Serve the workers that have news."""
    cdef uint32_t slot
    cdef Worker *worker
    for i in range(core.watched_count):
        serve(core, core.watched[i])
    slot = pmp_news_next(core.news, core.watched_slots, 0, core.slot_count)
    while slot < core.slot_count:
        worker = core.slots[slot]
        if worker == NULL:
            pmp_news_clear(core.news, slot)  # of a worker that has ended
        else:
            watch(core, worker)
            serve(core, worker)
        slot = pmp_news_next(core.news, core.watched_slots, slot + 1, core.slot_count)


cdef void pump(Core *core) noexcept nogil:
    """Do one round: receive results, recall calls that would wait too long, send calls. The caller holds the lock."""
    cdef int64_t now_ns
    serve_workers(core)
    now_ns = pmp_now_ns()
    if core.worker_count > 1 and now_ns >= core.rebalance_ns and now_ns >= core.next_rebalance_ns:
        rebalance(core, now_ns)
    dispatch_waiting(core, now_ns)

# cython: language_level=3, boundscheck=False, cdivision=True
"""Moves messages between the master and its workers, in C: touches no Python object and needs no GIL.

                     ┌──────── waiting ◄──── recalled ───────┐
    submit ─────────►│ calls   │                             │
                     └───┬─────┘                     ┌───────┴────────┐
                         └─ dispatch_waiting: send ─►│ calls in flight│──► ring ──► worker
                     ┌─────────┐                     └───────┬────────┘
    deliver ◄────────│  done   │◄──── drain: receive ────────┘◄─────── ring ◄──┘
                     └─────────┘

`pump` does one round of this. Any thread that holds `core.lock` may call it; `progress_engine.pyx` decides which thread
does so and when. No thread waits for the GIL while it holds the lock. Results are only added to `done` here;
`completion.pyx` sets them on their futures, with the GIL.
"""

from libc.errno cimport EAGAIN, EBADMSG
from libc.stdint cimport UINT16_MAX, UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from pympipool._core.scheduler cimport (
    enqueue, estimate, is_claimed, rebalance, requeue, select_worker, update_estimate,
)
from pympipool._core.types cimport Call, Core, Function, Worker, append, prepend, remove
from pympipool._core.trace_buffer cimport FAILED, IMPORT_STAMPS, RAISED, RETURNED, Outcome, Record, record
from pympipool._core.ring cimport (
    PMP_CALL, PMP_ERROR, PMP_FUNCTION, PMP_FUNCTION_CACHE_SIZE,
    PMP_RESULT, PMP_RECALLED, PMP_TRACED, message_bytes, pmp_doorbell_ring, pmp_head, pmp_now_ns, pmp_part,
    pmp_receive, pmp_receive_done, pmp_receiver, pmp_ring_has_record, pmp_send, pmp_sender_has_room,
)

# ---- from workers: drain ----

cdef void keep_result(Call *call, pmp_receiver *results) noexcept nogil:
    """Store a received message in its call: take over its buffers, or copy it out of the ring.

    If there is no memory for it, the call has `lost_bytes` afterwards.
    """
    cdef uint32_t count = results.head.part_count
    if results.head.id & PMP_TRACED:
        count -= 1
    cdef size_t size = count * sizeof(pmp_part)
    cdef uint32_t i
    if not results.owned:
        for i in range(count):
            size += (results.parts[i].size_bytes + 7) & ~<uint64_t>7
    call.is_error = results.head.kind == PMP_ERROR
    if not results.lost:
        call.result = <pmp_part *>malloc(size)
    if call.result == NULL:
        call.lost_bytes = max(message_bytes(results), <uint64_t>1)
        return
    cdef uint8_t *data = <uint8_t *>(call.result + count)
    for i in range(count):
        call.result[i] = results.parts[i]
        if results.owned:
            results.parts[i].data = NULL
        else:
            memcpy(data, results.parts[i].data, results.parts[i].size_bytes)
            call.result[i].data = data
            data += (results.parts[i].size_bytes + 7) & ~<uint64_t>7
    call.result_count = count
    call.result_owned = results.owned


cdef uint64_t total_bytes(const pmp_part *parts, uint32_t count) noexcept nogil:
    cdef uint64_t size_bytes = 0
    for i in range(count):
        size_bytes += parts[i].size_bytes
    return size_bytes


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


cdef int record_answer(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil:
    """Record a traced call with the times that its worker sent in the last part of the answer. Errors: -EBADMSG."""
    cdef Record entry
    cdef pmp_part *sent_times = &worker.results.parts[worker.results.head.part_count - 1]
    cdef int64_t *stamps = <int64_t *>sent_times.data
    cdef uint64_t count = sent_times.size_bytes // 8
    if worker.results.head.part_count < 2 or count < 3 or sent_times.size_bytes % 8:
        return -EBADMSG
    if stamps[2] < 0 or stamps[2] > UINT16_MAX or 3 + IMPORT_STAMPS * <uint64_t>stamps[2] > count:
        return -EBADMSG
    if core.recording == NULL or call.times.submitted_ns == 0:
        return 0
    entry.times = call.times
    entry.started_ns = stamps[0]
    entry.ended_ns = stamps[1]
    entry.received_ns = now_ns if now_ns > stamps[1] else pmp_now_ns()
    entry.worker = worker.number
    entry.argument_bytes = total_bytes(call.parts, call.part_count)
    entry.result_bytes = total_bytes(worker.results.parts, worker.results.head.part_count - 1)
    entry.outcome = RAISED if worker.results.head.kind == PMP_ERROR else RETURNED
    entry.import_count = <uint16_t>stamps[2]
    entry.stamp_count = <uint32_t>(count - 3)
    record(core.recording, &entry, stamps + 3)
    return 0


cdef int complete(Core *core, Worker *worker, int64_t now_ns) noexcept nogil:
    """Move the worker's first call in flight, whose result was received, to `done`. Errors: -EBADMSG."""
    cdef pmp_head *head = &worker.results.head
    cdef Call *call = worker.in_flight.first
    if (call == NULL or call.id != head.id or call == worker.sending
            or (head.kind != PMP_RESULT and head.kind != PMP_ERROR)):
        return -EBADMSG
    if worker.results.lost:
        record_unanswered(core, worker, call, FAILED)
    elif head.id & PMP_TRACED:
        code = record_answer(core, worker, call, now_ns)
        if code < 0:
            return code
    keep_result(call, &worker.results)
    remove(&worker.in_flight, call)
    worker.in_flight_estimate_ns -= call.estimate_ns
    worker.front_since_ns = now_ns
    worker.ended += call.rows
    worker.unresponsive = False
    call.run_ns = head.tag
    update_estimate(core, call, <int64_t>head.tag)
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
    while call != NULL and call.id != worker.results.head.id:
        call = call.previous
    if call == NULL or call == worker.sending or worker.reserved:
        return -EBADMSG
    while worker.in_flight.last != call:
        if requeue(core, worker, worker.in_flight.last) == NULL:
            break
    remove(&worker.in_flight, call)
    worker.in_flight_estimate_ns -= call.estimate_ns
    call.position = UINT64_MAX
    call.was_recalled = True
    prepend(&core.waiting, call)
    return 0


cdef int drain(Core *core, Worker *worker) noexcept nogil:
    """Receive all results that a worker has sent; return 0, or the negative errno that makes the worker unusable."""
    cdef int64_t now_ns = pmp_now_ns()
    cdef int code
    while True:
        code = pmp_receive(&worker.results)
        if code == 0:
            if worker.results.head.kind == PMP_RECALLED:
                code = on_recalled(core, worker)
            else:
                code = complete(core, worker, now_ns)
            pmp_receive_done(&worker.results)
        if code == -EAGAIN:
            break
        if code < 0:
            worker.failure = code
            core.kill_requested = True
            break
    pmp_doorbell_ring(worker.bell)  # the worker may be waiting for room
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


cdef bint send_call(Worker *worker, Call *call) noexcept nogil:
    """Send a call, or its next fragments; return False if no part of it could be sent.

    The call is in flight as soon as any part of it was sent.
    """
    cdef pmp_head head
    cdef uint64_t position = UINT64_MAX
    cdef bint resumed = worker.sending == call
    cdef int code = 0
    if send_function(worker, call):
        head.kind = PMP_CALL
        head.part_count = call.part_count
        head.id = call.id
        head.tag = 0 if call.function == NULL else call.function.number
        code = pmp_send(&worker.calls, &head, call.parts, &position)
    else:
        code = -EAGAIN
    if code == 0:
        worker.sending = NULL
    elif worker.calls.busy:
        worker.sending = call
    elif not resumed:
        return False
    if resumed:
        call.position = position
    else:
        enqueue(worker, call, position)
    pmp_doorbell_ring(worker.bell)
    return True


cdef bint send_reserved(Core *core, Worker *worker, Call *call) noexcept nogil:
    """Send a call to the worker that was started for it; return False if there was no room. It cannot be recalled."""
    call.estimate_ns = estimate(core, call)
    call.times.sent_ns = pmp_now_ns()
    if not send_call(worker, call):
        return False
    call.position = UINT64_MAX
    return True


cdef void dispatch_waiting(Core *core, int64_t now_ns) noexcept nogil:
    """Send the next fragments of large calls, then waiting calls as long as there are workers for them."""
    cdef Worker *worker
    cdef Call *call
    for i in range(core.worker_count):
        worker = core.workers[i]
        if worker.sending != NULL and pmp_sender_has_room(&worker.calls):
            send_call(worker, worker.sending)
    while core.waiting.first != NULL:
        call = core.waiting.first
        call.estimate_ns = estimate(core, call)
        worker = select_worker(core, call, now_ns)
        if worker == NULL:
            return
        remove(&core.waiting, call)
        call.times.sent_ns = now_ns
        if not send_call(worker, call):
            prepend(&core.waiting, call)
            return


# ---- one round ----

cdef void pump(Core *core) noexcept nogil:
    """Do one round: receive results, recall calls that would wait too long, send calls. The caller holds the lock."""
    cdef Worker *worker
    cdef int64_t now_ns
    for i in range(core.worker_count):
        worker = core.workers[i]
        if pmp_ring_has_record(&worker.results.consumer) and not worker.failure:
            drain(core, worker)
    now_ns = pmp_now_ns()
    if core.worker_count > 1:
        rebalance(core, now_ns)
    dispatch_waiting(core, now_ns)

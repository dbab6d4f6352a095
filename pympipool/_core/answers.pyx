# cython: language_level=3, boundscheck=False, cdivision=True
"""How the answers of a worker become the result of a call, in C, without the GIL.

    rank 0     RESULT ─► receive_answer ─┐                        one rank: its parts, as they are
    rank 1     RESULT ─► receive_answer ─┼─► keep_answer ─► Call  several:  [rank 0, rank 1, ...], still pickled
    rank N-1   ERROR  ─► receive_answer ─┘                        error:    the exceptions of the ranks that raised

Nothing is unpickled here: the pickles of the ranks' values become that of their list (see joined_pickles.pyx). The parts of an
error of several ranks are for `serialization.exceptions.load_exception`.
"""

from libc.errno cimport EBADMSG
from libc.stdint cimport UINT16_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from pympipool._core.joined_pickles cimport JoinedPickle, add_value, begin_list, bytes_around, end_list, most_bytes
from pympipool._core.ring cimport (
    PMP_ERROR, PMP_RESULT, PMP_TRACED, message_bytes, pmp_buffer_free, pmp_buffer_new, pmp_now_ns, pmp_part,
    pmp_receiver, process_buffer_pool,
)
from pympipool._core.trace_buffer cimport IMPORT_STAMPS, RAISED, RETURNED, Record, record
from pympipool._core.types cimport Call, Core, Worker

cdef enum:
    RANK_STAMPS = 2     # of several ranks, each sends when it began and ended the call
    PARTS_OF_ERROR = 3  # what a rank of several sends of an exception: itself, the place where it was raised, a note


# ---- the parts of a result ----

cdef uint32_t count_of(pmp_receiver *answer) noexcept nogil:
    """Return the number of parts of an answer, without the times of a traced call."""
    return answer.head.part_count - (1 if answer.head.id & PMP_TRACED else 0)


cdef size_t padded(uint64_t size_bytes) noexcept nogil:
    return (size_bytes + 7) & ~<uint64_t>7


cdef void copy(void *to, pmp_part *part) noexcept nogil:
    if part.size_bytes != 0:
        memcpy(to, part.data, part.size_bytes)


cdef struct Result:
    # The parts of a call's result while they are collected. First only their sizes are added up.
    pmp_part *parts
    uint32_t count
    size_t bytes      # of the parts that are copied, if they are to lie behind `parts`
    uint8_t *data     # where the next one goes
    bint owned        # each part is a buffer of the pool
    bint failed       # there was no memory


cdef void add_part(Result *result, pmp_part *part, bint owned) noexcept nogil:
    """Add a part: take over its buffer, or copy it; only count it as long as there is no memory for it."""
    if result.parts == NULL:
        result.count += 1
        result.bytes += padded(part.size_bytes)
        result.owned = result.owned or owned
        return
    cdef pmp_part *kept = &result.parts[result.count]
    kept.size_bytes = part.size_bytes
    if owned:
        kept.data = part.data
        part.data = NULL
    elif result.owned:
        kept.data = pmp_buffer_new(process_buffer_pool(), part.size_bytes)
        if kept.data == NULL:
            result.failed = True
            return
        copy(kept.data, part)
    else:
        kept.data = result.data
        copy(kept.data, part)
        result.data += padded(part.size_bytes)
    result.count += 1


cdef void add_parts(Result *result, pmp_receiver *answer, uint32_t first) noexcept nogil:
    for i in range(first, count_of(answer)):
        add_part(result, &answer.parts[i], answer.owned)


cdef bint has_no_value(pmp_receiver *answer) noexcept nogil:
    """Return True if a rank has answered that its value is not wanted: the result is that of rank 0."""
    return count_of(answer) == 1 and answer.parts[0].size_bytes == 0


cdef uint8_t *begin_pickle(Worker *worker, uint8_t **nested) noexcept nogil:
    """Return memory for the pickle of the list of the ranks' values, and for a flag of each of them; NULL if there is none."""
    cdef size_t size = bytes_around()
    cdef pmp_receiver *answer
    cdef uint8_t *data
    for i in range(worker.rank_count):
        answer = &worker.results[i]
        size += most_bytes(answer.parts[0].size_bytes, count_of(answer))
    data = <uint8_t *>malloc(size + worker.rank_count)
    nested[0] = data + size
    return data


cdef void write_pickle(Worker *worker, uint8_t *data, uint8_t *nested, pmp_part *pickle) noexcept nogil:
    """Write the pickle of the list of the ranks' values. nested tells afterwards which values are unpickled by themselves."""
    cdef JoinedPickle joined
    cdef pmp_receiver *answer
    begin_list(&joined, data)
    for i in range(worker.rank_count):
        answer = &worker.results[i]
        nested[i] = add_value(&joined, <uint8_t *>answer.parts[0].data, answer.parts[0].size_bytes, count_of(answer))
    end_list(&joined)
    pickle.data = data
    pickle.size_bytes = joined.size_bytes


cdef void collect_values(Worker *worker, Result *result, pmp_part *pickle, uint8_t *nested) noexcept nogil:
    """Collect the parts of the list of the ranks' values: its pickle, and the buffers of all values."""
    add_part(result, pickle, False)
    for i in range(worker.rank_count):
        add_parts(result, &worker.results[i], 0 if nested[i] else 1)


cdef bint ended_at_one_place(Worker *worker) noexcept nogil:
    """Return True if the call has ended at the same place on all ranks. A function that returned has an empty place."""
    cdef pmp_part returned
    cdef pmp_part *first = NULL
    cdef pmp_part *place
    returned.data = NULL
    returned.size_bytes = 0
    for i in range(worker.rank_count):
        place = &worker.results[i].parts[1] if worker.results[i].head.kind == PMP_ERROR else &returned
        if first == NULL:
            first = place
        elif place.size_bytes != first.size_bytes or (
                place.size_bytes and memcmp(place.data, first.data, place.size_bytes) != 0):
            return False
    return True


cdef void collect_errors(Worker *worker, Result *result) noexcept nogil:
    """Collect the exceptions of the ranks that raised, and the note that the exception gets if the ranks have diverged."""
    cdef pmp_receiver *answer
    cdef pmp_receiver *lowest = NULL
    cdef pmp_part nothing
    nothing.data = NULL
    nothing.size_bytes = 0
    for i in range(worker.rank_count):
        answer = &worker.results[i]
        if answer.head.kind == PMP_ERROR:
            add_part(result, &answer.parts[0], answer.owned)
            lowest = answer if lowest == NULL else lowest
    if ended_at_one_place(worker):
        add_part(result, &nothing, False)
    else:
        add_part(result, &lowest.parts[2], lowest.owned)


cdef bint is_only_rank_0s(Worker *worker, Call *call) noexcept nogil:
    """Return True if the result of a call is what rank 0 has returned: the other values are not wanted."""
    return not call.is_error and has_no_value(&worker.results[1])


cdef void collect(Worker *worker, Call *call, Result *result, pmp_part *pickle, uint8_t *nested) noexcept nogil:
    if call.is_error:
        collect_errors(worker, result)
    else:
        collect_values(worker, result, pickle, nested)


cdef bint keep_message(pmp_receiver *answer, Call *call) noexcept nogil:
    """Store the parts of one rank's answer in the call; return False if there is no memory for them."""
    cdef uint32_t count = count_of(answer)
    cdef size_t size = count * sizeof(pmp_part)
    cdef uint8_t *data
    cdef uint32_t i
    if not answer.owned:
        for i in range(count):
            size += padded(answer.parts[i].size_bytes)
    call.result = <pmp_part *>malloc(size)
    if call.result == NULL:
        return False
    data = <uint8_t *>(call.result + count)
    for i in range(count):
        call.result[i] = answer.parts[i]
        if answer.owned:
            answer.parts[i].data = NULL
        else:
            call.result[i].data = data
            copy(data, &answer.parts[i])
            data += padded(answer.parts[i].size_bytes)
    call.result_count = count
    call.result_owned = answer.owned
    return True


cdef bint keep_parts(Worker *worker, Call *call) noexcept nogil:
    """Store the parts of several ranks' answers in the call; return False if there is no memory for them."""
    cdef Result result = Result(NULL, 0, 0, NULL, False, False)
    cdef uint8_t *nested = NULL
    cdef uint8_t *data = NULL
    cdef pmp_part pickle
    if not call.is_error:
        data = begin_pickle(worker, &nested)
        if data == NULL:
            return False
        write_pickle(worker, data, nested, &pickle)
    collect(worker, call, &result, &pickle, nested)
    cdef size_t behind = 0 if result.owned else result.bytes
    result.parts = <pmp_part *>malloc(result.count * sizeof(pmp_part) + behind)
    if result.parts == NULL:
        free(data)
        return False
    result.data = <uint8_t *>(result.parts + result.count)
    result.count = 0
    collect(worker, call, &result, &pickle, nested)
    free(data)
    if result.failed:
        for i in range(result.count):
            pmp_buffer_free(result.parts[i].data)
        free(result.parts)
        return False
    call.result = result.parts
    call.result_count = result.count
    call.result_owned = result.owned
    return True


# ---- the record of a traced call ----

cdef uint64_t total_bytes(const pmp_part *parts, uint32_t count) noexcept nogil:
    """Return the size of the first parts of a message."""
    cdef uint64_t size_bytes = 0
    for i in range(count):
        size_bytes += parts[i].size_bytes
    return size_bytes


cdef int64_t *times_of(pmp_receiver *answer, uint32_t *count) noexcept nogil:
    """Return what a rank has sent in the last part of its answer (see `PMP_TRACED`), and its length; NULL if that is invalid."""
    cdef pmp_part *sent = &answer.parts[answer.head.part_count - 1]
    cdef int64_t *times = <int64_t *>sent.data
    count[0] = <uint32_t>(sent.size_bytes // 8)
    if answer.head.part_count < 2 or count[0] < 3 or sent.size_bytes % 8:
        return NULL
    if times[2] < 0 or times[2] > UINT16_MAX or 3 + IMPORT_STAMPS * <uint64_t>times[2] > count[0]:
        return NULL
    return times


cdef void record_times(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil:
    """Record a traced call with what its ranks have sent: the imports of rank 0, then the stamps of each rank."""
    cdef Record entry
    cdef uint32_t count = 0
    cdef int64_t *stamps
    cdef int64_t *times
    if core.recording == NULL or call.times.submitted_ns == 0:
        return
    times = times_of(worker.results, &count)
    memset(&entry, 0, sizeof(entry))
    entry.times = call.times
    entry.started_ns = times[0]
    entry.ended_ns = times[1]
    entry.worker = worker.number
    entry.argument_bytes = total_bytes(call.parts, call.part_count)
    entry.result_bytes = total_bytes(worker.results[0].parts, count_of(worker.results))
    entry.outcome = RAISED if call.is_error else RETURNED
    entry.import_count = <uint16_t>times[2]
    entry.stamp_count = count - 3
    stamps = times + 3
    for i in range(1, worker.rank_count):
        entry.stamp_count += RANK_STAMPS
        times = times_of(&worker.results[i], &count)
        entry.started_ns = min(entry.started_ns, times[0])
        entry.ended_ns = max(entry.ended_ns, times[1])
        entry.result_bytes += total_bytes(worker.results[i].parts, count_of(&worker.results[i]))
    entry.received_ns = now_ns if now_ns > entry.ended_ns else pmp_now_ns()
    if worker.rank_count > 1:
        stamps = joined_stamps(worker, entry.stamp_count)
        if stamps == NULL:
            entry.stamp_count = entry.import_count = 0
    record(core.recording, &entry, stamps)
    if worker.rank_count > 1:
        free(stamps)


cdef int64_t *joined_stamps(Worker *worker, size_t stamp_count) noexcept nogil:
    """Return the imports and stamps of rank 0, then the stamps of the other ranks; NULL without memory. The caller frees it."""
    cdef int64_t *joined = <int64_t *>calloc(stamp_count, sizeof(int64_t))
    cdef int64_t *times
    cdef uint32_t count = 0
    cdef size_t length
    if joined == NULL:
        return NULL
    times = times_of(worker.results, &count)
    length = count - 3
    memcpy(joined, times + 3, length * sizeof(int64_t))
    for i in range(1, worker.rank_count):
        times = times_of(&worker.results[i], &count)
        if count >= 3 + RANK_STAMPS:
            memcpy(joined + length, times + count - RANK_STAMPS, RANK_STAMPS * sizeof(int64_t))
        length += RANK_STAMPS
    return joined


# ---- the answer ----

cdef int check_answer(Worker *worker, Call *call, bint *lost) noexcept nogil:
    """Check that all ranks have answered this call, and note if it has raised, and its run time. Errors: -EBADMSG.

    Args:
        lost: True afterwards if there was no memory for an answer.
    """
    cdef pmp_receiver *answer
    cdef uint32_t count = 0
    lost[0] = False
    for i in range(worker.rank_count):
        answer = &worker.results[i]
        if answer.head.id != call.id or (answer.head.kind != PMP_RESULT and answer.head.kind != PMP_ERROR):
            return -EBADMSG
        if answer.lost:
            lost[0] = True
        elif answer.head.id & PMP_TRACED and times_of(answer, &count) == NULL:
            return -EBADMSG
        if answer.head.kind == PMP_ERROR:
            if worker.rank_count > 1 and count_of(answer) != PARTS_OF_ERROR:
                return -EBADMSG
            call.is_error = True
        call.run_ns = max(call.run_ns, answer.head.tag)
    return 0


cdef void keep_answer(Worker *worker, Call *call, bint lost) noexcept nogil:
    """Store in a call what all ranks have answered. If there is no memory for it, the call has `lost_bytes` afterwards."""
    cdef bint is_one_answer = worker.rank_count == 1 or is_only_rank_0s(worker, call)
    if not lost and (keep_message(worker.results, call) if is_one_answer else keep_parts(worker, call)):
        return
    call.lost_bytes = 1
    for i in range(worker.rank_count):
        call.lost_bytes += message_bytes(&worker.results[i])

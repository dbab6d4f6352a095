"""Answers of workers become results of calls; see answers.pyx."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.ring cimport pmp_part, pmp_receive, pmp_receive_done, pmp_ring_has_record
from pympipool._core.types cimport Call, Core, Worker

cdef uint64_t total_bytes(const pmp_part *parts, uint32_t count) noexcept nogil
cdef int check_answer(Worker *worker, Call *call, bint *lost) noexcept nogil
cdef void record_times(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil
cdef void keep_answer(Worker *worker, Call *call, bint lost) noexcept nogil


cdef inline bint has_answer(Worker *worker) noexcept nogil:
    """Return True if a rank has sent something that was not received yet. A rank that has answered has to wait for the others."""
    for i in range(worker.rank_count):
        if not worker.results[i].complete and pmp_ring_has_record(&worker.results[i].consumer):
            return True
    return False


cdef inline int receive_answer(Worker *worker) noexcept nogil:
    """Receive what the ranks have sent; return 0 when all have answered. Errors: -EAGAIN (not all have), -EBADMSG."""
    cdef int result = 0
    cdef int code
    for i in range(worker.rank_count):
        code = pmp_receive(&worker.results[i])
        if code < 0 and code != -EAGAIN:
            return code
        if code < 0:
            result = code
    return result


cdef inline void forget_answer(Worker *worker) noexcept nogil:
    """Release the messages that `receive_answer` has received."""
    for i in range(worker.rank_count):
        pmp_receive_done(&worker.results[i])

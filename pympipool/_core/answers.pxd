"""Answers of workers become results of calls; see answers.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.ring cimport pmp_part
from pympipool._core.types cimport Call, Core, Worker

cdef bint has_answer(Worker *worker) noexcept nogil
cdef int receive_answer(Worker *worker) noexcept nogil
cdef void forget_answer(Worker *worker) noexcept nogil
cdef uint64_t total_bytes(const pmp_part *parts, uint32_t count) noexcept nogil
cdef int check_answer(Worker *worker, Call *call, bint *lost) noexcept nogil
cdef void record_times(Core *core, Worker *worker, Call *call, int64_t now_ns) noexcept nogil
cdef void keep_answer(Worker *worker, Call *call, bint lost) noexcept nogil

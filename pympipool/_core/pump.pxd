"""The movement of messages between master and workers; see pump.pyx."""

from libc.stdint cimport int64_t

from pympipool._core.types cimport Call, Core, Worker
from pympipool._core.trace_buffer cimport Outcome

cdef void ring_worker(Worker *worker) noexcept nogil
cdef int drain(Core *core, Worker *worker) noexcept nogil
cdef void pump(Core *core) noexcept nogil
cdef void dispatch_waiting(Core *core, int64_t now_ns) noexcept nogil
cdef bint has_news(Core *core) noexcept nogil
cdef void watch(Core *core, Worker *worker) noexcept nogil
cdef void unwatch(Core *core, Worker *worker) noexcept nogil
cdef bint send_reserved(Core *core, Worker *worker, Call *call) noexcept nogil
cdef void record_unanswered(Core *core, Worker *worker, Call *call, Outcome outcome) noexcept nogil

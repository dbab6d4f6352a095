"""Who moves the bytes, and who sleeps meanwhile. See progress_engine.pyx."""

from libc.stdint cimport int64_t

from pympipool._core.scheduler cimport Core


cdef void pump_and_tell(Core *core) noexcept nogil

cdef void move_until_stopped(Core *core) noexcept nogil
cdef void kick_mover(Core *core) noexcept nogil

cdef void acquire_progress(Core *core) noexcept nogil
cdef int wait_for_news(Core *core, int64_t timeout_ns) noexcept nogil
cdef void release_progress(Core *core) noexcept nogil
cdef void kick_helper(Core *core) noexcept nogil

cdef void demand_delivery(Core *core) noexcept nogil

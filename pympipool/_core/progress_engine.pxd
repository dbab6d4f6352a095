"""The threads that make progress, and how they sleep and wake each other; see progress_engine.pyx."""

from libc.stdint cimport int64_t

from pympipool._core.types cimport Core


cdef void pump_and_notify(Core *core) noexcept nogil
cdef void send_and_notify(Core *core) noexcept nogil

cdef void run_progress_thread(Core *core) noexcept nogil
cdef void wake_progress_thread(Core *core) noexcept nogil

cdef void acquire_progress(Core *core) noexcept nogil
cdef int wait_for_completion(Core *core, int64_t timeout_ns) noexcept nogil
cdef bint make_progress_briefly(Core *core) noexcept nogil
cdef void note_late_result(Core *core) noexcept nogil
cdef void release_progress(Core *core) noexcept nogil
cdef void wake_waiting_thread(Core *core) noexcept nogil

cdef void request_completion(Core *core) noexcept nogil

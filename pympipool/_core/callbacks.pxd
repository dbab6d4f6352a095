"""The callbacks of a future; see callbacks.pyx."""

from pympipool._core.listeners cimport ListenedFuture
from pympipool._core.state_lock cimport shared_id, shared_seconds, shared_status


cdef class CallbackThread:
    cdef shared_seconds callbacks_since_s  # when the thread for callbacks began those of the present future; 0: it runs none

    cdef bint may_wait_for_callbacks(self) except -1


cdef class FutureWithCallbacks(ListenedFuture):
    cdef list callbacks
    cdef shared_status callback_runs  # number of threads that run callbacks now
    cdef shared_seconds callbacks_since_s  # when they began
    cdef shared_id ending_thread  # runs callbacks, and cannot wait for others of this future
    cdef list callback_waiters  # a lock for each thread that waits until the callbacks have run

    cdef bint has_callbacks(self) noexcept
    cdef bint has_callbacks_left(self) noexcept
    cdef int wait_for_callbacks(self, CallbackThread thread, object timeout) except -1

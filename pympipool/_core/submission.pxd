"""How calls are queued; see submission.pyx."""

from libc.stdint cimport uint64_t

from pympipool._core.calls cimport FunctionHandle
from pympipool._core.future_core cimport FutureCore
from pympipool._core.mailbox cimport Post
from pympipool._core.types cimport Call
from pympipool._core.workers cimport Workers


cdef enum Rejection:
    NONE
    ENDED    # the future is not pending any more
    KILLED   # the executor is being killed, so that the call must be cancelled
    BROKEN   # all calls end with an exception
    CLOSED   # no call is accepted any more


cdef class Submission(Workers):
    cdef uint64_t next_id
    cdef str closed          # the reason for rejecting new calls; None: they are accepted
    cdef object broken       # makes the exception that every call ends with; None: calls run
    cdef bint killed         # every call that is submitted from now on is cancelled
    cdef dict functions      # for `submit_small`; None: it takes no calls
    cdef object kinds
    cdef int attempts_of_small
    cdef Post on_crowded     # see `call_when_crowded`; None: nothing is to be called
    cdef Py_ssize_t crowd

    cdef FunctionHandle find_function(self, fn)
    cdef void tell_if_crowded(self) noexcept
    cdef Py_ssize_t count_calls(self) noexcept
    cdef Rejection reason_to_reject(self, FutureCore future, bint admitted) noexcept
    cdef str closing_reason(self)
    cdef void queue_call(self, FutureCore future, Call *call, uint64_t number) noexcept

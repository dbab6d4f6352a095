"""Futures in C fields; see future.pyx."""

cdef enum Status:
    PENDING
    RUNNING
    CANCELLED
    FINISHED


cdef class CompletionSource:
    cdef bint progress_until(self, FutureCore future, double deadline_s) except -1
    cdef int poll(self) except -1
    cdef bint try_cancel(self, FutureCore future) except -1
    cdef bint is_started(self, FutureCore future) except -1
    cdef int notify_when_done(self, FutureCore future) except -1
    cdef int record_cancelled(self, FutureCore future) except -1


cdef class FutureCore:
    cdef Status status
    cdef object value       # result, once decoded
    cdef object error       # exception, once decoded
    cdef object parts       # the result as it came, until somebody looks; else None
    cdef bint is_error      # parts hold an exception
    cdef object condition   # made when somebody needs it
    cdef list waiters
    cdef list callbacks
    cdef list internal_callbacks        # callbacks of our own, which no user's code can hold up
    cdef CompletionSource source
    cdef public object function_name  # for error messages
    cdef readonly long long run_ns    # how long the worker took; 0 as long as it is not known
    cdef public unsigned int rows     # calls that it stands for, when it is that of a batch; else 0
    cdef readonly long long submitted_ns  # of a traced call, see Times in trace_buffer.pxd; else 0
    cdef long long ready_ns
    cdef bint times_moved                     # the dispatcher has its times now, and records its end
    cdef void *call         # the source's own; NULL while it has none

    cdef bint set_parts(self, object parts, bint is_error) except -1
    cdef bint set_error(self, object error) except -1
    cdef int run_internal_callbacks(self) except -1
    cdef bint end(self, object value, object error, object parts, bint is_error) except -1
    cdef int finish(self, object value, object error, object parts, bint is_error) except -1
    cdef int wait(self, object timeout) except -1
    cdef int wait_on_condition(self, double deadline_s) except -1
    cdef int decode(self) except -1

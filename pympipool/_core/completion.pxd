"""Results to futures; see completion.pyx."""

from libc.stdint cimport uint64_t

from pympipool._core.future cimport FutureCore, Source
from pympipool._core.scheduler cimport Call, Core
from pympipool._core.trace_buffer cimport Outcome, Recorder


cdef class Delivery(Source):
    cdef Core core
    cdef bint abandoned        # this is a fork of the process that calls were submitted in
    cdef object load_result
    cdef object load_error
    cdef uint64_t lost         # calls that failed without an answer of a worker's
    cdef unsigned long helper  # identity of the thread that helps; 0: none does
    cdef object callbacks_due  # queue of futures whose callbacks are to be run; None: no more come
    cdef object caller         # the thread that runs them, once there has been one
    cdef Recorder recorder     # of a trace; None: there is none
    cdef public double slice_s  # how long a waiting thread goes without looking for signals

    cdef int help_until(self, FutureCore future, double deadline_s) except -1
    cdef int help_a_slice(self) except -1
    cdef int pump(self) except -1
    cdef int deliver(self) except -1
    cdef int deliver_call(self, Call *call) except -1
    cdef int settle(self, FutureCore future, bint has_callbacks) except -1
    cdef int note(self, FutureCore future, Outcome outcome) except -1
    cdef int hand_times(self, FutureCore future, Call *call) except -1

"""Results to futures; see completion.pyx."""

from libc.stdint cimport uint64_t

from pympipool._core.future cimport FutureCore, CompletionSource
from pympipool._core.types cimport Call, Core
from pympipool._core.trace_buffer cimport Outcome, Recorder


cdef class Completion(CompletionSource):
    cdef Core core
    cdef bint abandoned        # this is a fork of the process that calls were submitted in
    cdef object load_result
    cdef object load_error
    cdef uint64_t lost         # calls that failed without an answer of a worker's
    cdef unsigned long helper  # identity of the thread that helps; 0: none does
    cdef object pending_callbacks  # queue of futures whose callbacks are to be run; None: no more come
    cdef object caller         # the thread that runs them, once there has been one
    cdef Recorder recorder     # of a trace; None: there is none
    cdef public double signal_check_interval_s  # how long a waiting thread goes without looking for signals

    cdef int progress_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int progress_once(self) except -1
    cdef int pump(self) except -1
    cdef int deliver(self) except -1
    cdef int deliver_call(self, Call *call) except -1
    cdef int queue_callbacks(self, FutureCore future, bint has_callbacks) except -1
    cdef int note(self, FutureCore future, Outcome outcome) except -1
    cdef int move_times_to(self, FutureCore future, Call *call) except -1

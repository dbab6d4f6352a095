"""What a dispatcher records of its calls; see call_traces.pyx."""

from pympipool._core.future_core cimport FutureCore, CompletionSource
from pympipool._core.trace_buffer cimport Outcome, Recorder
from pympipool._core.types cimport Call, CallList, Core


cdef class CallTraces(CompletionSource):
    cdef Core core
    cdef bint in_forked_child  # this process is a fork of the one that submitted the calls
    cdef Recorder recorder     # of the active trace, or None
    cdef dict worker_metadata  # number of a worker -> its metadata for traces

    cdef void record_all(self, CallList *calls, Outcome outcome) noexcept
    cdef void note(self, FutureCore future, Outcome outcome) noexcept
    cdef Recorder present_recorder(self)
    cdef int move_times_to(self, FutureCore future, Call *call) except -1

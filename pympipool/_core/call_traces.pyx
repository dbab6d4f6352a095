# cython: language_level=3
"""What a dispatcher records of its calls for a trace.

A call that a worker gets is recorded with its times by `pump.pyx`. This module starts and stops a recorder, notes the times
of futures whose calls are not submitted yet, and records the end of those that never are.
"""

from libc.string cimport memset

from pympipool._core.future_core cimport FutureCore, CompletionSource
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.pump cimport record_unanswered
from pympipool._core.ring cimport pmp_now_ns
from pympipool._core.trace_buffer cimport CANCELLED, UNFINISHED, Outcome, Record, Recorder, record
from pympipool._core.types cimport Call, CallList, pmp_mutex_lock, pmp_mutex_unlock


cdef class CallTraces(CompletionSource):
    """The part of a `Dispatcher` that records calls."""

    def __cinit__(self, *_):
        self.worker_metadata = {}

    def record(self, Recorder recorder):
        """Record the calls that are submitted from now on; with None, stop recording.

        Calls that the previous recorder was recording and that have not ended are recorded as unfinished.
        """
        cdef Call *call
        lock_state()
        pmp_mutex_lock(&self.core.lock)
        self.record_all(&self.core.waiting, UNFINISHED)
        for i in range(self.core.worker_count):
            call = self.core.workers[i].in_flight.first
            while call != NULL:
                record_unanswered(&self.core, self.core.workers[i], call, UNFINISHED)
                call.times.submitted_ns = 0  # its index of the function's name is valid for one recorder only
                call = call.next
        self.core.recording = NULL if recorder is None else &recorder.recording
        pmp_mutex_unlock(&self.core.lock)
        _before, self.recorder = self.recorder, recorder  # what was there is dropped after the step
        unlock_state()
        if recorder is not None:
            recorder.workers.update(self.worker_metadata)

    cdef void record_all(self, CallList *calls, Outcome outcome) noexcept:
        """Record the end of waiting calls. The caller holds the lock."""
        cdef Call *call = calls.first
        while call != NULL:
            record_unanswered(&self.core, NULL, call, outcome)
            call.times.submitted_ns = 0
            call = call.next

    cdef Recorder present_recorder(self):
        """Return the recorder of the active trace, or None."""
        lock_state()
        recorder = self.recorder
        unlock_state()
        return recorder

    def mark_ready(self, FutureCore future not None):
        """Note for a trace that a call only waits for the worker that will be started for it."""
        if future.submitted_ns != 0:
            future.ready_ns = pmp_now_ns()

    def record_inputs(self, FutureCore future not None, inputs):
        """Record which calls a call waits for."""
        recorder = self.present_recorder()
        if recorder is not None and future.submitted_ns != 0:
            recorder.inputs[future.submitted_ns] = [
                (<FutureCore>one).submitted_ns for one in inputs
                if isinstance(one, FutureCore) and (<FutureCore>one).submitted_ns != 0]

    def record_unfinished(self, futures):
        """Record calls that were never submitted to the dispatcher."""
        for future in futures:
            self.note(future, UNFINISHED)

    cdef void record_cancelled(self, FutureCore future) noexcept:
        self.note(future, CANCELLED)

    cdef void note(self, FutureCore future, Outcome outcome) noexcept:
        """Record the end of a call that was never submitted to the dispatcher."""
        cdef Record entry
        cdef bint is_complete = False
        cdef Recorder recorder
        if future.submitted_ns == 0 or future.times_moved or self.in_forked_child:
            return
        recorder = self.present_recorder()
        if recorder is None:
            return
        memset(&entry, 0, sizeof(entry))
        entry.times.submitted_ns = future.submitted_ns
        entry.times.ready_ns = future.ready_ns
        lock_state()
        try:
            entry.times.name = recorder.index_of_name(future.function_name)
            is_complete = True
        except MemoryError:
            pass
        finally:
            unlock_state()
        entry.times.size = future.rows or 1
        entry.received_ns = pmp_now_ns()
        entry.outcome = outcome
        pmp_mutex_lock(&self.core.lock)
        if self.core.recording != NULL:
            if is_complete:
                record(self.core.recording, &entry, NULL)
            else:
                self.core.recording.dropped += 1
        pmp_mutex_unlock(&self.core.lock)

    cdef int move_times_to(self, FutureCore future, Call *call) except -1:
        """Copy a future's times to its call. From here on they are recorded with the call."""
        recorder = self.present_recorder()
        if recorder is None:
            return 0
        name = future.function_name
        if future.attempts > 1:
            name = f"{name} (attempt {future.attempts})"
        call.times.name = recorder.index_of_name(name)
        call.times.size = future.rows or 1
        call.times.ready_ns = future.ready_ns or pmp_now_ns()
        call.times.submitted_ns = future.submitted_ns
        future.times_moved = True
        return 0

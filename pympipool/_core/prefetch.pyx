# cython: language_level=3
"""Which calls the relay has sent ahead to a worker of another host, and which it may send.

    has_room, may_send ── yes ──> sent ── the worker's answer ──> ended
                                   ├── the running call takes long: recall_due_ns ──> take_back, for each call behind it
                                   └── stop: it is a long one, and nothing is sent behind it

`transport/tcp/prefetch.py` tells why, and moves the calls; `relayed_channel.pyx` does so for workers behind agents.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from pympipool._core.ring cimport PMP_CALL, PMP_FUNCTION, PMP_OVERDUE_NS, PMP_PREFETCH_NS, pmp_now_ns

cdef enum:
    CALLS_MAX = 64          # most calls in flight to a worker
    BYTES_MAX = 16_384      # most bytes prefetched: they fit into the kernels' buffers, so that neither side blocks in sending
    FUNCTIONS_MAX = 64      # functions whose run times are kept for a worker; a power of two
    OVERHEAD_NS = 20_000    # of a call besides its run time: ten times that on a ring (scheduler.pyx), because of the network

# Estimate for a function that has never run. No other call is in flight together with a call of such a function. On a ring
# (scheduler.pyx) the estimate is half a millisecond, since a recall costs next to nothing there.
cdef int64_t UNKNOWN_NS = 10**18


cdef class Prefetch:
    """The calls in flight to one worker.

    Attributes:
        count: Their number.
        takes_no_more: The worker is about to exit by itself.
        recall_requested: The worker was asked to return the calls behind the running one.
    """

    def __cinit__(self):
        self.calls = <SentCall *>calloc(CALLS_MAX, sizeof(SentCall))
        self.run_times = <RunTime *>calloc(FUNCTIONS_MAX, sizeof(RunTime))
        if self.calls == NULL or self.run_times == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.calls)
        free(self.run_times)

    cdef SentCall *call(self, int number) noexcept:
        return &self.calls[(self.first + number) % CALLS_MAX]

    cpdef bint has_room(self) noexcept:
        """Return True if another message may be sent."""
        return (
            not self.takes_no_more
            and not self.recall_requested
            and self.in_flight_ns < PMP_PREFETCH_NS
            and self.count < CALLS_MAX
        )

    cpdef bint may_send(self, int kind, uint64_t function, int64_t size_bytes) noexcept:
        """Return True if a message may be sent behind the calls in flight."""
        if self.prefetched_bytes + self.function_bytes + size_bytes > BYTES_MAX:
            return False
        if kind == PMP_CALL:
            return self.in_flight_ns + self.estimate(function) <= PMP_PREFETCH_NS
        return kind == PMP_FUNCTION

    cpdef sent(self, int kind, uint64_t id, uint64_t function, int64_t size_bytes):
        """Take note that a message was sent."""
        cdef SentCall *call
        if kind == PMP_FUNCTION and self.count:
            self.function_bytes += size_bytes
        elif kind == PMP_CALL:
            call = self.call(self.count)
            call.id, call.function, call.estimate_ns = id, function, self.estimate(function)
            call.size_bytes = size_bytes + self.function_bytes
            self.function_bytes = 0
            if self.count:
                self.prefetched_bytes += call.size_bytes
            else:
                self.progress_ns = pmp_now_ns()
            self.count += 1
            self.in_flight_ns += call.estimate_ns

    cdef bint is_first(self, uint64_t id) noexcept:
        """Return True if the worker is to answer this call next."""
        return self.count > 0 and self.call(0).id == id

    cpdef ended(self, uint64_t id, int64_t run_ns):
        """Take note that the worker has answered a call.

        Raises:
            ValueError: It was not to run that one next.
        """
        if not self.is_first(id):
            raise ValueError(f"the worker has answered call {id}, which it was not to run next")
        cdef SentCall *call = self.call(0)
        self.update_estimate(call.function, run_ns)
        self.in_flight_ns -= call.estimate_ns
        self.first = (self.first + 1) % CALLS_MAX
        self.count -= 1
        if self.count:
            self.prefetched_bytes -= self.call(0).size_bytes
            self.progress_ns = pmp_now_ns()
        self.recall_requested = False

    cdef int64_t estimate(self, uint64_t function) noexcept:
        cdef RunTime *known = &self.run_times[function % FUNCTIONS_MAX]
        return known.ns + OVERHEAD_NS if function != 0 and known.function == function else UNKNOWN_NS

    cdef void update_estimate(self, uint64_t function, int64_t run_ns) noexcept:
        cdef RunTime *known = &self.run_times[function % FUNCTIONS_MAX]
        if function == 0:  # the call has brought its function along: the next one has another
            return
        known.ns = (3 * known.ns + run_ns) // 4 if known.function == function else run_ns
        known.function = function

    # ---- recall ----

    cpdef int64_t recall_due_ns(self, bint is_one_held) noexcept:
        """Return the time (of `time.monotonic_ns`) at which calls behind the running one are to be recalled; 0: none can be.

        Args:
            is_one_held: There is a message that was not sent.
        """
        if self.recall_requested or not (self.count > 1 or (self.count and is_one_held)):
            return 0
        if self.call(0).estimate_ns == UNKNOWN_NS:  # `stop`: what is held still is no call, but the order to exit
            return 0
        return self.progress_ns + max(<int64_t>PMP_OVERDUE_NS, 2 * self.call(0).estimate_ns)

    def check_running(self, uint64_t id):
        """Raise ValueError if the worker cannot be running this call."""
        if not self.is_first(id):
            raise ValueError(f"the worker says that it runs call {id}, which it was not to run next")

    def stop(self):
        """Have nothing sent behind the running call, because it is a long one."""
        self.call(0).estimate_ns = self.in_flight_ns = UNKNOWN_NS
        self.recall_requested = False

    def take_back(self):
        """Return the id of the last call in flight, which the worker will not run."""
        self.count -= 1
        cdef SentCall *call = self.call(self.count)
        self.in_flight_ns -= call.estimate_ns
        self.prefetched_bytes -= call.size_bytes
        return call.id

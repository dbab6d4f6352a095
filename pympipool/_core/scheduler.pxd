"""The choice of a worker for each call, and the recall of calls; see scheduler.pyx."""

from libc.stdint cimport int64_t, uint64_t

from pympipool._core.types cimport Call, Core, Worker

cdef Worker *find_worker(Core *core, uint64_t number) noexcept nogil

cdef int64_t estimate(Core *core, Call *call) noexcept nogil
cdef void update_estimate(Core *core, Call *call, int64_t run_ns) noexcept nogil
cdef Worker *select_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil
cdef void enqueue(Core *core, Worker *worker, Call *call, uint64_t position) noexcept nogil
cdef void dequeue(Core *core, Call *call) noexcept nogil
cdef void set_front(Worker *worker, int64_t now_ns) noexcept nogil

cdef bint is_claimed(Worker *worker, Call *call) noexcept nogil
cdef bint recall(Core *core, Call *call) noexcept nogil
cdef void recall_all(Core *core, Worker *worker) noexcept nogil
cdef Call *requeue(Core *core, Call *call) noexcept nogil
cdef void rebalance(Core *core, int64_t now_ns) noexcept nogil
cdef int64_t next_deadline_ns(Core *core) noexcept nogil

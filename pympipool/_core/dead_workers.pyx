# cython: language_level=3
"""Which calls of a dead worker it had begun: they fail with it, or are retried. The others wait again."""

from libc.stdint cimport UINT64_MAX

from pympipool._core.pump cimport drain
from pympipool._core.ring cimport pmp_now_ns, pmp_producer, pmp_ring_claimed
from pympipool._core.scheduler cimport dequeue, is_claimed
from pympipool._core.types cimport Call, Core, Worker, prepend
from pympipool._core.worker_sets cimport update_worker


cdef bint has_touched(Worker *worker, Call *call) noexcept nogil:
    """Return True if a dead worker had begun to run a call in flight, or to receive it or its function."""
    cdef pmp_producer *ring = &worker.calls.producer
    if worker.reserved or (call != worker.sending and is_claimed(worker, call)):
        return True
    return call == worker.in_flight.first and call.begins_at < ring.head and pmp_ring_claimed(ring, call.begins_at)


cdef bint has_begun(Worker *worker, Call *call) noexcept nogil:
    """Return True if a call in flight counts as begun by a dead worker.

    A worker that dies at the same place each time may do so before it has claimed the call. So a call counts as begun, too, if
    workers that were to begin it next have died several times: else it would never end. Workers that die together, with their
    host for example, are no more to be counted than one of them, and are removed one by one: the call goes from each to the
    next. So a death counts only if the worker was added after the one that was counted before.
    """
    if has_touched(worker, call):
        call.unbegun_ends = 0
        return True
    if call != worker.in_flight.first or worker.added_ns < call.unbegun_ns:
        return False
    call.unbegun_ns = pmp_now_ns()
    call.unbegun_ends += 1
    return call.unbegun_ends > UNBEGUN_ENDS_MAX


cdef Py_ssize_t requeue_calls(Core *core, Worker *worker) noexcept nogil:
    """Receive what a dead worker has sent; let the calls wait again that it has not begun, or that may be retried.

    The caller holds the lock.

    Returns:
        The number of the other calls, which stay in flight.
    """
    cdef Call *call
    cdef Call *previous
    cdef bint begun
    worker.retired = True
    if not worker.failure:
        drain(core, worker)
    call = worker.in_flight.last
    while call != NULL:
        previous = call.previous
        # a call that another host has begun after the end of the condemned one, before the worker was killed, is not lost
        begun = (not worker.condemned or call.id == worker.failing_call) and has_begun(worker, call)
        if not call.cancelled and (not begun or call.attempts_left > 0):
            call.attempts_left -= begun
            call.position = UINT64_MAX
            dequeue(core, call)
            prepend(&core.waiting, call)
        call = previous
    worker.sending = NULL
    update_worker(core, worker)
    return worker.in_flight.length

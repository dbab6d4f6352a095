# cython: language_level=3
"""The side of one rank of a worker: receives calls, and answers them.

    rank: Channel.receive() ◄── ring of calls ──── dispatcher (pump.pyx), or MasterChannel
          Channel.answer() ──── ring of results ─►

A rank that waits spins for a few microseconds, then sleeps on its doorbell. Of several ranks, each receives every call.
`MasterChannel` is the master's side of a single link, for tools and tests.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.rank_waits cimport (
    LARGE_RESULT_BYTES, YIELD_NS, Awaited, has_call, has_notice, have_ended, is_core_needed, keep_core, lend_core_to_master,
    may_begin, may_begin_or_keep_core, may_have_lost_core, return_to_core, sent_bytes,
)
from pympipool._core.ring cimport (
    PMP_STORED, PMP_TRACED, Parts, Segment, c_bool, init_short_spinner, message_bytes, news_in, notices_in,
    part_to_object, pmp_doorbell, pmp_doorbell_ring, pmp_doorbell_ring_after_fence, pmp_head, pmp_link_await_room,
    pmp_link_open_master, pmp_link_open_worker, pmp_link_slot, pmp_news_add, pmp_notices_count, pmp_now_ns, pmp_part,
    pmp_ranks_agree, pmp_ranks_end, pmp_receive, pmp_receive_done, pmp_receiver_close, pmp_ring_has_record,
    pmp_ring_is_empty, pmp_send, pmp_sender, pmp_sender_has_room, pmp_spinner, pmp_spinner_init, pmp_wait,
    process_buffer_pool, raise_errno, usable_cores,
)

import os

from pympipool._core.ring import SPIN_NS

cdef int64_t NS_PER_S = 1_000_000_000
cdef bytes NO_IMPORTS = bytes(sizeof(int64_t))  # what `import_times.take` returns if there were none


cdef int64_t spin_limit_ns():
    """Return how long a worker may spin: only if there is a second core, which can run the peer.

    All cores of the machine count, since the peer may run on a core that this process is not bound to.
    """
    return SPIN_NS if (os.cpu_count() or 1) > 1 else 0


def raise_lost(error):
    """Raise the error of a message that could not be received."""
    raise error


class LostMessage:
    """Takes the place of a message that could not be received, for lack of memory or of descriptors: to unpickle it raises.

    Args:
        error: What it raises.
    """

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return raise_lost, (self.error,)


cdef int64_t deadline_of(object timeout) except? -1:
    """Return the time at which a timeout ends that begins now, ns; -1: never."""
    return -1 if timeout is None else pmp_now_ns() + <int64_t>(timeout * NS_PER_S)


cdef c_bool has_news(void *context) noexcept nogil:
    cdef Awaited *awaited = <Awaited *>context
    return pmp_ring_has_record(&awaited.calls.consumer) or has_notice(awaited)


cdef c_bool has_room(void *context) noexcept nogil:
    return pmp_sender_has_room(<pmp_sender *>context)


cdef class Channel:
    """The worker's side of a link: that of one rank.

    Of several ranks, each receives every call. None begins a call before all have answered the one before.

    Args:
        link: The segment of this worker.
        doorbells: The segment with the master's two doorbells.
        rank: This rank.
    """

    def __cinit__(self, Segment link not None, Segment doorbells not None, uint32_t rank=0):
        self.link = link
        self.doorbells = doorbells
        pmp_spinner_init(&self.spinner, spin_limit_ns())
        init_short_spinner(&self.short_spinner, min(spin_limit_ns(), <int64_t>YIELD_NS))
        self.stamps = []
        self.open(rank)

    cdef int open(self, uint32_t rank) except -1:
        code = pmp_link_open_worker(self.link.memory(), self.link.shm.size_bytes, rank,
                                    &self.receiver, &self.sender, &self.rank_bells, &self.ranks)
        if code < 0:
            raise_errno(code, "the segment is no link of this version of pympipool")
        core_count = os.cpu_count() or 1
        usable = usable_cores()
        self.awaited.has_core = self.ranks.count <= (core_count if usable == 1 else min(usable, core_count))
        self.awaited.is_crowded = self.ranks.count >= core_count
        if self.awaited.is_crowded:
            self.spinner.polls_with_pause = 0  # another rank, or the master, needs the core
        self.awaited.rank_bells = self.rank_bells
        self.awaited.master_bell = <pmp_doorbell *>self.doorbells.memory() + 1
        self.own_bell = &self.rank_bells[rank]
        self.awaited.calls = &self.receiver
        self.awaited.ranks = &self.ranks
        self.awaited.notices = notices_in(self.doorbells)
        self.awaited.notices_seen = pmp_notices_count(self.awaited.notices)
        self.receiver.pool = process_buffer_pool()
        self.peer_bells = <pmp_doorbell *>self.doorbells.memory()
        self.peer_bell_count = 2
        self.peer_news = news_in(self.doorbells)
        return 0

    def __dealloc__(self):
        if self.link is not None:
            pmp_receiver_close(&self.receiver)

    @property
    def rank_count(self):
        """Number of ranks that the link has."""
        return self.ranks.count

    cdef void ring_peer(self) noexcept nogil:
        pmp_news_add(self.peer_news, pmp_link_slot(self.link.shm.address))
        for i in range(self.peer_bell_count):
            pmp_doorbell_ring_after_fence(&self.peer_bells[i])

    cdef void end_call(self, uint64_t outcome) noexcept nogil:
        """Announce the end of a call on this rank. The last rank wakes the master, and the ranks that have something to do."""
        cdef uint32_t rank
        if not pmp_ranks_end(&self.ranks, outcome):
            return
        self.ring_peer()
        all_begin = has_call(&self.awaited) or self.is_ending
        for rank in range(self.ranks.count):
            if rank != self.ranks.rank and (all_begin or may_have_lost_core(&self.awaited, rank)):
                pmp_doorbell_ring(&self.rank_bells[rank])

    cdef int wait(self, c_bool (*ready)(void *) noexcept nogil, void *context,
                  int64_t deadline_ns) except -1:
        """Waits for ready; returns 0 when the deadline (ns, -1: none) passed first."""
        return self.wait_with(&self.spinner, ready, context, deadline_ns)

    cdef int wait_with(self, pmp_spinner *spinner, c_bool (*ready)(void *) noexcept nogil, void *context,
                       int64_t deadline_ns) except -1:
        cdef int64_t left_ns = -1
        while True:
            if deadline_ns >= 0:
                left_ns = max(deadline_ns - pmp_now_ns(), 0)
            with nogil:
                code = pmp_wait(self.own_bell, spinner, ready, context, left_ns)
            if code == 0:
                return 1
            if code == -ETIMEDOUT:
                return 0
            if code != -EINTR:
                raise_errno(code, "waiting on a doorbell failed")
            self.run_handlers()

    cdef int run_handlers(self) except -1:
        try:
            PyErr_CheckSignals()  # finalizers too
        finally:
            self.end_fork()
        return 0

    cdef int wait_for_call(self, int64_t deadline_ns) except -1:
        """Wait until this rank may begin a call; return 0 when the deadline passed first."""
        if keep_core(&self.awaited):
            return 1
        if self.awaited.has_core and is_core_needed(&self.awaited):
            if not self.wait_with(&self.short_spinner, may_begin_or_keep_core, &self.awaited, deadline_ns):
                return 0
        return self.wait(may_begin, &self.awaited, deadline_ns)

    def receive(self, timeout=None):
        """Wait for the next message and return it.

        Args:
            timeout: Seconds; None waits without limit.

        Returns:
            (kind, id, tag, parts), or None after the timeout. If there is no memory for the message, or no descriptor for its
            large parts, parts is the pickle of a `LostMessage`. None also if the last call had different outcomes on the ranks:
            no further call may begin.

        Raises:
            OSError: EBADMSG, the ring is corrupt. The channel is unusable afterwards.
        """
        return self.take_message() if self.await_message(deadline_of(timeout)) else None

    cdef bint await_message(self, int64_t deadline_ns) except -1:
        """Wait until the next message is in `receiver`; return False where `receive` returns None."""
        while True:
            if has_notice(&self.awaited):
                self.take_notice()
            if self.ranks.count > 1:
                if not self.wait_for_call(deadline_ns):
                    return False
                if not has_call(&self.awaited):
                    continue
                if not pmp_ranks_agree(&self.ranks):
                    return False
            code = pmp_receive(&self.receiver)
            if code == 0:
                return True
            if code != -EAGAIN:
                raise_errno(code, "receiving failed")
            if self.receiver.busy:
                self.ring_peer()  # the peer may be waiting for room for its next fragment
            if self.ranks.count <= 1 and not self.wait(has_news, &self.awaited, deadline_ns):
                return False

    cdef int take_notice(self) except -1:
        self.awaited.notices_seen = pmp_notices_count(self.awaited.notices)
        if self.on_notice is not None:
            self.on_notice()
            self.end_fork()
        return 0

    cdef int end_fork(self) except -1:
        """End this process if what has just run has forked it: of two that wait on a doorbell, one would never be woken."""
        if self.forks is not None and self.forks.is_fork:
            self.forks.end_fork()
        return 0

    def ranks_agree(self):
        """Wait until the last call has ended on all ranks; return False if its outcomes differ."""
        self.wait(have_ended, &self.awaited, -1)
        return bool(pmp_ranks_agree(&self.ranks))

    cdef list take_parts(self):
        """Return the parts of the message that was received."""
        cdef uint32_t count = self.receiver.head.part_count
        cdef pmp_part *sent = self.receiver.parts
        cdef list stored = []
        if self.ranks.count > 1:
            stored = [sent[i].size_bytes & ~PMP_STORED for i in range(count) if sent[i].size_bytes & PMP_STORED]
        if not stored:
            return [part_to_object(&sent[i], self.receiver.owned, i == 0) for i in range(count)]
        stored = self.load_stored(self.receiver.head.id, stored)
        return [stored.pop(0) if sent[i].size_bytes & PMP_STORED else part_to_object(&sent[i], self.receiver.owned, i == 0)
                for i in range(count)]

    cdef object take_message(self):
        cdef pmp_head head = self.receiver.head
        cdef uint64_t size_bytes = 0
        if self.ranks.count > 1:
            self.awaited.moved_bytes = sent_bytes(self.receiver.parts, head.part_count)
        lost = None
        try:
            if self.receiver.lost:
                raise MemoryError()
            parts = self.take_parts()
        except MemoryError:
            size_bytes = message_bytes(&self.receiver)
        except OSError as error:
            lost = error
        finally:
            pmp_receive_done(&self.receiver)
        if size_bytes:  # the memory of the message is free again
            lost = MemoryError(f"no memory for a message of {size_bytes} bytes")
        if lost is not None:
            from _pickle import dumps  # not at import: it would make every start slower

            parts = [dumps(LostMessage(lost), 5)]
        if head.id & PMP_TRACED and self.times_imports:
            self.start_import_times()
        self.received_ns = pmp_now_ns()
        if self.rings_after_message:
            self.ring_peer()
        return head.kind, head.id, head.tag, parts

    cdef void drop_message(self) noexcept:
        """Free the memory of the message that was received, as `take_message` does, which copies it first."""
        self.awaited.moved_bytes = sent_bytes(self.receiver.parts, self.receiver.head.part_count)
        pmp_receive_done(&self.receiver)
        self.received_ns = pmp_now_ns()

    def restart_clock(self):
        """Have the run time of the call that was received last begin now: what came before it is no part of the call."""
        if self.import_times is not None:
            self.import_times.take()
        self.received_ns = pmp_now_ns()

    cdef int start_import_times(self) except -1:
        if self.import_times is None:
            from pympipool._core import import_times

            import_times.start()
            self.import_times = import_times
        self.import_times.take()  # what was imported between calls
        return 0

    def send(self, int kind, uint64_t id, uint64_t tag, parts, timeout=None):
        """Send a message; return when its last byte is in the ring.

        Args:
            kind: Of the message, see csrc/message.h.
            id: Of the call.
            tag: Depends on the kind.
            parts: Bytes-like objects.
            timeout: Seconds; None waits without limit.

        Returns:
            False if the timeout came first. The same message must then be sent again, which continues it.
        """
        cdef Parts held = Parts(parts)
        return self.send_parts(kind, id, tag, held.parts, held.count, deadline_of(timeout))

    def answer(self, int kind, uint64_t id, parts, int64_t run_ns=-1, uint64_t outcome=0, bint is_last=False):
        """Send the answer to the call that was received last. If the call is traced, its times, imports and `stamps` are added.

        Args:
            kind: RESULT or ERROR.
            id: Of the call.
            parts: Bytes-like objects.
            run_ns: Run time of the call. Default: the time since the call was received.
            outcome: How the call has ended, to be compared with the other ranks: 48 bits.
            is_last: The ranks wait for each other after this call even if there is no other one: see `ranks_agree`.
        """
        cdef Parts held = Parts(parts)
        cdef int64_t times[2]
        cdef int64_t ended_ns = pmp_now_ns()
        cdef bytes sent_times
        if run_ns < 0:
            run_ns = ended_ns - self.received_ns
        if id & PMP_TRACED:
            times[0] = self.received_ns
            times[1] = ended_ns
            imports = NO_IMPORTS if self.import_times is None else self.import_times.take()
            sent_times = (<char *>times)[:sizeof(times)] + imports + self.taken_stamps()
            held.append(<char *>sent_times, len(sent_times))
        self.is_ending = is_last
        self.send_answer(kind, id, held.parts, held.count, run_ns, outcome)

    cdef int send_answer(self, int kind, uint64_t id, pmp_part *parts, uint32_t count, int64_t run_ns,
                         uint64_t outcome) except -1:
        """Send the answer to the call that was received last; of several ranks, announce its end."""
        self.awaited.run_ns = run_ns
        self.send_parts(kind, id, run_ns, parts, count, -1)
        if self.ranks.count > 1:
            self.awaited.moved_bytes += sent_bytes(parts, count)
            return_to_core(&self.awaited)
            self.end_call(outcome)
        return 0

    cdef bytes taken_stamps(self):
        """Return the stamps as int64 in bytes, and clear them."""
        cdef Py_ssize_t count = len(self.stamps)
        cdef bytes taken = PyBytes_FromStringAndSize(NULL, count * sizeof(int64_t))
        cdef int64_t *stamps = <int64_t *><char *>taken
        for i in range(count):
            stamps[i] = self.stamps[i]
        self.stamps.clear()
        return taken

    cdef bint send_parts(self, int kind, uint64_t id, uint64_t tag, pmp_part *parts, uint32_t count,
                         int64_t deadline_ns) except -1:
        cdef pmp_head head
        head.kind = kind
        head.part_count = count
        head.id = id
        head.tag = tag
        while True:
            code = pmp_send(&self.sender, &head, parts, NULL)
            if self.sender.busy or (code == 0 and self.ranks.count <= 1):  # of several ranks, the last one rings: `end_call`
                self.ring_peer()
            if code == 0:
                return True
            if code != -EAGAIN:
                raise_errno(code, "sending failed")
            if self.ranks.count > 1 and sent_bytes(parts, count) >= LARGE_RESULT_BYTES:
                lend_core_to_master(&self.awaited)
            if not self.wait(has_room, &self.sender, deadline_ns):
                return False

    def await_room(self):
        """Have the master ring when it has received what was sent. Look afterwards whether it has done so already.

        For a link of a `LinkGroup`. The masters of other links ring always.
        """
        pmp_link_await_room(self.link.shm.address)

    def is_drained(self):
        """Return True if the other side has received and processed all that was sent."""
        return bool(pmp_ring_is_empty(&self.sender.producer))


cdef class MasterChannel(Channel):
    """The master's side of a single link, for tools and tests; without a dispatcher."""

    def __cinit__(self, Segment link not None, Segment doorbells not None):
        self.open(0)  # again: the base class has called its own `open`

    cdef int open(self, uint32_t rank) except -1:
        code = pmp_link_open_master(self.link.memory(), self.link.shm.size_bytes, 1, 0,
                                    &self.sender, &self.receiver, &self.peer_bells)
        if code < 0:
            raise_errno(code, "the segment is no link of this version of pympipool")
        self.receiver.pool = process_buffer_pool()
        self.awaited.calls = &self.receiver
        self.awaited.notices = notices_in(self.doorbells)
        self.peer_bell_count = 1
        self.rings_after_message = True
        self.own_bell = <pmp_doorbell *>self.doorbells.memory()
        return 0

# cython: language_level=3
"""The relay's side of the links of workers behind agents: small calls and answers go between ring and connection in C.

    master ── rings ──> forward_all ── frames, appended to a segment ──> connection to the agent
           <── rings ── take_answers <── frames in the bytes that have arrived ──────┘

Both serve many workers in one call, and ring the master once. Whatever is not small, or has to wait, takes the way through
Python: `transport/tcp/polled_prefetch.py`, a subclass. The frames are those of `transport/tcp/agent_stream.py`, the messages
in them those of `transport/tcp/stream.py`.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from pympipool._core.channel cimport Channel
from pympipool._core.prefetch cimport Prefetch
from pympipool._core.ring cimport (
    PMP_ERROR, PMP_RECALLED, PMP_RESULT, message_bytes, pmp_doorbell_ring_after_fence, pmp_fits_record, pmp_head,
    pmp_link_slot, pmp_news_add, pmp_part, pmp_receive, pmp_receive_done, pmp_send, raise_errno,
)

from collections import deque

from pympipool._core.ring import CALL

cdef enum:
    SMALL_BYTES = 4096    # messages up to this size are copied here
    SMALL_PARTS = 16
    SEGMENT_BYTES = 1 << 16
    DATA_KIND = 2         # as in transport/host_stream.py
    MESSAGES_STREAM = 3


cdef packed struct FrameHead:
    unsigned short kind
    unsigned short stream
    uint32_t worker
    uint32_t size


cdef class RelayedChannel(Channel):
    """The worker's side of the link of a worker behind an agent. It never waits.

    A subclass has `put(message)`, which sends a message to the worker.

    Attributes:
        prefetch: The calls in flight.
        answer_bytes: The size of the answers that wait for room on the ring.
        is_ready: The worker serves calls.
        is_behind: Messages to the worker wait already, so that others have to be `put`.
        is_partial: A part of the worker's next message has arrived, so that no frame begins a message.
        waits_for_master: Something is to be done when the master has read answers.
        link_to_agent: What forwards the calls of all workers of its host.
    """

    def __cinit__(self, *_, **__):
        self.prefetch = Prefetch()
        self.answers = deque()

    def serve(self, uint32_t number):
        """Take note that the worker with this number serves from now on."""
        self.number = number
        self.is_ready = True

    # ---- to the worker ----

    cdef bint may_receive(self) except -1:
        """Return True if the calls on the ring are the next ones. Calls that are being returned come before them."""
        if self.returning and not self.is_drained():
            self.await_room()
        if self.returning and self.is_drained():
            self.returning = False
        return not self.returning

    cdef int forward(self, bytearray out) except -1:
        """Send the calls on the ring, as far as they may be sent ahead, and answers that wait for room there.

        Args:
            out: Where frames are appended; None: the connection takes no more, and messages are `put`.
        """
        cdef int code
        if self.answers and not self.forward_answers():
            return 0
        while self.prefetch.has_room() if self.prefetch.count else not self.prefetch.takes_no_more:
            if self.held is not None:
                if self.prefetch.count:
                    break
                message, self.held = self.held, None
                self.put_message(message)
                continue
            if self.returning and not self.may_receive():
                break
            code = pmp_receive(&self.receiver)
            if code == -EAGAIN:
                if self.receiver.busy:
                    self.ring_peer()  # the master may be waiting for room for its next fragment
                break
            if code < 0:
                raise_errno(code, "receiving failed")
            if self.prefetch.count and not self.prefetch.may_send(
                    self.receiver.head.kind, self.receiver.head.tag, message_bytes(&self.receiver)):
                self.held = self.take_message()
                break
            if out is None or self.is_behind or not self.append(out):
                self.put_message(self.take_message())
        return 0

    cdef int append(self, bytearray out) except -1:
        """Append the message that was received to a segment, as a frame; return 0 if it is not small."""
        cdef pmp_head *head = &self.receiver.head
        cdef uint64_t size = message_bytes(&self.receiver)
        cdef Py_ssize_t begin = PyByteArray_GET_SIZE(out)
        cdef Py_ssize_t head_bytes = sizeof(pmp_head) + head.part_count * sizeof(uint64_t)
        cdef FrameHead frame
        cdef char *place
        cdef uint32_t i
        if self.receiver.lost or self.receiver.owned or size > SMALL_BYTES or head.part_count > SMALL_PARTS:
            return 0
        frame.kind, frame.stream, frame.worker = DATA_KIND, MESSAGES_STREAM, self.number
        frame.size = <uint32_t>(head_bytes + size)
        PyByteArray_Resize(out, begin + sizeof(FrameHead) + frame.size)
        place = PyByteArray_AS_STRING(out) + begin
        memcpy(place, &frame, sizeof(FrameHead))
        place += sizeof(FrameHead)
        memcpy(place, head, sizeof(pmp_head))
        place += sizeof(pmp_head)
        for i in range(head.part_count):
            memcpy(place, &self.receiver.parts[i].size_bytes, sizeof(uint64_t))
            place += sizeof(uint64_t)
        for i in range(head.part_count):
            memcpy(place, self.receiver.parts[i].data, self.receiver.parts[i].size_bytes)
            place += self.receiver.parts[i].size_bytes
        self.prefetch.sent(head.kind, head.id, head.tag, size)
        pmp_receive_done(&self.receiver)
        return 1

    def put_message(self, message):
        """Send a message to the worker."""
        kind, id_, tag, parts = message
        self.prefetch.sent(kind, id_, tag, sum(map(len, parts)))
        self.put(message)

    # ---- from the worker ----

    cdef bint is_small_answer(self, const char *data, uint32_t size, uint32_t *count) noexcept:
        """Return True if the data of a frame are whole, small answers in the right order, which can be sent to the master now."""
        cdef pmp_head head
        cdef uint64_t part, total
        cdef uint32_t position = 0
        cdef uint32_t _
        count[0] = 0
        if not self.is_ready or self.is_partial or self.answers:
            return False
        while position < size:
            if size - position < sizeof(pmp_head):
                return False
            memcpy(&head, data + position, sizeof(pmp_head))
            position += sizeof(pmp_head)
            if head.kind != PMP_RESULT and head.kind != PMP_ERROR or not 1 <= head.part_count <= SMALL_PARTS:
                return False
            if size - position < head.part_count * sizeof(uint64_t):
                return False
            total = 0
            for _ in range(head.part_count):
                memcpy(&part, data + position, sizeof(uint64_t))
                position += sizeof(uint64_t)
                if part > SMALL_BYTES:
                    return False
                total += part
            if total > SMALL_BYTES or size - position < total:
                return False
            if <int>count[0] >= self.prefetch.count or self.prefetch.call(count[0]).id != head.id:
                return False
            position += <uint32_t>total
            count[0] += 1
        return count[0] > 0

    cdef int answer_all(self, const char *data, uint32_t count) except -1:
        """Send the small answers of a frame to the master."""
        cdef pmp_head head
        cdef pmp_part parts[SMALL_PARTS]
        cdef const char *place
        cdef uint32_t i
        while count:
            memcpy(&head, data, sizeof(pmp_head))
            data += sizeof(pmp_head)
            place = data + head.part_count * sizeof(uint64_t)
            for i in range(head.part_count):
                memcpy(&parts[i].size_bytes, data, sizeof(uint64_t))
                data += sizeof(uint64_t)
                parts[i].data = <void *>place
                place += parts[i].size_bytes
            data = place
            self.prefetch.ended(head.id, head.tag)
            self.answer_master(&head, parts)
            count -= 1
        return 0

    cdef int answer_master(self, pmp_head *head, pmp_part *parts) except -1:
        """Send a small answer to the master without ringing, or have it wait for room on the ring."""
        cdef int code = -EAGAIN
        if not self.answers and pmp_fits_record(&self.sender, head.part_count, parts):
            code = pmp_send(&self.sender, head, parts, NULL)
        if code == 0:
            pmp_news_add(self.peer_news, pmp_link_slot(self.link.shm.address))
        elif code == -EAGAIN:
            self.send_to_master((head.kind, head.id, head.tag, [
                PyBytes_FromStringAndSize(<char *>parts[i].data, parts[i].size_bytes) for i in range(head.part_count)]))
        else:
            raise_errno(code, "sending failed")
        return 0

    def send_to_master(self, message):
        """Send a message to the master, as soon as the ring has room."""
        self.answers.append(message)
        self.answer_bytes += sum(map(len, message[3]))
        self.forward_answers()

    def forward_answers(self):
        """Send answers as far as the ring has room; return True if none is left."""
        while self.answers:
            message = self.answers[0]
            if not self.send(*message, 0):
                self.await_room()
                if not self.send(*message, 0):
                    return False
            self.answers.popleft()
            self.answer_bytes -= sum(map(len, message[3]))
        return True

    cdef void ring_master(self) noexcept:
        """Wake the master after `answer_master`, which has had the fence. All workers have the same master."""
        cdef int bell
        for bell in range(self.peer_bell_count):
            pmp_doorbell_ring_after_fence(&self.peer_bells[bell])

    # ---- calls that come back ----

    @property
    def recall_due_ns(self):
        """The time at which calls that wait behind the running one are to be recalled; 0: none does."""
        return self.prefetch.recall_due_ns(self.held is not None)

    def return_held(self):
        """Return the call to the master that was taken from the ring and not sent."""
        if self.held is not None and self.held[0] == CALL:
            self.give_back(self.held[1])
            self.held = None

    def return_all_but_first(self, int count=1):
        """Return calls in flight to the master that the worker has not begun, and never will: the last one first."""
        while self.prefetch.count > count:
            self.give_back(self.prefetch.take_back())

    def give_back(self, id):
        """Return a call to the master."""
        self.returning = True
        self.send_to_master((PMP_RECALLED, id, 0, [b""]))


def by_link(list channels):
    """Return {link: channels} for channels of many workers, in their order."""
    cdef RelayedChannel channel
    cdef dict groups = {}
    cdef object last = None
    cdef list group = None
    for channel in channels:
        if group is None or channel.link_to_agent is not last:  # those of a host often follow each other
            last = channel.link_to_agent
            group = groups.get(last)
            if group is None:
                group = groups[last] = []
        group.append(channel)
    return groups


def forward_all(list channels, frames, list due, list failed):
    """Send the calls on the rings of many workers; return the channels that wait for the master.

    Args:
        channels: Those of the workers, all behind one agent.
        frames: The connection to the agent.
        due: Gets the channels from whose workers calls are to be recalled later.
        failed: Gets those that can be served no more, each with its error: a corrupt ring, or a lack of memory.
    """
    cdef RelayedChannel channel
    cdef list waiting = []
    cdef bytearray out = None if frames.is_full else frames.segment()
    cdef Py_ssize_t begin = 0 if out is None else len(out)
    for channel in channels:
        if not channel.is_ready:
            continue
        try:
            channel.forward(out)
        except Exception as error:
            failed.append((channel, error))
            continue
        if channel.waits_for_master:
            waiting.append(channel)
        if channel.prefetch.recall_due_ns(channel.held is not None):
            due.append(channel)
        if out is not None and len(out) > SEGMENT_BYTES:
            frames.note_appended(len(out) - begin)
            out = None if frames.is_full else frames.segment()
            begin = 0 if out is None else len(out)
    if out is not None:
        frames.note_appended(len(out) - begin)
    return waiting


def take_answers(bytearray incoming, Py_ssize_t position, dict channels, frames, list due, list failed):
    """Send small answers to the master that have arrived, and calls to the workers that have answered.

    Args:
        incoming: The bytes that have arrived from an agent.
        position: Where a frame begins.
        channels: Those of the workers that serve, by number.
        frames: The connection to the agent.
        due, failed: As of `forward_all`.

    Returns:
        Where the first frame begins that is none with small answers, or is not complete.
    """
    cdef FrameHead frame
    cdef RelayedChannel channel = None
    cdef RelayedChannel last = None
    cdef PyObject *found
    cdef const char *data
    cdef uint32_t count = 0
    cdef Py_ssize_t begin
    cdef list answered = []
    while PyByteArray_GET_SIZE(incoming) - position >= <Py_ssize_t>sizeof(FrameHead):
        memcpy(&frame, PyByteArray_AS_STRING(incoming) + position, sizeof(FrameHead))
        begin = position + <Py_ssize_t>sizeof(FrameHead)
        if frame.kind != DATA_KIND or frame.stream != MESSAGES_STREAM:
            break
        if frame.size > <size_t>(PyByteArray_GET_SIZE(incoming) - begin):
            break
        found = PyDict_GetItem(channels, frame.worker)
        if found == NULL:
            break
        channel = <RelayedChannel>found
        data = PyByteArray_AS_STRING(incoming) + begin
        if not channel.is_small_answer(data, frame.size, &count):
            break
        try:
            channel.answer_all(data, count)
        except Exception as error:
            failed.append((channel, error))
        else:
            answered.append(channel)
        last = channel
        position = begin + <Py_ssize_t>frame.size
    if last is not None:
        last.ring_master()
        forward_all(answered, frames, due, failed)
    return position

"""Small calls and answers between rings and the frames of an agent's connection: whole, in order, and never too many."""

from __future__ import annotations

import os
import random
import struct

import pytest

from pympipool._core import ring
from pympipool._core.channel import MasterChannel
from pympipool._core.prefetch import Prefetch
from pympipool._core.relayed_channel import RelayedChannel, by_link, forward_all, take_answers
from pympipool.transport.host_stream import DATA, MESSAGES
from pympipool.transport.tcp.stream import CONTROL, MessageParser, encode_head

NUMBER, FUNCTION = 7, 3
MS = 1_000_000


class Queue(RelayedChannel):
    def __init__(self, *_):
        self.sent = []

    def put(self, message):
        self.sent.append(message)


class Frames:
    """What an `AgentStream` does with segments."""

    def __init__(self):
        self.is_full = False
        self.data = bytearray()
        self.appended = 0

    def segment(self):
        return self.data

    def note_appended(self, size):
        self.appended += size

    def take_messages(self):
        """Return the messages in the frames."""
        assert self.appended == len(self.data)
        messages = []
        while self.data:
            kind, stream, number, size = struct.unpack_from("<HHII", self.data)
            assert (kind, stream, number) == (DATA, MESSAGES, NUMBER)
            messages += MessageParser().feed(bytes(self.data[12 : 12 + size]))
            del self.data[: 12 + size]
        self.appended = 0
        return messages


class Sides:
    """A link, the master's side of it and the relay's."""

    def __init__(self):
        self.doorbells = ring.doorbell_segment()
        link = ring.link_segment(1 << 16)
        self.queue = Queue(ring.Segment.attach(os.dup(link.fileno())), self.doorbells)
        self.master = MasterChannel(link, self.doorbells)
        self.frames = Frames()
        self.queue.serve(NUMBER)
        self.due, self.failed = [], []

    def call(self, id_, part=b"call", function=FUNCTION):
        assert self.master.send(ring.CALL, id_, function, [part], 0)

    def forward(self):
        forward_all([self.queue], self.frames, self.due, self.failed)
        return self.frames.take_messages()

    def answer(self, data):
        """Take frames that have arrived; return how many bytes are left."""
        incoming = bytearray(data)
        left = len(incoming) - take_answers(incoming, 0, {NUMBER: self.queue}, self.frames, self.due, self.failed)
        assert self.failed == []
        return left

    def received(self):
        """Return all that the master has received."""
        return list(iter(lambda: self.master.receive(0), None))


@pytest.fixture
def sides():
    return Sides()


def frame(data, number=NUMBER):
    return struct.pack("<HHII", DATA, MESSAGES, number, len(data)) + data


def result(id_, run_ns=0, part=b"result", kind=ring.RESULT):
    return encode_head(kind, id_, run_ns, [len(part)]) + part


def ids(messages):
    return [message[1] for message in messages]


def test_call_becomes_a_frame_and_answer_reaches_master(sides):
    sides.call(1, b"the call")
    (message,) = sides.forward()
    assert message == (ring.CALL, 1, FUNCTION, [b"the call"])
    assert sides.answer(frame(result(1, 5, b"the result"))) == 0
    assert sides.received() == [(ring.RESULT, 1, 5, [b"the result"])]


def test_unknown_function_runs_alone_and_short_ones_together(sides):
    for number in range(1, 6):
        sides.call(number)
    assert ids(sides.forward()) == [1]
    assert sides.answer(frame(result(1, 1000))) == 0
    assert ids(sides.frames.take_messages()) == [2, 3, 4, 5]
    assert sides.due == [sides.queue]
    assert sides.queue.recall_due_ns > 0


def test_long_calls_are_not_sent_ahead(sides):
    for number in range(1, 4):
        sides.call(number)
    assert ids(sides.forward()) == [1]
    for number in (1, 2):
        assert sides.answer(frame(result(number, 5 * MS))) == 0
        assert ids(sides.frames.take_messages()) == [number + 1]
    assert sides.queue.recall_due_ns == 0


def test_nothing_is_recalled_when_only_the_end_waits(sides):
    """A worker that is one too many runs a call that takes longer than expected."""
    sides.call(1)
    sides.forward()
    sides.answer(frame(result(1, 1000)))
    sides.call(2)
    sides.forward()
    assert sides.master.send(ring.END, 0, 0, [b""], 0)
    assert sides.forward() == []
    assert sides.queue.recall_due_ns > 0  # it might be a call
    sides.queue.return_held()
    sides.queue.prefetch.stop()
    assert sides.queue.recall_due_ns == 0
    sides.answer(frame(result(2, 5 * MS)))
    assert [message[0] for message in sides.queue.sent] == [ring.END]


def test_many_answers_of_one_frame(sides):
    sides.call(0)
    sides.forward()
    sides.answer(frame(result(0, 100)))
    for number in range(1, 31):
        sides.call(number)
    assert ids(sides.forward()) == list(range(1, 31))
    sides.received()
    answers = [result(number, 100, b"x" * number) for number in range(1, 31)]
    assert sides.answer(frame(b"".join(answers[:10])) + frame(b"".join(answers[10:]))) == 0
    assert [(id_, len(parts[0])) for _, id_, _, parts in sides.received()] == [(i, i) for i in range(1, 31)]


def test_incomplete_frame_is_left(sides):
    for number in (1, 2):
        sides.call(number)
        sides.forward()
        whole = frame(result(number))
        for size in (5, 12, 20, len(whole) - 1):
            assert sides.answer(whole[:size]) == size
        assert sides.answer(whole + whole[:20]) == 20
    assert ids(sides.received()) == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        result(2),
        result(1)[:-1],
        result(1) + b"more",
        result(1) + result(2),
        result(1, part=bytes(5000)),
        result(1, kind=CONTROL),
        encode_head(ring.RESULT, 1, 0, []),
        encode_head(ring.RESULT, 1, 0, [1 << 63]),
        b"",
    ],
    ids=["wrong id", "a part", "more", "one too many", "large", "frame", "no parts", "huge", "end"],
)
def test_what_is_no_small_answer_is_left(sides, data):
    sides.call(1)
    sides.forward()
    whole = frame(data)
    assert sides.answer(whole) == len(whole)
    assert sides.received() == []
    assert sides.queue.prefetch.count == 1


def test_frames_of_other_workers_are_left(sides):
    sides.call(1)
    sides.forward()
    for whole in (frame(result(1), NUMBER + 1), struct.pack("<HHII", DATA, 0, NUMBER, 1) + b"x"):
        assert sides.answer(whole) == len(whole)


def test_random_bytes_are_harmless(sides):
    numbers = random.Random(5)
    sides.call(1)
    sides.forward()
    for _ in range(2000):
        data = bytearray(frame(result(1)))
        for _ in range(numbers.randint(1, 8)):
            data[numbers.randrange(20, len(data))] = numbers.randrange(256)
        sides.answer(data)
        sides.queue.is_partial = False
        if not sides.queue.prefetch.count:
            sides.call(1)
            sides.forward()


def test_answers_without_room_wait_in_order(sides):
    sides.call(0)
    sides.forward()
    sides.answer(frame(result(0)))
    sent = [result(number, 0, bytes(4000)) for number in range(1, 41)]
    for number in range(1, 41):
        sides.call(number)
    assert ids(sides.forward()) == list(range(1, 41))
    for data in sent[:-1]:
        if sides.answer(frame(data)):  # others wait, so this one takes the way through Python
            kind, id_, run_ns, parts = next(MessageParser().feed(data))
            sides.queue.prefetch.ended(id_, run_ns)
            sides.queue.send_to_master((kind, id_, run_ns, parts))
    assert sides.queue.answer_bytes > 0
    received = []
    while len(received) < 40:
        received += ids(sides.received())
        sides.forward()
    assert received == list(range(40))
    assert sides.queue.answer_bytes == 0


def test_lack_of_memory_fails_its_channel_only(sides):
    def fail(_):
        raise error

    other, error = Sides(), MemoryError("no memory for a large call")
    sides.queue.put = fail
    sides.call(1, bytes(5000))
    other.call(2, bytes(5000))
    forward_all([sides.queue, other.queue], sides.frames, [], sides.failed)
    assert sides.failed == [(sides.queue, error)]
    assert ids(other.queue.sent) == [2]


def test_large_call_or_one_behind_others_is_put(sides):
    sides.call(1, bytes(5000))
    assert sides.forward() == []
    assert ids(sides.queue.sent) == [1]
    sides.answer(frame(result(1, 1000)))
    sides.queue.is_behind = True
    sides.call(2)
    assert sides.forward() == []
    sides.queue.is_behind = False
    sides.frames.is_full = True
    sides.call(3)
    forward_all([sides.queue], sides.frames, [], [])
    assert ids(sides.queue.sent) == [1, 2, 3]


def test_channels_that_wait_for_the_master_are_returned(sides):
    assert forward_all([sides.queue], sides.frames, [], []) == []
    sides.queue.waits_for_master = True
    assert forward_all([sides.queue], sides.frames, [], []) == [sides.queue]
    sides.queue.is_ready = False
    assert forward_all([sides.queue], sides.frames, [], []) == []


def test_channels_are_grouped_by_link():
    doorbells, segments = ring.doorbell_segment(), [ring.link_segment(1 << 16) for _ in range(5)]
    queues = [Queue(ring.Segment.attach(os.dup(segment.fileno())), doorbells) for segment in segments]
    for queue, link in zip(queues, "abbac", strict=True):
        queue.link_to_agent = link
    assert by_link(queues) == {"a": [queues[0], queues[3]], "b": queues[1:3], "c": [queues[4]]}
    assert by_link([]) == {}


def test_returned_calls_come_before_further_ones(sides):
    sides.call(1)
    sides.forward()
    sides.answer(frame(result(1, 1000)))
    for number in range(2, 6):
        sides.call(number)
    assert ids(sides.forward()) == [2, 3, 4, 5]
    sides.queue.return_all_but_first()
    sides.queue.prefetch.stop()
    sides.answer(frame(result(2, 1000)))
    sides.call(6)
    assert sides.forward() == []  # the master has not received the returned calls yet
    assert [message[:2] for message in sides.received()][1:] == [
        (ring.RECALLED, 5),
        (ring.RECALLED, 4),
        (ring.RECALLED, 3),
        (ring.RESULT, 2),
    ]
    assert ids(sides.forward()) == [6]


def test_prefetched_bytes_are_limited():
    sent = Prefetch()
    sent.sent(ring.CALL, 1, FUNCTION, 10)
    sent.ended(1, 100)
    sent.sent(ring.CALL, 2, FUNCTION, 20_000)  # the first one may be of any size
    assert sent.may_send(ring.CALL, FUNCTION, 16_384)
    assert not sent.may_send(ring.CALL, FUNCTION, 16_385)
    sent.sent(ring.FUNCTION, 0, 4, 10_000)  # counts for the call behind it
    assert not sent.may_send(ring.CALL, FUNCTION, 6_385)
    sent.sent(ring.CALL, 3, FUNCTION, 6_000)
    assert not sent.may_send(ring.CALL, FUNCTION, 385)
    sent.ended(2, 100)
    assert sent.may_send(ring.CALL, FUNCTION, 16_384)


def test_answer_of_another_call_is_an_error():
    sent = Prefetch()
    with pytest.raises(ValueError, match="call 1, which it was not to run next"):
        sent.ended(1, 0)
    sent.sent(ring.CALL, 2, FUNCTION, 0)
    with pytest.raises(ValueError, match="runs call 1, which it was not to run next"):
        sent.check_running(1)

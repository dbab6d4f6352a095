"""How the ranks of one worker share messages: what rank 0 receives goes to all, what they answer comes back to it.

    rank 0                                             rank 1 ... N-1
    RootRank.share(message)  --- packet, bell ------>  OtherRank.receive()
                             === large parts (Bcast) =>
    RootRank.collect()       <--- packet ------------  OtherRank.answer(message)
                             <=== large parts =======

A packet is a head, the sizes of the parts and, if there is room, the parts; else these follow one by one, from buffer
to buffer. All goes over a communicator of its own, so that nothing is mistaken for a message of the user's.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from time import monotonic_ns

from pympipool.worker.spin_wait import AdaptiveWaiter, WakeupNotifier, make_bell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mpi4py import MPI

PACKET_BYTES = 16 * 1024
"""Room for the sizes of as many parts as a message may have (csrc/channel.h: 1024), and for small parts."""

RING_AGAIN_NS = 5_000_000
"""How long a message may be on its way until those who may sleep are rung again."""

PIECE_BYTES = 1 << 30
"""Most bytes of one MPI message: its count is an int in MPI 3."""

_HEAD = struct.Struct("<IIQQQQ")  # kind, part count, call, tag, begun (ns), awake until (ns)
_SIZE_BYTES = 8

_MESSAGE, _ANSWER, _PART = 1, 2, 3  # tags of MPI messages


class Message(namedtuple("Message", "kind call tag parts begun_ns", defaults=(0,))):
    """As on a channel: see `pympipool._core.ring`. An answer also says when its rank began, by that rank's monotonic clock, ns."""

    __slots__ = ()


def pack(message: Message, awake_until_ns: int = 0) -> tuple[bytes, Sequence[Any]]:
    """The packet of a message, and the parts that must follow because they do not fit into it."""
    kind, call, tag, parts, begun_ns = message
    sizes = [len(part) for part in parts]
    head = _HEAD.pack(kind, len(parts), call, tag, begun_ns, awake_until_ns) + struct.pack(f"<{len(parts)}Q", *sizes)
    if len(head) + sum(sizes) > PACKET_BYTES:
        return head, parts
    return b"".join([head, *parts]), ()


def unpack(packet: bytearray) -> tuple[Message, Sequence[bytearray]]:
    """The message of a packet, in memory of its own, and those of its parts that have still to be filled."""
    kind, count, call, tag, begun_ns, _ = _HEAD.unpack_from(packet)
    sizes = struct.unpack_from(f"<{count}Q", packet, _HEAD.size)
    begin = _HEAD.size + count * _SIZE_BYTES
    if begin + sum(sizes) > PACKET_BYTES:
        parts = [bytearray(size) for size in sizes]
        return Message(kind, call, tag, parts, begun_ns), parts
    parts = []
    for size in sizes:
        parts.append(packet[begin : begin + size])
        begin += size
    return Message(kind, call, tag, parts, begun_ns), ()


def awake_until(packet: bytearray) -> int:
    """Until when whoever sent a packet was going to look out for the next message; monotonic clock, ns."""
    return int(_HEAD.unpack_from(packet)[-1])


def pieces(part: Any) -> Iterator[memoryview]:
    """A part, cut into pieces that MPI can carry; none when it is empty."""
    view = memoryview(part)
    for begin in range(0, len(view), PIECE_BYTES):
        yield view[begin : begin + PIECE_BYTES]


class RootRank:
    """Rank 0's side.

    Args:
        world: All ranks of the worker; calling this is collective, together with `OtherRank`.
    """

    def __init__(self, world: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._ranks = world.Dup()
        self._others = range(1, self._ranks.Get_size())
        self._packets = [bytearray(PACKET_BYTES) for _ in self._others]
        self._answers = [
            self._ranks.Recv_init([packet, MPI.BYTE], source, _ANSWER)
            for source, packet in zip(self._others, self._packets, strict=True)
        ]
        self._patience = AdaptiveWaiter(None)  # an answer comes when a call ends: nobody rings for it
        ringers = [WakeupNotifier(bell) if bell else None for bell in self._ranks.gather("", 0) or ()]
        reached = [ringer if ringer and ringer.ring() else None for ringer in ringers]  # those on this host
        self._ranks.scatter([ringer.name if ringer else "" for ringer in reached], 0)
        self._ringers = reached[1:]

    def share(self, message: Message) -> None:
        """Sends a message to all other ranks."""
        byte = self._mpi.BYTE
        packet, following = pack(message)
        sent = [self._ranks.Isend([packet, byte], other, _MESSAGE) for other in self._others]
        rung_ns = 0

        def delivered() -> bool:
            nonlocal rung_ns
            arrived = bool(self._mpi.Request.Testall(sent))
            now_ns = monotonic_ns()
            if arrived or now_ns - rung_ns > RING_AGAIN_NS:  # it may need them awake to arrive
                self._wake(now_ns)
                rung_ns = now_ns
            return arrived

        self._patience.wait(delivered)
        for part in following:
            for piece in pieces(part):
                self._ranks.Bcast([piece, byte], 0)

    def _wake(self, now_ns: int) -> None:
        """Rings all who may sleep now. The others will look once more, and find what has arrived by now."""
        for ringer, packet in zip(self._ringers, self._packets, strict=True):
            if ringer and awake_until(packet) <= now_ns:
                ringer.ring()

    def collect(self) -> list[Message]:
        """Waits for the answers of all other ranks."""
        self._mpi.Prequest.Startall(self._answers)
        self._patience.wait(lambda: bool(self._mpi.Prequest.Testall(self._answers)))
        return [self._complete(source, packet) for source, packet in zip(self._others, self._packets, strict=True)]

    def _complete(self, source: int, packet: bytearray) -> Message:
        answer, missing = unpack(packet)
        for part in missing:
            for piece in pieces(part):
                self._patience.wait(self._ranks.Irecv([piece, self._mpi.BYTE], source, _PART).Test)
        return answer


class OtherRank:
    """The side of every other rank.

    Args:
        world: All ranks of the worker; calling this is collective, together with `RootRank`.
    """

    def __init__(self, world: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._byte = MPI.BYTE
        self._ranks = world.Dup()
        self._packet = bytearray(PACKET_BYTES)
        self._message = self._ranks.Recv_init([self._packet, MPI.BYTE], 0, _MESSAGE)
        bell = make_bell()
        self._ranks.gather(bell.name if bell else "", 0)
        root_name = self._ranks.scatter(None, 0)
        if bell and root_name:
            bell.answer_to(root_name)
        self._patience = AdaptiveWaiter(bell if root_name else None)
        self._patience_without_bell = AdaptiveWaiter(None)

    def receive(self) -> Message:
        """Waits for the next message."""
        self._message.Start()
        self._patience.wait(self._message.Test)
        message, missing = unpack(self._packet)
        for part in missing:
            for piece in pieces(part):
                self._ranks.Bcast([piece, self._byte], 0)
        return message

    def answer(self, message: Message) -> None:
        """Answers a call."""
        packet, following = pack(message, self._patience.awake_until())
        self._send(packet, _ANSWER)
        for part in following:
            for piece in pieces(part):
                self._send(piece, _PART)

    def _send(self, data: Any, tag: int) -> None:
        self._patience_without_bell.wait(self._ranks.Isend([data, self._byte], 0, tag).Test)

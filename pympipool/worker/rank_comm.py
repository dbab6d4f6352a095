"""Messages between the ranks of one worker: rank 0 sends each message to all others, and collects their answers.

    rank 0                                             rank 1 ... N-1
    RootRank.share(message)  --- packet, wake-up --->  OtherRank.receive()
                             === large parts (Bcast) =>
    RootRank.collect()       <--- packet ------------  OtherRank.answer(message)
                             <=== large parts =======

A packet is a head, the sizes of the parts and, if there is room, the parts. If there is not, the parts follow one by one,
from buffer to buffer. All messages go over a duplicated communicator, so that they cannot be confused with the user's.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from time import monotonic_ns

from pympipool.worker.spin_wait import AdaptiveWaiter, WakeupNotifier, make_listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mpi4py import MPI

PACKET_BYTES = 16 * 1024
"""Size of a packet: room for the sizes of as many parts as a message may have (csrc/message.h: 1024), and for small parts."""

NOTIFY_AGAIN_NS = 5_000_000
"""Time after which rank 0 wakes sleeping ranks again if its message has not arrived everywhere."""

FRAGMENT_BYTES = 1 << 30
"""Largest MPI message: its length is an int in MPI 3."""

_HEAD = struct.Struct("<IIQQQQ")  # kind, part count, call, tag, start (ns), awake until (ns)
_SIZE_BYTES = 8

_MESSAGE, _ANSWER, _PART = 1, 2, 3  # tags of MPI messages


class Message(namedtuple("Message", "kind call tag parts start_ns", defaults=(0,))):
    """A message as on a channel (see `pympipool._core.ring`).

    An answer also has the time at which its rank started the call, by that rank's monotonic clock in ns.
    """

    __slots__ = ()


def pack(message: Message, awake_until_ns: int = 0) -> tuple[bytes, Sequence[Any]]:
    """Return the packet of a message, and the parts that must follow because they do not fit into it."""
    kind, call, tag, parts, start_ns = message
    sizes = [len(part) for part in parts]
    head = _HEAD.pack(kind, len(parts), call, tag, start_ns, awake_until_ns) + struct.pack(f"<{len(parts)}Q", *sizes)
    if len(head) + sum(sizes) > PACKET_BYTES:
        return head, parts
    return b"".join([head, *parts]), ()


def unpack(packet: bytearray) -> tuple[Message, Sequence[bytearray]]:
    """Return the message of a packet, copied to its own memory, and those of its parts that have still to be filled."""
    kind, count, call, tag, start_ns, _ = _HEAD.unpack_from(packet)
    sizes = struct.unpack_from(f"<{count}Q", packet, _HEAD.size)
    begin = _HEAD.size + count * _SIZE_BYTES
    if begin + sum(sizes) > PACKET_BYTES:
        parts = [bytearray(size) for size in sizes]
        return Message(kind, call, tag, parts, start_ns), parts
    parts = []
    for size in sizes:
        parts.append(packet[begin : begin + size])
        begin += size
    return Message(kind, call, tag, parts, start_ns), ()


def awake_until(packet: bytearray) -> int:
    """Return the time (monotonic clock, ns) before which the sender of a packet does not sleep."""
    return int(_HEAD.unpack_from(packet)[-1])


def fragments(part: Any) -> Iterator[memoryview]:
    """Yield a part in fragments that MPI can send; none if it is empty."""
    view = memoryview(part)
    for begin in range(0, len(view), FRAGMENT_BYTES):
        yield view[begin : begin + FRAGMENT_BYTES]


class RootRank:
    """Rank 0's side.

    Args:
        world: All ranks of the worker. The constructor is collective, together with that of `OtherRank`.
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
        self._waiter = AdaptiveWaiter(None)  # no wake-up announces an answer, which comes when a call ends
        notifiers = [WakeupNotifier(listener) if listener else None for listener in self._ranks.gather("", 0) or ()]
        reachable = [
            notifier if notifier and notifier.notify() else None for notifier in notifiers
        ]  # those on this host
        self._ranks.scatter([notifier.name if notifier else "" for notifier in reachable], 0)
        self._notifiers = reachable[1:]

    def share(self, message: Message) -> None:
        """Send a message to all other ranks."""
        byte = self._mpi.BYTE
        packet, following = pack(message)
        sent = [self._ranks.Isend([packet, byte], other, _MESSAGE) for other in self._others]
        notified_ns = 0

        def delivered() -> bool:
            nonlocal notified_ns
            arrived = bool(self._mpi.Request.Testall(sent))
            now_ns = monotonic_ns()
            if arrived or now_ns - notified_ns > NOTIFY_AGAIN_NS:  # the message may need awake receivers to arrive
                self._wake_sleeping(now_ns)
                notified_ns = now_ns
            return arrived

        self._waiter.wait(delivered)
        for part in following:
            for fragment in fragments(part):
                self._ranks.Bcast([fragment, byte], 0)

    def _wake_sleeping(self, now_ns: int) -> None:
        """Wake all ranks that may sleep now. The other ranks check once more before they sleep, and find the message then."""
        for notifier, packet in zip(self._notifiers, self._packets, strict=True):
            if notifier and awake_until(packet) <= now_ns:
                notifier.notify()

    def collect(self) -> list[Message]:
        """Wait for the answers of all other ranks."""
        self._mpi.Prequest.Startall(self._answers)
        self._waiter.wait(lambda: bool(self._mpi.Prequest.Testall(self._answers)))
        return [self._complete(source, packet) for source, packet in zip(self._others, self._packets, strict=True)]

    def _complete(self, source: int, packet: bytearray) -> Message:
        answer, missing = unpack(packet)
        for part in missing:
            for fragment in fragments(part):
                self._waiter.wait(self._ranks.Irecv([fragment, self._mpi.BYTE], source, _PART).Test)
        return answer


class OtherRank:
    """The side of every other rank.

    Args:
        world: All ranks of the worker. The constructor is collective, together with that of `RootRank`.
    """

    def __init__(self, world: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._byte = MPI.BYTE
        self._ranks = world.Dup()
        self._packet = bytearray(PACKET_BYTES)
        self._message = self._ranks.Recv_init([self._packet, MPI.BYTE], 0, _MESSAGE)
        listener = make_listener()
        self._ranks.gather(listener.name if listener else "", 0)
        root_name = self._ranks.scatter(None, 0)
        if listener and root_name:
            listener.accept_only(root_name)
        self._waiter = AdaptiveWaiter(listener if root_name else None)
        self._send_waiter = AdaptiveWaiter(None)  # no wake-up announces that a message was sent

    def receive(self) -> Message:
        """Wait for the next message."""
        self._message.Start()
        self._waiter.wait(self._message.Test)
        message, missing = unpack(self._packet)
        for part in missing:
            for fragment in fragments(part):
                self._ranks.Bcast([fragment, self._byte], 0)
        return message

    def answer(self, message: Message) -> None:
        """Send the answer to a call to rank 0."""
        packet, following = pack(message, self._waiter.awake_until())
        self._send(packet, _ANSWER)
        for part in following:
            for fragment in fragments(part):
                self._send(fragment, _PART)

    def _send(self, data: Any, tag: int) -> None:
        self._send_waiter.wait(self._ranks.Isend([data, self._byte], 0, tag).Test)

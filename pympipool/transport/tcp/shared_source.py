"""The relay's side of shared data on other hosts: each host gets them once.

rank ── WANTED ──► is another process of its host known to have them? ──► PLACE
                   does one just get them?                            ──► wait for it
                   no                                                 ──► PIECE, PIECE, ...
rank ── STORED, where other processes of its host find them ──► they are known
rank ◄── ENDED ── their owner has given them up

Each rank that uses shared data has a connection for them, and the relay a thread for this connection. So calls, results and
recalls never wait for data, and no rank waits for those of another host.

The relay maps the memory of the master as long as a rank has data of it, and looks every second at what has ended.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from pympipool._core.shared_memory import Mapping
from pympipool.transport.tcp.stream import ENDED, MISSING, PIECE, PLACE, STORED, WANTED

if TYPE_CHECKING:
    from pympipool.transport.tcp.relayed_rank import RelayedRank
    from pympipool.transport.tcp.stream import Stream

PIECE_BYTES = 1 << 20
"""Most bytes of a piece of the data. A rank needs so much memory besides that for the data."""

CHECK_INTERVAL_S = 1.0
"""Interval at which is looked at what has ended, while a rank has shared data."""

STALLED_S = 10.0
"""Time without progress after which no rank waits any more for another one that gets the same data."""


class UnsendableError(Exception):
    """Shared data cannot be sent; the message is for the rank that asks for them."""


class HostCopy:
    """Shared data on one host.

    Attributes:
        places: Where processes of the host have them, by the connections of these processes.
        loader: The connection over which they are being sent to the host; None: they are not.
        progress: Grows with each piece.
    """

    __slots__ = ("loader", "places", "progress")

    def __init__(self) -> None:
        self.places: dict[Stream, bytes] = {}
        self.loader: Stream | None = None
        self.progress = 0

    def forget(self, stream: Stream) -> None:
        """Forget a connection that has the data, or is getting them."""
        self.places.pop(stream, None)
        if self.loader is stream:
            self.loader = None


class SentObject:
    """Shared data that ranks of other hosts have.

    Attributes:
        mapping: Their memory, on the master's host.
        holders: The connections of the ranks that have them, or are about to.
        hosts: Their copies, by the identities of the hosts.
    """

    __slots__ = ("holders", "hosts", "mapping")

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.holders: set[Stream] = set()
        self.hosts: dict[bytes, HostCopy] = {}


class SharedSource:
    """Sends shared data to the ranks of other hosts."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # protects all that the connections share
        self.objects: dict[bytes, SentObject] = {}

    def serve(self, stream: Stream, remote: RelayedRank) -> None:
        """Answer what a rank asks over its connection, until the connection ends; for the thread of this connection."""
        connection = _Connection(self, stream, remote)
        try:
            while not remote.gone:
                connection.serve_next()
        except (OSError, EOFError, ValueError):
            pass  # the rank is gone, or has given up
        finally:
            connection.close()


class _Connection:
    """The connection of one rank for shared data."""

    def __init__(self, source: SharedSource, stream: Stream, remote: RelayedRank) -> None:
        self._changed = source.changed
        self._objects = source.objects
        self._stream = stream
        self._remote = remote
        self._copies: dict[bytes, HostCopy] = {}  # what the rank has, or is getting

    def serve_next(self) -> None:
        """Wait for a question and answer it, or for a second."""
        is_asked = self._stream.wait(CHECK_INTERVAL_S if self._copies else None)
        self._send_ended()
        if not is_asked:
            return
        kind, _, _, parts = self._stream.receive()
        key, *others = map(bytes, parts)
        if kind == WANTED:
            self._answer(key, *others)
        elif kind == STORED:
            self._add_place(key, *others)

    def _answer(self, key: bytes, host: bytes, missed: bytes) -> None:
        try:
            found = self._find(key)
        except UnsendableError as error:
            self._stream.send(MISSING, 0, 0, [str(error).encode()])
            return
        if found is None:
            self._stream.send(MISSING, 0, 0, [b""])
            return
        with self._changed:
            copy = self._copies[key] = found.hosts.setdefault(host, HostCopy())
            copy.places = {holder: place for holder, place in copy.places.items() if place != missed}
            place = self._await_place(copy)
        if place is None:
            self._send_pieces(found.mapping, copy)
        else:
            self._stream.send(PLACE, 0, 0, [place])

    def _find(self, key: bytes) -> SentObject | None:
        """Return the data of a key, which this rank holds from now on; None if they have been released.

        Raises:
            UnsendableError: They cannot be sent.
        """
        with self._changed:
            found = self._objects.get(key)
            if found is not None and not found.mapping.is_released:
                found.holders.add(self._stream)
                return found
        control = self._remote.control
        descriptor = None if control is None else control.request_shared(key)
        if descriptor is None:
            return None
        try:
            mapping = Mapping.attach(descriptor)
        except OSError as error:
            raise UnsendableError(f"the relay beside the script cannot map shared data: {error}") from error
        if mapping.is_writable:
            raise UnsendableError(
                "a shared array can be written only where the script is: have calls on other hosts return what they compute, and"
                " put it into the array in the script; or pass a copy, array.copy()"
            )
        with self._changed:
            found = self._objects.setdefault(key, SentObject(mapping))
            found.holders.add(self._stream)
        return found

    def _await_place(self, copy: HostCopy) -> bytes | None:
        """Return where data are on the rank's host; None: nowhere, and this connection is to send them."""
        progress, since = copy.progress, monotonic()
        while not copy.places and copy.loader not in (None, self._stream):
            if copy.progress != progress:
                progress, since = copy.progress, monotonic()
            elif monotonic() - since > STALLED_S:
                break
            self._changed.wait(CHECK_INTERVAL_S)
            if self._remote.gone:
                raise EOFError("the rank is gone")
        if copy.places:
            return next(iter(copy.places.values()))
        copy.loader = self._stream
        return None

    def _send_pieces(self, mapping: Mapping, copy: HostCopy) -> None:
        whole = memoryview(mapping)
        for begin in range(0, len(whole), PIECE_BYTES):
            self._stream.send(PIECE, begin, len(whole), [whole[begin : begin + PIECE_BYTES]])
            copy.progress += 1

    def _add_place(self, key: bytes, place: bytes) -> None:
        """Note that the rank has data, and where other processes of its host find them."""
        with self._changed:
            copy = self._copies.get(key)
            if copy is None:
                return
            copy.forget(self._stream)
            if place:
                copy.places[self._stream] = place
            self._changed.notify_all()

    def _send_ended(self) -> None:
        """Tell the rank which of its data have ended."""
        with self._changed:
            for key in [key for key, sent in self._objects.items() if sent.mapping.is_released]:
                del self._objects[key]
            ended = [key for key in self._copies if key not in self._objects]
            for key in ended:
                self._copies.pop(key).forget(self._stream)
            if ended:
                self._changed.notify_all()
        if ended:
            self._stream.send(ENDED, 0, 0, ended)

    def close(self) -> None:
        """Forget the rank, and the data that no other one has."""
        with self._changed:
            for copy in self._copies.values():
                copy.forget(self._stream)
            for key, sent in list(self._objects.items()):
                sent.holders.discard(self._stream)
                if not sent.holders:
                    del self._objects[key]
            self._changed.notify_all()
        self._stream.close()

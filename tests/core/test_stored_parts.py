"""Large parts of calls for several ranks lie once in shared memory: over a real link, without processes."""

import os
import pickle
import resource
import sys
import threading

import numpy as np
import pytest

from pympipool._core import ring
from pympipool._core.private_copies import Usage, private_part
from pympipool.serialization import payload
from support.answering_ranks import LIMIT_S, AnsweringRanks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no memfd: ranks get copies there")

RANKS = 3
LARGE = 33 << 20
"""Bytes that are stored for three ranks, but not for two."""


class RanksWithStore(AnsweringRanks):
    """Ranks that get the descriptors of large parts from the dispatcher itself, and answer in threads.

    Attributes:
        asked: For each request of a rank, the sizes of the parts that it has asked for.
        inodes: Of all segments that ranks have got.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(ranks)
        self.asked = []
        self.inodes = set()
        self.usage = Usage(of_writing=True)
        for channel in self.ranks:
            channel.load_stored = self.load

    def load(self, call, sizes):
        self.asked.append(sizes)
        segments = self.dispatcher.stored_parts(1, call)
        self.inodes.update(os.fstat(segment.fileno()).st_ino for segment in segments)
        return [private_part(segment.fileno(), size, self.usage) for segment, size in zip(segments, sizes, strict=True)]

    def run(self, function, *args):
        """Return what the function returns on each rank; it gets the number of the rank and the parts of the call."""
        future = self.submit(*args)

        def serve(rank):
            _, call, _, parts = self.ranks[rank].receive(LIMIT_S)
            self.ranks[rank].answer(ring.RESULT, call, payload.dump(function(rank, parts)))

        threads = [threading.Thread(target=serve, args=(rank,)) for rank in range(len(self.ranks))]
        for thread in threads:
            thread.start()
        try:
            return future.result(LIMIT_S)
        finally:
            for thread in threads:
                thread.join(LIMIT_S)


def array_of(value, size_bytes=LARGE):
    return np.full(size_bytes // 8, float(value))


def values(_rank, parts):
    return [float(np.frombuffer(part).mean()) for part in parts[1:]]


def add_rank(rank, parts):
    array = np.frombuffer(parts[1])
    array += rank
    return float(array.mean())


def test_each_rank_gets_large_parts_as_its_own():
    ranks = RanksWithStore(RANKS)
    array = array_of(1)
    for _ in range(3):
        assert ranks.run(add_rank, array) == [1.0, 2.0, 3.0]
    assert (array == 1).all()
    assert len(ranks.asked) == 3 * RANKS


def test_size_and_ranks_decide_what_is_stored():
    arrays = array_of(1), array_of(2, LARGE // 2), array_of(3, 2 * LARGE)
    ranks = RanksWithStore(RANKS)
    assert ranks.run(values, *arrays) == [[1.0, 2.0, 3.0]] * RANKS
    assert ranks.asked == [[LARGE, 2 * LARGE]] * RANKS
    ranks = RanksWithStore(2)  # the copies of the first one would take little more memory
    assert ranks.run(values, *arrays) == [[1.0, 2.0, 3.0]] * 2
    assert ranks.asked == [[2 * LARGE]] * 2


def test_what_a_rank_keeps_stays_as_it_was():
    ranks = RanksWithStore(RANKS)
    kept = {}

    def keep(rank, parts):
        kept[rank] = np.frombuffer(parts[1])

    ranks.run(keep, array_of(1))
    for value in range(2, 6):
        assert ranks.run(values, array_of(value)) == [[float(value)]] * RANKS
    assert all((array == 1).all() for array in kept.values())


def test_memory_is_used_again():
    ranks = RanksWithStore(RANKS)
    for value in range(4):
        ranks.run(values, array_of(value))
    assert len(ranks.inodes) == 1


def test_without_descriptors_parts_go_through_the_ring():
    ranks = RanksWithStore(RANKS)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert ranks.run(values, array_of(1)) == [[1.0]] * RANKS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert ranks.asked == []
    assert ranks.run(values, array_of(2)) == [[2.0]] * RANKS
    assert len(ranks.asked) == RANKS


def test_mostly_written_parts_are_copied_at_once():
    """Their pages would be copied anyway, one by one."""
    ranks = RanksWithStore(RANKS)
    mappings = []

    def write(rank, parts):
        mappings.append("memfd" in mapping_at(np.frombuffer(parts[1]).ctypes.data))
        np.frombuffer(parts[1])[:] = rank

    for _ in range(2):
        ranks.run(write, array_of(1))
    assert mappings == [True] * RANKS + [False] * RANKS


def mapping_at(address):
    """Return the line of /proc/self/maps that an address belongs to."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if first <= address < last:
                return line
    raise LookupError(f"nothing is mapped at {address:#x}")


def test_calls_without_stored_parts_have_none():
    ranks = RanksWithStore(RANKS)
    assert ranks.dispatcher.stored_parts(1, 1) == []
    assert ranks.dispatcher.stored_parts(99, 1) == []


def test_rank_that_cannot_get_parts_gets_an_error():
    ranks = RanksWithStore(RANKS)

    def fail(_call, _sizes):
        raise OSError(24, "no descriptor")

    def load(_rank, parts):
        with pytest.raises(OSError, match="no descriptor"):
            pickle.loads(parts[0])
        return len(parts)

    for channel in ranks.ranks:
        channel.load_stored = fail
    assert ranks.run(load, array_of(1)) == [1] * RANKS

"""What a cache keeps is the result of the call that its key says, whatever the script has changed meanwhile."""

import concurrent.futures
import weakref
from functools import partial

import numpy as np
import pytest

from pympipool import get_item_from_future, split_future
from pympipool.caching import calls, inputs
from pympipool.caching.entries import StoredEntry
from pympipool.errors import CacheError, CacheWarning
from pympipool.execution import blocked_calls
from support.calls import hold

SIZE = 40_000
"""Numbers of an array that is read when its call is sent."""

SIZE_OF_FILE = 1 << 18
"""Numbers of an array that its worker leaves in a file."""


def plus(number, parameters):
    return number + parameters["n"]


def total(*arrays):
    return float(sum(array.sum() for array in arrays))


class Totals:
    def __init__(self, array):
        self.array = array

    def total(self):
        return total(self.array)


def make(value, size):
    return np.full(size, float(value))


def make_dict(value, size):
    return {"x": make(value, size)}


def test_calls_that_wait_are_kept_as_submitted(make_block, gate):
    def session(change):
        with make_block() as exe:
            number = exe.submit(hold, gate.path)
            parameters, futures = {"n": 0}, []
            for n in range(3):
                parameters["n"] = n
                futures.append(exe.submit(plus, exe.submit(len, [number]), parameters if change else {"n": n}))
            gate.open()
            return [future.result() for future in futures]

    assert session(change=True) == session(change=False) == [1, 2, 3]


def test_running_maps_are_kept_as_submitted(make_block):
    def session(change):
        scale = 1

        def scaled(x):
            return scale * x

        with make_block() as exe:
            results = exe.map(scaled, range(200))
            scale = 1000 if change else 1
            return list(results)

    assert session(change=True) == session(change=False) == list(range(200))


@pytest.mark.parametrize("way", ["submit", "map", "chunks"])
def test_changed_arrays_have_results_of_their_own(make_block, gate, way):
    array = np.zeros(SIZE)

    def session(change):
        with make_block(max_workers=1) as exe:
            exe.submit(hold, gate.path, resource_dict={"cache": False})
            if way == "submit":
                results = []
                for value in range(3):
                    array[:] = value
                    results.append(exe.submit(total, array))
            else:
                arrays = [make(value, SIZE) for value in range(3)]
                results = exe.map(total, arrays, chunksize=2 if way == "chunks" else None)
                for one in arrays if change else []:
                    one[:] = 7
            array[:] = 7
            gate.open()
            return [one.result() if way == "submit" else one for one in results]

    assert session(change=True) == session(change=False) == [0, SIZE, 2 * SIZE]


@pytest.mark.parametrize("way", ["argument", "partial", "method", "map", "function of a map"])
def test_changed_files_do_not_reach_calls(make_block, gate, tmp_path, way):
    path, count = tmp_path / "values", 1 << 18
    np.ones(count).tofile(path)
    array = np.memmap(path, float, "r")
    with make_block(max_workers=1) as exe:
        exe.submit(hold, gate.path, resource_dict={"cache": False})
        if way == "map":
            results = exe.map(total, [array] * 2)
        elif way == "function of a map":
            results = exe.map(partial(total, array), [np.zeros(n) for n in range(2)])
        else:
            fn = {"argument": total, "partial": partial(total, array), "method": Totals(array).total}[way]
            results = [exe.submit(fn, *([array] if way == "argument" else [])) for _ in range(2)]
        np.memmap(path, float, "r+")[:] = 7
        gate.open()
        assert [one if "map" in way else one.result() for one in results] == [count] * 2


@pytest.mark.parametrize("size", [3, SIZE])
@pytest.mark.parametrize("is_written", [False, True])
def test_changed_results_are_known_by_their_values(make_executor, size, is_written):
    def session(change):
        with make_executor() as exe:
            future = exe.submit(make, 1, size)
            value = future.result()
            if is_written:
                exe._cache._writer.flush()
            if change:
                value *= 100
            return exe.submit(total, future).result(), exe.submit(total, future, future).result()

    assert session(change=True) == (100 * size, 200 * size)
    assert session(change=False) == (size, 2 * size)
    assert session(change=True) == (100 * size, 200 * size)


@pytest.mark.parametrize("size", [3, SIZE])
@pytest.mark.parametrize("is_written", [False, True])
def test_results_changed_while_calls_wait_are_the_former(make_block, make_gate, size, is_written):
    gates = make_gate(), make_gate()

    def session(change):
        with make_block() as exe:
            one, other = [exe.submit(hold, gate.path, 1) for gate in gates]
            future, item = exe.submit(make, one, size), get_item_from_future(exe.submit(make_dict, one, size), "x")
            waits = exe.submit(total, future, item, exe.submit(make, other, size))
            gates[0].open()
            for one in (future, item) if change else ():
                one.result()[:] = 7
            if is_written:
                exe._cache._writer.flush()
            gates[1].open()
            return waits.result()

    assert session(change=True) == session(change=False) == 3 * size


def test_results_that_are_lost_leave_no_trace(make_block, make_gate):
    gates = make_gate(), make_gate()
    with make_block() as exe:
        future, other = [exe.submit(make, exe.submit(hold, gate.path, 1), SIZE) for gate in gates]
        waits = exe.submit(total, future, other)
        gates[0].open()
        future.result()[:] = 7
        exe._cache._writer.flush()
        exe._cache._store.remove([future.cache_entry.key])
        gates[1].open()
        assert waits.result() == 8 * SIZE
        exe._cache._writer.flush()
        assert exe._cache._store.find(waits.cache_entry.key) is None
        assert exe.submit(abs, waits).cache_entry is None


def pair():
    one = [1]
    return [one, one]


def follow(one, other):
    """Change one value, and return how long another one is, which may be the same."""
    one.append(2)
    return len(other if type(other[0]) is int else other[0])


def test_items_of_a_result_stay_one_object(make_executor):
    for _ in range(2):  # the second time, the results are read from the cache
        with make_executor() as exe:
            future = exe.submit(pair)
            first, second = split_future(future, 2)
            future.result()
            exe._cache._writer.flush()
            assert exe.submit(follow, first, second).result() == 2
            assert exe.submit(follow, first, future).result() == 2
            assert exe.submit(follow, first, split_future(exe.submit(pair), 2)[1]).result() == 1


def test_items_at_hand_wait_for_others(make_block, monkeypatch):
    with make_block() as exe:
        future = exe.submit(pair)
        first, second = split_future(future, 2)
        future.result(), second.result(), exe._cache._writer.flush()
        monkeypatch.setattr(blocked_calls, "has_result_now", lambda one: one is not first)  # it is about to have one
        assert exe.submit(follow, first, second).result() == 2


def test_unchanged_results_are_compared_by_their_bytes(make_block, monkeypatch):
    with make_block() as exe:
        future = exe.submit(make_dict, 1, SIZE)
        future.result(), exe._cache._writer.flush()
        expected = exe.submit(total, get_item_from_future(future, "x")).cache_entry.key
        monkeypatch.setattr(inputs, "digest_of", lambda *values: pytest.fail("it takes ten times as long"))
        assert exe.submit(total, get_item_from_future(future, "x")).cache_entry.key == expected


def test_results_for_calls_without_keys_are_not_compared(make_block, monkeypatch):
    with make_block() as exe:
        future = exe.submit(make, 1, SIZE)
        future.result()
        monkeypatch.setattr(calls, "is_changed", lambda *_: pytest.fail("it is of no use"))
        for more in ({"cache": False}, {"cache_key": "total"}):
            assert exe.submit(total, future, resource_dict=more).result() == SIZE


def test_results_whose_files_are_gone_are_passed_on(make_block):
    with make_block() as exe:
        future = exe.submit(make, 1, SIZE_OF_FILE)
        concurrent.futures.wait([future])
        exe._cache._writer.flush()
        value = future.result()
        exe._cache._store.remove([future.cache_entry.key])
        assert exe.submit(total, future).result() == value.sum()
        assert exe.submit(total, future, resource_dict={"cache": False}).result() == value.sum()


@pytest.mark.parametrize("more", [{}, {"cache": False}])
def test_calls_fail_whose_unread_inputs_are_gone(make_block, more):
    with make_block() as exe:
        future = exe.submit(make, 1, SIZE_OF_FILE)
        concurrent.futures.wait([future])
        exe._cache._writer.flush()
        exe._cache._store.remove([future.cache_entry.key])
        waits = exe.submit(total, future, resource_dict=more)
        with pytest.raises(CacheError, match="Submit the call again"):
            waits.result()


class Held:
    pass


def test_changed_results_without_digests_reach_calls(make_block):
    with make_block() as exe:
        future = exe.submit(pair)
        alike = {Held(), Held()}  # nothing tells in another session which of them is met again
        future.result().extend([alike, *alike])
        with pytest.warns(CacheWarning, match="differ in nothing"):
            assert exe.submit(len, future).result() == 5


def test_items_of_a_result_are_unpickled_together(make_executor, monkeypatch):
    kept, keep = [], inputs.LastLoaded.keep
    monkeypatch.setattr(
        inputs.LastLoaded, "keep", lambda self, entry, loaded: (kept.append(loaded[0]), keep(self, entry, loaded))
    )
    with make_executor() as exe:
        futures = [exe.submit(make_pairs, first) for first in (0, 50)]
        items = [item for future in futures for item in split_future(future, 50)]
        futures[1].result(), exe._cache._writer.flush()
        assert [exe.submit(len, item).result() for item in items] == list(range(1, 101))
    assert [len(result[0]) for result in kept] == [1, 51]


def make_pairs(first):
    return [["x"] * (1 + first + number) for number in range(50)]


def test_last_loaded_lives_with_its_entry():
    last, entries, values = inputs.LastLoaded(), [make_entry() for _ in range(2)], [np.zeros(1) for _ in range(2)]
    alive = [weakref.ref(value) for value in values]
    for entry in entries:
        last.keep(entry, (values.pop(0),))
    assert last.find(entries[0]) is alive[0]() is None
    assert last.find(entries[1]) == (alive[1](),)
    entries.clear()
    del entry
    assert alive[1]() is None


def make_entry():
    return StoredEntry(b"key", None)

"""Large arrays that many calls get are shared, and calls cannot tell."""

import gc
import threading

import numpy as np
import pytest

from pympipool import Executor
from pympipool.execution import recognition
from pympipool.serialization import payload

SIZE = 200_000
"""Numbers in an array that is shared: 1.6 MB."""

LAST = SIZE - 1


@pytest.fixture(autouse=True)
def copies(monkeypatch):
    """The copies in shared memory that the executors of a test make."""
    from pympipool.serialization import memory_copies

    kept = []

    class MemoryCopy(memory_copies.MemoryCopy):
        __slots__ = ("__weakref__",)

        def __init__(self, data):
            super().__init__(data)
            kept.append(self._object.key)

    monkeypatch.setattr(memory_copies, "MemoryCopy", MemoryCopy)
    return kept


def alive(keys):
    from pympipool.serialization import shared

    gc.collect()
    return [key for key in keys if shared.find(key) is not None]


@pytest.fixture(scope="module")
def exe():
    with Executor(max_workers=1, block_allocation=True, backend="mpi", share_above=1 << 20) as exe:
        yield exe


def item(array, i=0):
    return float(array[i])


def is_own(array):
    """Write to an array that nobody else may see, and tell if it was as it should be."""
    before = float(array[LAST])
    array += 1
    return before, float(array[LAST]), array.flags.writeable, type(array).__name__


def make_window(array):
    return lambda i: float(array[i])


def recognized(exe, call, count=3):
    """Call until the arrays of the call are recognized."""
    return [call().result() for _ in range(count)]


GLOBAL = np.zeros(SIZE)


def functions_by_value():
    """Return functions that travel with their global, as those of a script do."""

    def from_global(i):
        return float(GLOBAL[i])

    def write_global(value):
        before = float(GLOBAL[LAST])
        GLOBAL[LAST] = value
        return before

    return from_global, write_global


from_global, write_global = functions_by_value()


class Model:
    def __init__(self, data):
        self.data = data

    def predict(self, i):
        return float(self.data[i])


def carriers():
    """Yield name, an array, and how its item i is asked for, for everything that may carry an array."""
    data = [np.arange(float(SIZE)) for _ in range(6)]
    argument, keyword, nested, closure, model = data[:5]
    yield "argument", argument, lambda exe, i: exe.submit(item, argument, i)
    yield "keyword", keyword, lambda exe, i: exe.submit(item, array=keyword, i=i)
    yield "nested", nested, lambda exe, i: exe.submit(lambda d, i: float(d["a"][0][i]), {"a": [nested]}, i)
    window, predict = make_window(closure), Model(model).predict
    yield "closure", closure, lambda exe, i: exe.submit(window, i)
    yield "method", model, lambda exe, i: exe.submit(predict, i)
    grid = data[5].reshape(2, -1, order="F")
    yield "fortran", data[5], lambda exe, i: exe.submit(lambda a, i: float(a.reshape(-1, order="F")[i]), grid, i)


@pytest.mark.parametrize(("array", "call"), [pytest.param(*one[1:], id=one[0]) for one in carriers()])
def test_array_is_shared_and_changes_arrive(exe, copies, array, call):
    for _ in range(4):
        assert call(exe, LAST).result() == array[LAST]
    assert len(copies) == 1
    array[LAST] = -5
    assert call(exe, LAST).result() == -5
    assert [call(exe, LAST).result() for _ in range(8)] == [-5] * 8
    assert len(copies) == 2


def test_global_is_shared(exe, copies):
    recognized(exe, lambda: exe.submit(from_global, LAST))
    assert len(copies) == 1
    GLOBAL[LAST] = 7
    assert exe.submit(from_global, LAST).result() == 7
    GLOBAL[LAST] = 0


def through_view(array):
    array[SIZE // 2 :][::-1][0] = 1


def through_buffer(array):
    memoryview(array).cast("B").cast("d")[LAST] = 1


def through_reshape(array):
    array.reshape(2, -1)[1, -1] = 1


def through_other_dtype(array):
    array.view(np.uint8)[-1] = 63


def in_place(array):
    array += 1


def by_thread(array):
    thread = threading.Thread(target=array.__setitem__, args=(LAST, 1))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "change", [through_view, through_buffer, through_reshape, through_other_dtype, in_place, by_thread]
)
def test_every_change_arrives(exe, copies, change):
    array = np.zeros(SIZE)
    recognized(exe, lambda: exe.submit(item, array, LAST))
    assert len(copies) == 1
    change(array)
    assert exe.submit(item, array, LAST).result() == array[LAST] != 0


def test_read_only_array_may_change(exe, copies):
    array = np.zeros(SIZE)
    view = array[:]
    array.flags.writeable = False
    recognized(exe, lambda: exe.submit(item, array, LAST))
    assert len(copies) == 1
    view[LAST] = 1
    assert exe.submit(item, array, LAST).result() == 1
    assert not exe.submit(lambda a: a.flags.writeable, array).result()


def test_array_in_bytes_needs_no_digest(exe, copies, monkeypatch):
    array = np.frombuffer(bytes(8 * SIZE))
    monkeypatch.setattr(exe._engine._sender.large_payloads._arrays, "_digest", None)
    assert recognized(exe, lambda: exe.submit(item, array)) == [0.0] * 3
    assert len(copies) == 1


@pytest.mark.parametrize("options", [{"block_allocation": True}, {}], ids=["block", "call"])
def test_calls_write_to_own_memory(copies, options):
    array = np.zeros(SIZE)
    with Executor(max_workers=1, backend="mpi", share_above=1 << 20, **options) as exe:
        assert recognized(exe, lambda: exe.submit(is_own, array), 6) == [(0.0, 1.0, True, "ndarray")] * 6
        assert [exe.submit(write_global, 3).result() for _ in range(6)] == [0.0] * 6
    assert len(copies) == 2
    assert array[LAST] == GLOBAL[LAST] == 0


def test_calls_that_use_all_have_own_memory(exe, copies):
    array = np.zeros(SIZE)

    def use(array):
        total = float(array.sum())
        array += 1
        return total

    assert [exe.submit(use, array).result() for _ in range(40)] == [0.0] * 40
    assert len(copies) == 1


def test_rows_of_map_have_own_memory(exe, copies):
    array = np.zeros(SIZE)
    results = list(exe.map(is_own, [array] * 8, chunksize=8))
    assert results == [(0.0, 1.0, True, "ndarray")] * 8
    assert len(copies) <= 1


@pytest.mark.mpi
def test_ranks_share_and_write_alone(copies):
    array = np.zeros(SIZE)
    with Executor(
        max_workers=1, cores_per_worker=2, oversubscribe=True, backend="mpi", share_above=1 << 20, block_allocation=True
    ) as exe:
        results = recognized(exe, lambda: exe.submit(is_own, array), 4)
    assert results == [[(0.0, 1.0, True, "ndarray")] * 2] * 4
    assert len(copies) == 1


def test_copy_ends_with_array(exe, copies):
    kept = [np.zeros(SIZE)]
    recognized(exe, lambda: exe.submit(item, kept[0]))
    assert alive(copies) == copies
    kept[0][0] = 1
    exe.submit(item, kept[0]).result()
    assert alive(copies) == []
    recognized(exe, lambda: exe.submit(item, kept[0]), 4)
    assert len(alive(copies)) == 1
    kept.clear()
    exe.submit(item, [0.0]).result()
    assert alive(copies) == []


def test_copies_end_with_executor(copies):
    array = np.zeros(SIZE)
    with Executor(max_workers=1, block_allocation=True, backend="mpi", share_above=1 << 20) as exe:
        recognized(exe, lambda: exe.submit(item, array))
    assert len(copies) == 1
    assert alive(copies) == []


def test_views_take_no_more_memory_than_array(exe, copies):
    array = np.zeros(SIZE)
    for _ in range(6):
        for begin in range(4):
            assert exe.submit(item, array[begin:]).result() == 0
    assert len(alive(copies)) <= 1


def test_array_that_changes_often_is_sent(exe, copies):
    array = np.zeros(SIZE)
    for i in range(20):
        array[0] = i
        assert exe.submit(item, array).result() == i
    assert copies == []


def test_full_memory_sends_as_before(exe, copies, monkeypatch):
    def refuse(parts):
        raise MemoryError

    monkeypatch.setattr("pympipool.serialization.memory_copies.store", refuse)
    array = np.zeros(SIZE)
    assert recognized(exe, lambda: exe.submit(item, array), 5) == [0.0] * 5
    assert copies == []


def test_limit_is_kept(copies):
    array = np.zeros(SIZE)
    with Executor(max_workers=1, block_allocation=True, backend="mpi", share_above=None) as exe:
        recognized(exe, lambda: exe.submit(item, array), 5)
    arrays = recognition.RecognizedArrays(array.nbytes + 1)
    parts = payload.dump_call(1, item, (array,), {})
    assert [arrays.replace(parts) for _ in range(4)] == [(parts, [])] * 4
    assert copies == []


def test_retried_call_gets_array_again(exe, copies, tmp_path):
    array = np.zeros(SIZE)

    def fail_once(array):
        if not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            raise OSError
        return float(array[0])

    recognized(exe, lambda: exe.submit(item, array))
    assert exe.submit(fail_once, array, resource_dict={"retries": 1}).result() == 0
    assert len(copies) == 1

"""Objects in shared memory: one copy for all calls, released with the last handle and the last call."""

import gc
import os
import resource
import signal
import threading

import numpy as np
import pytest

from pympipool import Executor, Shared, share
from pympipool.errors import SerializationError, WorkerDied
from support.calls import square
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

ROWS = np.arange(60_000.0).reshape(60, 1000)

MODES = [
    pytest.param({"block_allocation": True}, id="block_allocation"),
    pytest.param({}, id="process_per_call"),
    pytest.param({"backend": "serial"}, id="serial"),
    pytest.param({"block_allocation": True, "cores_per_worker": 2}, id="ranks", marks=pytest.mark.mpi),
]


@pytest.fixture(autouse=True)
def no_globals():
    """Drop what calls of the serial backend have left in this module."""
    yield
    for name in ("kept", "initialized_rows"):
        globals().pop(name, None)


@pytest.fixture(params=MODES)
def any_executor(request):
    with Executor(max_workers=1, **request.param) as exe:
        yield exe


@pytest.fixture
def executor():
    with Executor(max_workers=2, block_allocation=True) as exe:
        yield exe


def row_sum(rows, number):
    return float(rows[number].sum())


def describe(rows):
    return type(rows), rows.flags.writeable


def look_into(nested, **keywords):
    return [value[0, 1] for value in (nested["list"][0], nested["tuple"][1], keywords["key"])]


def shared_memory_of(pid):
    """Return the mappings of shared data that a process has."""
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps if "memfd:pympipool" in line and " r--s " in line]


def identity(rows):
    return id(rows)


def keep(rows):
    global kept
    kept = rows[3]


def read_kept():
    return kept.tolist()


def kill_worker(rows):
    os.kill(os.getpid(), signal.SIGKILL)


def sum_in_fork(rows):
    pid = os.fork()
    if pid == 0:
        os._exit(int(rows[0, 7]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def first(result):
    """Return the result of a call, on a worker of several ranks that of rank 0."""
    return result[0] if isinstance(result, list) else result


def test_call_gets_object_for_handle(any_executor):
    rows = any_executor.share(ROWS)
    assert first(any_executor.submit(row_sum, rows, 3).result()) == ROWS[3].sum()
    assert first(any_executor.submit(describe, rows).result()) == (np.ndarray, False)


def test_handles_are_found_everywhere(any_executor):
    rows = share(ROWS)
    nested = {"list": [rows], "tuple": (0, rows)}
    answer = any_executor.submit(look_into, nested, key=rows).result()
    assert (answer if len(answer) == 3 else answer[0]) == [1.0, 1.0, 1.0]
    assert first(any_executor.submit(lambda: float(rows[2, 0])).result()) == 2000.0  # in the worker it is the array
    assert [first(one) for one in any_executor.map(row_sum, [rows] * 3, range(3))] == [ROWS[i].sum() for i in range(3)]


def test_init_function_gets_shared_object():
    rows = share(ROWS)
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"rows": rows}) as exe:
        assert exe.submit(row_sum, number=4).result() == ROWS[4].sum()


def test_value_is_read_only_view():
    rows = share({"rows": ROWS, "name": "rows"})
    assert np.array_equal(rows.value["rows"], ROWS)
    assert not rows.value["rows"].flags.writeable
    assert rows.value is rows.value
    assert repr(rows) == "<Shared dict, 483 kB>"


@pytest.mark.parametrize(
    "array",
    [np.arange(3.0), np.arange(10)[::2], np.ones((2, 3), order="F"), np.array(["a"]), np.ma.array([1, 2], mask=[0, 1])],
    ids=["small", "strided", "fortran", "strings", "masked"],
)
def test_arrays_of_any_kind_are_read_only(array):
    shared = share({"array": array}).value["array"]
    assert type(shared) is type(array)
    assert np.array_equal(shared, array)
    assert not shared.flags.writeable


def test_object_is_unpickled_once_per_worker(executor):
    rows = share({"rows": ROWS})
    executor.max_workers = 1
    assert len({executor.submit(identity, rows).result() for _ in range(3)}) == 1


def test_memory_is_released_with_last_handle(executor):
    executor.max_workers = 1
    gc.collect()
    assert shared_memory_of(os.getpid()) == []
    rows = share(ROWS)
    assert executor.submit(row_sum, rows, 1).result() == ROWS[1].sum()
    wait_until(lambda: len(executor.info["workers"]) == 1)
    [worker] = executor.info["workers"]
    assert len(shared_memory_of(worker["pid"])) == len(shared_memory_of(os.getpid())) == 1
    cycle = [rows]
    cycle.append(cycle)
    del rows, cycle
    wait_until(lambda: gc.collect() is not None and shared_memory_of(os.getpid()) == [])
    wait_until(lambda: shared_memory_of(worker["pid"]) == [])  # though it sleeps
    assert executor.submit(square, 2).result() == 4


def test_waiting_call_keeps_memory(executor):
    executor.max_workers = 1
    ready = threading.Event()
    executor.submit(square, 1).add_done_callback(lambda _: ready.wait())  # until then no result is set
    rows = share(ROWS)
    calls = [executor.submit(row_sum, rows, number) for number in range(10)]
    chunk = executor.map(row_sum, [rows] * 10, range(10), chunksize=5)
    del rows
    gc.collect()
    ready.set()
    assert [call.result() for call in calls] == list(chunk) == [ROWS[number].sum() for number in range(10)]
    del calls, chunk
    wait_until(lambda: gc.collect() is not None and shared_memory_of(os.getpid()) == [])


def test_view_outlives_shared_object(executor):
    executor.max_workers = 1
    rows = share(ROWS)
    executor.submit(keep, rows).result()
    own = rows.value[5]
    del rows
    gc.collect()
    assert executor.submit(read_kept).result() == ROWS[3].tolist()
    assert own.tolist() == ROWS[5].tolist()


def test_shared_object_inside_shared_object(executor):
    outer = share({"list": [share(ROWS)], "tuple": (0, share(ROWS + 1))})
    gc.collect()
    assert executor.submit(look_into, outer, key=ROWS).result() == [1.0, 2.0, 1.0]


def test_dead_worker_leaves_data_unharmed(executor):
    rows = share(ROWS)
    assert isinstance(executor.submit(kill_worker, rows).exception(), WorkerDied)
    assert executor.submit(row_sum, rows, 7).result() == ROWS[7].sum()


def test_fork_of_owner_releases_nothing(executor):
    rows = share(ROWS)
    assert executor.submit(sum_in_fork, rows).result() == 7
    pid = os.fork()
    if pid == 0:
        del rows
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert executor.submit(row_sum, rows, 2).result() == ROWS[2].sum()
    assert not rows._object.mapping.is_released


def test_what_cannot_be_shared_is_said(tmp_path):
    with pytest.raises(SerializationError, match=r"cannot share .*lock"):
        share([threading.Lock()])
    sparse = np.memmap(tmp_path / "sparse", "u1", "w+", shape=1 << 40)
    with pytest.raises(MemoryError, match=r"1100 GB.* are available on this host"):
        share(sparse)


def test_missing_descriptor_is_named():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    share(ROWS)  # imports what it needs
    free = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="no descriptor is free to share 5 of type int: each shared object takes one"):
            share(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(free)


def take_descriptors():
    """Leave this worker no descriptor."""
    global kept
    import numpy.random  # noqa: F401  what unpickling needs

    free = os.dup(0)
    os.close(free)
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, kept[1]))


def give_descriptors_back():
    resource.setrlimit(resource.RLIMIT_NOFILE, kept)


def test_missing_descriptor_of_worker_is_named():
    with Executor(max_workers=1, block_allocation=True) as exe:
        before, after = share(ROWS), share(ROWS)
        assert exe.submit(row_sum, before, 2).result() == ROWS[2].sum()  # the worker imports what it needs
        exe.submit(take_descriptors).result()
        with pytest.raises(Exception, match="has no descriptor free for shared data"):
            exe.submit(row_sum, after, 2).result()
        exe.submit(give_descriptors_back).result()
        assert exe.submit(row_sum, after, 2).result() == ROWS[2].sum()


def test_sharing_a_handle_returns_it():
    rows = share(ROWS)
    assert share(rows) is rows
    assert isinstance(rows, Shared)


def set_rows(rows):
    global initialized_rows
    initialized_rows = rows


def initialized_row_sum(number):
    return float(initialized_rows[number].sum())


@pytest.mark.parametrize("options", [{"block_allocation": True}, {}, {"backend": "serial"}])
def test_initializer_gets_shared_object(options):
    with Executor(max_workers=1, initializer=set_rows, initargs=(share(ROWS),), **options) as exe:
        assert exe.submit(initialized_row_sum, 3).result() == row_sum(ROWS, 3)
        if options.get("block_allocation"):
            with pytest.raises(WorkerDied):
                exe.submit(os.kill, exe.submit(os.getpid).result(), signal.SIGKILL).result()
        assert exe.submit(initialized_row_sum, 4).result() == row_sum(
            ROWS, 4
        )  # the executor keeps what new workers need


def test_handle_alone_keeps_memory():
    gc.disable()  # no collection is needed
    try:
        before = len(shared_memory_of("self"))
        share(ROWS)
        assert len(shared_memory_of("self")) <= before
    finally:
        gc.enable()


def test_worker_collects_released_cycles(executor):
    cycle = [ROWS]
    cycle.append(cycle)
    shared, pid = share(cycle), executor.submit(os.getpid).result()
    pids = {executor.submit(lambda nested: (nested[1][0].sum(), os.getpid())[1], shared).result() for _ in range(8)}
    del shared
    wait_until(lambda: not any(map(shared_memory_of, {pid, *pids})))


def test_serial_call_keeps_its_globals():
    with Executor(backend="serial") as exe:
        exe.submit(keep, share(ROWS)).result()
    assert read_kept() == ROWS[3].tolist()

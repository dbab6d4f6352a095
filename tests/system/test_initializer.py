"""`initializer` and what goes with it in the standard library, and the id of the worker, with and without block allocation."""

import errno
import multiprocessing
import os
import threading
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from pympipool.errors import SerializationError
from pympipool.pool import start_functions
from pympipool.serialization import memory_copies
from support.calls import hold
from support.loopback_tcp import LoopbackTcpBackend
from support.scripts import run_script

SEEN = []


def note(*values):
    SEEN.extend(values)


def seen():
    return SEEN, os.getpid()


def append_pid(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def note_and_write(array):
    array[0] += 1
    SEEN.append(array)


def no_room(parts):
    raise OSError(errno.EMFILE, "no descriptor is free")


def refuse(reason):
    raise KeyError(reason)


def my_worker(gate, worker_id):
    return worker_id, hold(gate)


def with_default(x, worker_id=None):
    return x, worker_id


def thread_name():
    return threading.current_thread().name


@pytest.fixture(params=["block_allocation", "one_process_per_call", "tcp"])
def start(request, monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    block = request.param != "one_process_per_call"
    backend = "tcp" if request.param == "tcp" else "mpi"
    return lambda **options: Executor(**{"backend": backend, "block_allocation": block, "max_workers": 1, **options})


def test_it_runs_once_in_each_process(start, tmp_path):
    log = tmp_path / "log"
    with start(initializer=append_pid, initargs=(log,)) as exe:
        pids = [exe.submit(os.getpid).result() for _ in range(3)]
    assert [int(line) for line in log.read_text().split()] == list(dict.fromkeys(pids))


def test_module_globals_are_seen_by_calls(start):
    with start(initializer=note, initargs=["a", np.arange(3)]) as exe:
        for _ in range(2):
            assert exe.submit(seen).result()[0][:1] == ["a"]
        assert [len(values) for values, _ in exe.map(seen_of, range(3))] == [2, 2, 2]


def seen_of(_):
    return seen()


SCRIPT = """
import functools
from pympipool import Executor

data = None
cache = {}
limit = 5

def helper():
    return data

def init(value, *, key):
    global data, further
    data, further = [value], 7
    cache[key] = limit

def work(i):
    data.append(i)
    return helper(), cache, further

def rebind():
    global data
    data = "changed"

for block_allocation in (True, False):
    init_of_key = functools.partial(init, key="k")
    with Executor(max_workers=1, block_allocation=block_allocation, initializer=init_of_key, initargs=(3,)) as exe:
        print(exe.submit(work, 1).result(), exe.submit(lambda: data[0]).result())
        exe.submit(rebind).result()
        print(list(exe.map(lambda i: (i, helper()[0]), range(2))))
"""


def test_globals_of_a_script_are_seen_by_calls(tmp_path):
    expected = ["([3, 1], {'k': 5}, 7) 3", "[(0, 3), (1, 3)]"] * 2
    assert run_script(SCRIPT, tmp_path).splitlines() == expected


@pytest.mark.mpi
def test_it_runs_on_every_rank(tmp_path):
    log = tmp_path / "log"
    with Executor(max_workers=1, cores_per_worker=2, initializer=append_pid, initargs=(log,)) as exe:
        pids = exe.submit(os.getpid).result()
    assert sorted(map(int, log.read_text().split())) == sorted(pids)


def test_its_exception_fails_the_calls(start):
    with start(initializer=refuse, initargs=("no licence",)) as exe:
        for _ in range(2):
            error = exe.submit(abs, 1).exception()
            assert isinstance(error, BrokenProcessPool)
            assert str(error).startswith("initializer failed, so its worker runs no calls: KeyError: ")
            assert type(error.__cause__) is KeyError
            assert "raise KeyError(reason)" in str(error.__cause__.__cause__)
        with pytest.raises(BrokenExecutor):
            list(exe.map(abs, [1]))


@pytest.mark.mpi
def test_missing_mpi_is_not_blamed_on_the_initializer(monkeypatch, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('no MPI here')")
    with Executor(max_workers=1, cores_per_worker=2, initializer=note) as exe:
        monkeypatch.syspath_prepend(tmp_path)
        error = exe.submit(abs, 1).exception()
    assert "initializer" not in str(error)


def test_it_runs_together_with_init_function():
    with Executor(
        max_workers=1,
        block_allocation=True,
        initializer=note,
        initargs=("first",),
        init_function=lambda: {"x": seen()[0]},
    ) as exe:
        assert exe.submit(lambda x: x).result() == ["first"]


def test_start_functions_too_large_together_are_refused(monkeypatch):
    """One frame has both."""
    monkeypatch.setattr(start_functions, "INIT_FUNCTION_MAX_BYTES", 2000)
    large = bytes(1200)
    with pytest.raises(ValueError, match=r"initializer .* and init_function .*; at most 2000 can be sent"):
        Executor(block_allocation=True, initializer=note, initargs=(large,), init_function=lambda: {"x": large})


def test_large_data_lie_in_shared_memory(start, monkeypatch):
    """They may be larger than a frame, and each worker may write its own."""
    monkeypatch.setattr(start_functions, "INIT_FUNCTION_MAX_BYTES", 1 << 20)
    zeros = np.zeros(1 << 18)
    with start(max_workers=2, initializer=note_and_write, initargs=(zeros,)) as exe:
        for _ in range(4):
            (found,), _ = exe.submit(seen).result()
            assert (len(found), found.sum()) == (len(zeros), 1)
    assert not zeros.any()


def test_large_data_are_sent_without_room_to_share(monkeypatch, caplog):
    monkeypatch.setattr(memory_copies, "store", no_room)
    with Executor(max_workers=1, block_allocation=True, initializer=note, initargs=(bytes(2 << 20),)) as exe:
        assert len(exe.submit(seen).result()[0][0]) == 2 << 20
    assert "is sent to each worker, since it cannot be shared" in caplog.text


@pytest.mark.parametrize("block_allocation", [True, False])
def test_serial_backend_runs_it_once(block_allocation):
    SEEN.clear()
    with Executor(backend="serial", block_allocation=block_allocation, initializer=note, initargs=(1,)) as exe:
        assert [exe.submit(seen).result()[0] for _ in range(2)] == [[1], [1]]
    SEEN.clear()
    with Executor(backend="serial", initializer=refuse, initargs=("no",)) as exe:
        error = exe.submit(abs, 1).exception()
    assert isinstance(error, BrokenProcessPool)
    assert type(error.__cause__) is KeyError


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"initializer": 5}, TypeError, "initializer is 5; it must be callable"),
        ({"initializer": note, "initargs": "ab"}, TypeError, "initargs is 'ab'; it must be a tuple"),
        (
            {"initializer": note, "initargs": (threading.Lock(),)},
            SerializationError,
            "the initializer and its arguments",
        ),
        ({"thread_name_prefix": 5}, TypeError, "thread_name_prefix is 5"),
        ({"mp_context": "thread"}, ValueError, "mp_context is 'thread'; it can be 'spawn', 'forkserver', 'fork'"),
        ({"mp_context": 5}, TypeError, "mp_context is 5; it must be a context of multiprocessing"),
    ],
)
def test_wrong_values_raise_at_once(start, options, kind, words):
    with pytest.raises(kind, match=words):
        start(**options)


# ---- the id of the worker ----


def test_running_workers_have_different_ids(start, gate):
    with start(max_workers=3) as exe:
        calls = [exe.submit(my_worker, gate.path) for _ in range(3)]
        gate.wait_until_begun(3)
        gate.open(3)
        ids = [call.result()[0] for call in calls]
        assert sorted(ids) == [0, 1, 2]


def test_a_replacement_gets_the_id_of_the_dead(start):
    with start() as exe:
        assert exe.submit(with_default, 1).result() == (1, 0)
        exe.submit(os._exit, 1).exception()
        assert exe.submit(with_default, 1).result() == (1, 0)


def test_only_functions_that_ask_get_the_id(start):
    with start() as exe:
        assert exe.submit(with_default, 1, 5).result() == (1, 5)
        assert exe.submit(with_default, 1, worker_id=6).result() == (1, 6)
        assert exe.submit(lambda **others: others).result() == {}
        assert exe.submit(lambda executorlib_worker_id: executorlib_worker_id).result() == 0
        assert list(exe.map(with_default, range(2))) == [(0, 0), (1, 0)]


def test_init_function_may_set_the_id():
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"worker_id": "mine"}) as exe:
        assert exe.submit(with_default, 1).result() == (1, "mine")


@pytest.mark.mpi
def test_all_ranks_have_the_id_of_their_worker(tmp_path):
    with Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
        assert exe.submit(with_default, 1).result() == [(1, 0), (1, 0)]


# ---- names of threads, and the start of processes ----


def test_thread_of_calls_has_prefix_and_id(start):
    with start(thread_name_prefix="reader") as exe:
        assert exe.submit(thread_name).result() == "reader_0"
    with start() as exe:
        assert exe.submit(thread_name).result() == "MainThread"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("block_allocation", [True, False])
def test_mp_context_decides_how_processes_start(method, block_allocation, gate):
    """A fork of the fork server is no child of this process."""
    context = multiprocessing.get_context(method)
    with Executor(max_workers=3, block_allocation=block_allocation, mp_context=context, backend="mpi") as exe:
        calls = [exe.submit(parent_of_held, gate.path) for _ in range(3)]
        gate.wait_until_begun(3)
        gate.open(3)
        are_children = {call.result() == os.getpid() for call in calls}
    assert are_children == ({True} if method == "spawn" else {True, False} if block_allocation else {False})


def parent_of_held(gate):
    hold(gate)
    return os.getppid()

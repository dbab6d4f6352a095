"""Objects of multiprocessing as arguments of initializers, and pipes as arguments of calls."""

import ctypes
import multiprocessing
import os

import pytest

from pympipool import Executor
from pympipool.errors import SerializationError

SPAWN = multiprocessing.get_context("spawn")

pytestmark = pytest.mark.timeout(60)


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int))


def remember(*objects):
    global inherited
    inherited = objects


def put_pid():
    inherited[0].put(os.getpid())


def count_up(times):
    counter, lock = inherited
    for _ in range(times):
        with lock:
            counter.value += 1


def set_and_wait():
    event, answered = inherited
    event.set()
    return answered.wait(30)


def meet():
    return inherited[0].wait(30) in (0, 1)


def move_point():
    inherited[0].x, inherited[0].y = 3, 4


def send(connection, value):
    connection.send((value, os.getpid()))


def send_pid():
    inherited[0].send(os.getpid())


def die():
    os._exit(3)


@pytest.mark.parametrize("make", [SPAWN.Queue, SPAWN.SimpleQueue, SPAWN.JoinableQueue])
def test_queue_reaches_workers(make_executor, make):
    queue = make()
    exe = make_executor(initializer=remember, initargs=(queue,))
    exe.submit(put_pid).result()
    assert queue.get() != os.getpid()


def test_value_and_lock_are_shared(make_executor):
    counter, lock = SPAWN.Value("i", lock=False), SPAWN.Lock()
    exe = make_executor(2, initializer=remember, initargs=(counter, lock))
    list(exe.map(count_up, [100] * 4, chunksize=1))
    assert counter.value == 400


def test_shared_structure_is_no_copy(make_executor):
    from pympipool.serialization import payload

    payload.dump(Point(1, 2))  # how the class is pickled was found out before
    point = SPAWN.Value(Point, 1, 2)
    exe = make_executor(initializer=remember, initargs=(point,))
    exe.submit(move_point).result()
    assert (point.x, point.y) == (3, 4)


def test_events_tell_both_ways(make_executor):
    event, answered = SPAWN.Event(), SPAWN.Event()
    exe = make_executor(initializer=remember, initargs=(event, answered))
    call = exe.submit(set_and_wait)
    assert event.wait(30)
    answered.set()
    assert call.result() is True


def test_workers_meet_at_a_barrier(make_executor):
    exe = make_executor(2, initializer=remember, initargs=(SPAWN.Barrier(2),))
    assert [call.result() for call in [exe.submit(meet), exe.submit(meet)]] == [True, True]


def test_replaced_worker_inherits_too(make_executor):
    queue = SPAWN.Queue()
    exe = make_executor(initializer=remember, initargs=(queue,))
    assert exe.submit(die).exception() is not None
    queue.put("to see it")
    exe.submit(put_pid).result()
    assert queue.get() == "to see it"
    assert queue.get() != os.getpid()


def test_worker_inherits_after_objects_were_dropped(make_executor):
    reader, writer = SPAWN.Pipe(duplex=False)
    exe = make_executor(initializer=remember, initargs=(writer, SPAWN.Lock()))
    writer.close()
    exe.submit(send_pid).result()
    assert reader.recv() != os.getpid()


def test_spawned_worker_inherits(make_executor):
    queue = SPAWN.Queue()
    exe = make_executor(initializer=remember, initargs=(queue,), mp_context=SPAWN)
    exe.submit(put_pid).result()
    assert queue.get() != os.getpid()


@pytest.mark.mpi
def test_each_rank_inherits():
    queue = SPAWN.Queue()
    with Executor(1, cores_per_worker=2, oversubscribe=True, initializer=remember, initargs=(queue,)) as exe:
        exe.submit(put_pid).result()
        assert len({queue.get(), queue.get(), os.getpid()}) == 3


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there are no forks: run on Linux")
def test_object_of_fork_context_is_named():
    queue = multiprocessing.get_context("fork").Queue()
    with pytest.raises(
        SerializationError, match=r"initargs\[1\] is <.*Queue.*get_context\('spawn'\), or .*Manager\(\)"
    ):
        Executor(initializer=remember, initargs=(1, queue))


def test_workers_of_other_hosts_cannot_inherit(monkeypatch):
    from pympipool.backends.registry import BACKENDS
    from support.loopback_tcp import LoopbackTcpBackend

    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    for one in (SPAWN.Queue(), SPAWN.Lock()):
        with pytest.raises(
            SerializationError, match=r"initargs\[0\] is <.*only processes of this machine.*Manager\(\)"
        ):
            Executor(backend="tcp", initializer=remember, initargs=(one,))


def test_serial_backend_shares_objects():
    queue = SPAWN.SimpleQueue()
    with Executor(backend="serial", initializer=remember, initargs=(queue,)) as exe:
        exe.submit(put_pid).result()
    assert queue.get() == os.getpid()


def test_pipe_is_sent_as_an_argument(make_executor):
    reader, writer = SPAWN.Pipe(duplex=False)
    exe = make_executor()
    exe.submit(send, writer, "hello").result()
    value, pid = reader.recv()
    assert value == "hello"
    assert pid != os.getpid()

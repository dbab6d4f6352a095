"""Shared data on other hosts: they come to a host once, and live there as long as on the script's host."""

from __future__ import annotations

import os
import signal
import socket
import threading

import numpy as np
import psutil
import pytest

from pympipool import Executor, share, shared_array
from pympipool._core.shared_ranges import shared_place
from pympipool.backends.registry import BACKENDS
from pympipool.errors import SerializationError, WorkerDied
from pympipool.serialization import shared
from support.calls import hold, pid, square
from support.loopback_tcp import LoopbackTcpBackend, relay_process
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.timeout(150)

ROWS = np.arange(4_000_000.0).reshape(40, -1)
LARGE_BYTES = 256 << 20


@pytest.fixture
def start(opened, monkeypatch):
    """Start an executor whose workers reach the master as if they were all on one other host."""
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)

    def start(max_workers, **options):
        options = {"block_allocation": True, **options}
        opened.append(Executor(max_workers=max_workers, backend="tcp", **options))
        return opened[-1]

    return start


def row_sum(rows, number):
    return float(rows[number].sum())


def row_sum_of_initialized(number):
    return float(initialized_rows[number].sum())


def initialize(rows):
    global initialized_rows
    initialized_rows = rows


def row_sum_in_thread(rows, number):
    sums = []
    thread = threading.Thread(target=lambda: sums.append(row_sum(rows, number)))
    thread.start()
    thread.join()
    return sums[0]


def have_no_memory(size_bytes):
    raise MemoryError(f"{size_bytes} are too many")


def refuse_memory():
    shared.check_memory = have_no_memory


def sent_bytes():
    """Return how much the relay has sent so far."""
    with open(f"/proc/{relay_process().pid}/io") as file:
        return int(next(line for line in file if line.startswith("wchar")).split()[1])


def shared_memory_of(pid):
    """Return the inodes of shared data that a process has mapped."""
    with open(f"/proc/{pid}/maps") as maps:
        return {line.split()[4] for line in maps if "memfd:pympipool" in line and " r--s " in line}


def pids_of(exe):
    return [worker["pid"] for worker in exe.info["workers"]]


def use_everywhere(exe, rows, make_gate):
    """Have each of two workers use the rows at the same time."""
    gate = make_gate()
    calls = [exe.submit(lambda rows, number: (row_sum(rows, number), hold(gate.path)), rows, i) for i in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert [call.result()[0] for call in calls] == [row_sum(ROWS, 0), row_sum(ROWS, 1)]


def test_workers_of_a_host_get_one_copy(start, make_gate):
    exe = start(2)
    wait_until(lambda: len(pids_of(exe)) == 2)
    before = sent_bytes()
    use_everywhere(exe, share(ROWS), make_gate)
    assert ROWS.nbytes <= sent_bytes() - before < 1.2 * ROWS.nbytes
    inodes = [shared_memory_of(pid) for pid in pids_of(exe)]
    assert len(inodes) == 2
    assert inodes[0] == inodes[1] != shared_memory_of("self")
    assert len(inodes[0]) == 1


def test_memory_is_released_where_workers_sleep(start, make_gate):
    exe = start(2)
    rows = share(ROWS)
    use_everywhere(exe, rows, make_gate)
    pids = [*pids_of(exe), relay_process().pid]
    assert all(map(shared_memory_of, pids))
    del rows
    wait_until(lambda: not any(map(shared_memory_of, pids)))
    assert exe.submit(square, 3).result() == 9


def test_data_outlive_the_worker_that_brought_them(start):
    exe = start(1)
    rows = share(ROWS)
    with pytest.raises(WorkerDied):
        exe.submit(lambda rows: os.kill(os.getpid(), signal.SIGKILL), rows).result()
    assert exe.submit(row_sum, rows, 7).result() == row_sum(ROWS, 7)


def test_process_for_each_call_gets_data(start):
    exe = start(2, block_allocation=False)
    rows = share(ROWS)
    assert list(exe.map(row_sum, [rows] * 4, range(4))) == [row_sum(ROWS, i) for i in range(4)]


@pytest.mark.mpi
def test_ranks_of_a_host_get_one_copy(start):
    exe = start(1, cores_per_worker=2)
    rows = share(ROWS)
    assert exe.submit(row_sum, rows, 5).result() == [row_sum(ROWS, 5)] * 2
    pids = exe.submit(pid).result()
    inodes = [shared_memory_of(pid) for pid in pids]
    assert inodes[0] == inodes[1] != set()
    del rows
    wait_until(lambda: exe.submit(square, 2).result() == [4, 4] and not any(map(shared_memory_of, pids)))


def test_initializer_and_init_function_get_data(start):
    rows = share(ROWS)
    exe = start(1, initializer=initialize, initargs=(rows,), init_function=lambda: {"rows": rows})
    assert exe.submit(row_sum_of_initialized, 3).result() == row_sum(ROWS, 3)
    assert exe.submit(row_sum, number=3).result() == row_sum(ROWS, 3)


def test_result_that_stays_is_passed_on(start):
    exe = start(2)
    field = exe.submit(lambda: share(ROWS + 1))
    assert exe.submit(row_sum, field, 2).result() == row_sum(ROWS + 1, 2)
    assert exe.submit(row_sum_in_thread, field.result(), 3).result() == row_sum(ROWS + 1, 3)


def test_shared_array_is_written_where_script_is(start):
    exe = start(1)
    array = shared_array((2, 3), fill=1)
    for view in (array, array[1]):
        error = exe.submit(np.sum, view).exception()
        assert isinstance(error, SerializationError)
        assert "can be written only where the script is: have calls on other hosts return what they compute" in str(
            error
        )
    assert exe.submit(np.sum, array.copy()).result() == 6
    new = exe.submit(lambda: shared_array(3, fill=4)).result()
    assert shared_place(new) is not None
    assert new.tolist() == [4, 4, 4]


def test_missing_memory_names_host_and_remedy(start):
    exe = start(1, initializer=refuse_memory)
    rows = share(ROWS)
    for _ in range(2):
        error = exe.submit(row_sum, rows, 0).exception()
        assert isinstance(error, MemoryError)
        assert f"host {socket.gethostname()} has no memory for shared data of 32 MB" in str(error)
        assert "drop what is shared and not needed" in str(error)


def test_fork_of_worker_names_its_limit(start):
    def load_in_fork(key):
        try:
            shared.load_value(key)
        except SerializationError as error:
            return str(error)

    def load(key):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, load_in_fork(key).encode())
            os._exit(0)
        os.wait()
        return os.read(reader, 1000).decode()

    rows = share(ROWS)
    assert "only a worker of the script" in start(1).submit(load, rows._object.key).result()


def test_recognized_array_comes_once(start):
    exe = start(1, share_above=1 << 20)
    rows = ROWS.copy()

    def add_to_first(rows):
        rows[0] += 1
        return float(rows[0, 1])

    results = [exe.submit(add_to_first, rows).result() for _ in range(3)]
    before = sent_bytes()
    results += [exe.submit(add_to_first, rows).result() for _ in range(3)]
    assert sent_bytes() - before < ROWS.nbytes
    assert results == [2.0] * 6


class Transfer:
    """Large data on their way to the first of two workers."""

    def __init__(self, start):
        self.begin(start(2))
        while not self.is_under_way():  # all has arrived before this process got a core
            os.kill(self.pid, signal.SIGCONT)
            self.exe.shutdown()
            self.begin(start(2))

    def begin(self, exe):
        self.exe = exe
        wait_until(lambda: len(pids_of(exe)) == 2)
        self.pids = set(pids_of(exe))
        self.data = share(np.ones(LARGE_BYTES, np.uint8))
        self.call = self.exe.submit(lambda data: (int(data[-1]), os.getpid()), self.data)
        wait_until(lambda: any(map(receives, self.pids)))
        [self.pid] = filter(receives, self.pids)
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def is_under_way(self):
        return shared_memory_of(self.pid) == set()


def receives(pid):
    """Return True if a process writes shared data into its memory."""
    with open(f"/proc/{pid}/maps") as maps:
        return any(
            int(line.split("-")[1].split()[0], 16) - int(line.split("-")[0], 16) >= LARGE_BYTES
            for line in maps
            if "memfd:pympipool" in line
        )


def test_other_calls_go_on_while_data_travel(start):
    transfer = Transfer(start)
    try:
        assert [transfer.exe.submit(square, i).result(LIMIT_S) for i in range(50)] == [i * i for i in range(50)]
        assert transfer.is_under_way()
    finally:
        os.kill(transfer.pid, signal.SIGCONT)
    assert transfer.call.result(LIMIT_S) == (1, transfer.pid)


def test_worker_killed_while_data_travel(start):
    transfer = Transfer(start)
    other = transfer.exe.submit(lambda data: int(data[-1]), transfer.data)
    assert transfer.is_under_way()
    os.kill(transfer.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        transfer.call.result(LIMIT_S)
    assert other.result(LIMIT_S) == 1


def test_relay_killed_while_data_travel(start):
    transfer = Transfer(start)
    relay_process().kill()
    with pytest.raises(WorkerDied):
        transfer.call.result(LIMIT_S)
    assert transfer.exe.submit(lambda data: int(data[-1]), transfer.data).result(LIMIT_S) == 1

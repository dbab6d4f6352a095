"""The parts of the chaos test do what its verdict relies on."""

import os
import random
import time
from concurrent.futures import Future

import pytest

from chaos.board import GUARDIAN, MASTER, Board
from chaos.calls import KINDS, Call
from chaos.plan import ROLES, WEIGHTS, plan
from chaos.processes import family
from chaos.record import Record, Sample
from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import hold
from support.processes import MARK


def test_seed_determines_the_blows():
    arguments = (300.0, 0.3, list(WEIGHTS), list(ROLES))
    blows = plan(5, *arguments)
    assert blows == plan(5, *arguments) != plan(6, *arguments)
    assert {blow.kind for blow in blows} == set(WEIGHTS)
    assert {blow.role for blow in blows} == {*ROLES, ""}
    assert [blow.at_s for blow in blows] == sorted(blow.at_s for blow in blows)


def test_fork_server_and_its_workers_have_different_roles(gate):
    with Executor(max_cores=1) as exe:
        call = exe.submit(hold, gate.path)
        gate.wait_until_begun()
        roles = {process.pid: role for process, role in family(os.environ[MARK], os.getpid()).items()}
        gate.open()
        worker = call.result()
    assert roles.pop(worker) == "forked worker"
    assert "fork server" in roles.values()


def test_shortage_excuses_only_calls_that_saw_it():
    board = Board.create()
    begin_s = time.monotonic()
    assert not board.was_short_since(begin_s)
    board.begin_shortage(GUARDIAN)
    board.end_shortage(MASTER)
    assert board.was_short_since(time.monotonic())
    board.end_shortage(GUARDIAN)
    assert board.was_short_since(begin_s)
    assert not board.was_short_since(time.monotonic() + 10)
    os.close(board.descriptor)


def test_thread_without_progress_is_found():
    board = Board.create()
    assert board.longest_pause() == ("", 0.0)
    board.step("block")
    assert board.longest_pause()[0] == "block"
    board.end("block")
    assert board.longest_pause() == ("", 0.0)
    os.close(board.descriptor)


def record_of(memory):
    record = Record(os.getpid())
    record.samples = [Sample(float(i), mb, mb, mb, 10, 5, 3) for i, mb in enumerate(memory)]
    return record


def test_growth_of_the_floor_is_a_failure():
    flat = [100.0 + 300 * (i % 7 == 0) for i in range(100)]
    assert record_of(flat).growth() == []
    assert "memory_mb" in record_of([100.0 + 3 * i for i in range(100)]).growth()[0]
    assert "█" in record_of(flat).curves()
    assert record_of([1.0, 1000.0]).growth() == []  # too short to tell


def test_creeping_memory_is_a_failure():
    waves = [20.0 * (i % 50 > 40) for i in range(900)]  # large arrays, now and then
    warm_up = [min(i, 60) * 0.5 for i in range(900)]
    flat = [base + wave for base, wave in zip(warm_up, waves, strict=True)]
    assert record_of(flat).growth() == []
    assert record_of([*flat[:-60], *(value + 100 for value in flat[-60:])]).growth() == []  # one more large array
    creeping = [value + i / 60 for i, value in enumerate(flat)]
    assert ["creeps" in text for text in record_of(creeping).growth()] == [True]
    assert record_of(creeping[:200]).creep_mb() is None  # too short to tell


def test_record_is_written_as_a_table(tmp_path):
    record = Record(os.getpid())
    assert record.is_due()
    assert record.take(3).memory_mb > 5
    assert not record.is_due()
    record.write(tmp_path / "table.csv")
    assert (
        (tmp_path / "table.csv")
        .read_text()
        .startswith("seconds,memory_mb,heap_mb,resident_mb,descriptors,threads,processes\n")
    )


def ended(value=None, error=None):
    future = Future()
    future.set_exception(error) if error is not None else future.set_result(value)
    return future


@pytest.mark.parametrize(
    ("call", "ending", "is_wrong"),
    [
        (Call("echo", ended(3), 3), "returned", False),
        (Call("echo", ended(4), 3), "WRONG", True),
        (Call("raise", ended(error=ValueError(3)), 3, (ValueError,)), "raised", False),
        (Call("raise", ended(error=ValueError(4)), 3, (ValueError,)), "raised", True),
        (Call("raise", ended(3), 3, (ValueError,)), "WRONG", True),
        (Call("echo", ended(error=KeyError()), 3), "UNEXPECTED", True),
        (Call("echo", ended(error=WorkerDied()), 3), "worker died", False),
        (Call("echo", ended(error=MemoryError()), 3), "UNEXPECTED", True),
        (Call("echo", Future(), 3), "HANG", True),
    ],
)
def test_verdict_on_a_call(call, ending, is_wrong):
    said, complaint = call.check(0.01, lambda since: False)
    assert (said, complaint is not None) == (ending, is_wrong)


def test_shortage_excuses_a_failed_call():
    call = Call("echo", ended(error=MemoryError()), 3)
    assert call.check(0.01, lambda since: True) == ("failed in a shortage: MemoryError", None)


def test_every_kind_of_call_can_be_made():
    for kind, make in KINDS.items():
        futures = []

        def submit(function, *arguments, futures=futures):
            futures.append(Future())
            return futures[-1]

        assert all(call.kind == kind for call in make(kind, submit, random.Random(1)))
        assert futures

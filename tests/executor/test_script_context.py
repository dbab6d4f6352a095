"""Calls see the environment of the script: arguments, import path, and multiprocessing as in a child process."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import sys
from multiprocessing import shared_memory

import pytest

from pympipool import Executor

KINDS = {
    "block": {"max_workers": 1, "block_allocation": True},
    "call": {"max_workers": 1},
    "ranks": {"max_cores": 2, "cores_per_worker": 2, "block_allocation": True},
}


@pytest.fixture(params=[*list(KINDS)[:2], pytest.param("ranks", marks=pytest.mark.mpi)])
def run(request):
    """run(function, *args): return the result of a call, with several ranks that of rank 1."""
    with Executor(**KINDS[request.param]) as exe:

        def run(function, *args):
            result = exe.submit(function, *args).result(60)
            return result[1] if request.param == "ranks" else result

        yield run


def attach(name):
    block = shared_memory.SharedMemory(name)
    first = block.buf[0]
    block.close()
    return first


def create():
    block = shared_memory.SharedMemory(create=True, size=100)
    block.buf[0] = 7
    block.close()
    return block.name


def describe_process():
    process, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    return process.name, process._identity, parent.name, parent.pid, parent.is_alive()


def test_calls_see_all_arguments_of_the_script(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study.py", "--steps", "3"])
    assert run(lambda: sys.argv) == ["study.py", "--steps", "3"]


def test_calls_see_the_import_path_of_the_script(run, monkeypatch, tmp_path):
    odd = [str(tmp_path / name) for name in ("12:30:00", "caf\udce9", "a\nb")]
    far = [f"/nowhere/{number:050d}" for number in range(5000)]
    monkeypatch.setattr(sys, "path", [*odd, *sys.path, pathlib.Path("/of/pathlib"), None, b"/of/bytes", *far])
    path = run(lambda: sys.path)
    assert path[:3] == odd
    assert path[-5001:] == [b"/of/bytes", *far]


def test_folder_with_a_colon_can_be_imported_from(run, monkeypatch, tmp_path):
    folder = tmp_path / "12:30"
    folder.mkdir()
    (folder / "module_behind_a_colon.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(folder)
    from module_behind_a_colon import answer

    assert run(answer) == 42


def test_worker_is_a_child_in_multiprocessing(run):
    name, identity, parent, pid, alive = run(describe_process)
    assert name.startswith("PympipoolWorker-")
    assert identity[0] >= 1
    assert (parent, pid, alive) == (multiprocessing.current_process().name, os.getpid(), True)


def test_manager_proxies_are_arguments(run):
    with multiprocessing.Manager() as manager:
        queue, event, lock = manager.Queue(), manager.Event(), manager.Lock()

        def use(queue, event, lock):
            with lock:
                queue.put(1)
            event.set()

        run(use, queue, event, lock)
        assert queue.get(timeout=60) == 1
        assert event.is_set()


def test_authkey_set_by_the_script_is_used(monkeypatch):
    process = multiprocessing.current_process()
    before = process.authkey
    process.authkey = b"of the script"
    try:
        with Executor(max_workers=1) as exe:
            assert exe.submit(lambda: bytes(multiprocessing.current_process().authkey)).result(60) == b"of the script"
    finally:
        process.authkey = before


@pytest.mark.parametrize("kind", ["block", "call", pytest.param("ranks", marks=pytest.mark.mpi)])
def test_shared_memory_of_the_script_outlives_workers(kind):
    with Executor(**KINDS[kind]) as exe:
        exe.submit(abs, 1).result(60)
        block = shared_memory.SharedMemory(create=True, size=100)  # the tracker may be younger than the worker
        try:
            block.buf[0] = 7
            assert exe.submit(attach, block.name).result(60) in (7, [7, 7])
            exe.shutdown()
            assert os.path.exists(f"/dev/shm/{block.name}")
        finally:
            block.close()
            block.unlink()


@pytest.mark.parametrize("kind", ["block", "call"])
def test_shared_memory_of_a_call_outlives_its_worker(kind):
    with Executor(**KINDS[kind]) as exe:
        name = exe.submit(create).result(60)
    block = shared_memory.SharedMemory(name)
    assert block.buf[0] == 7
    block.close()
    block.unlink()


FORGETFUL = """
from multiprocessing import shared_memory
from pympipool import Executor

def create():
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=100)
    return block.name

with Executor(max_workers=1) as exe:
    print(exe.submit(create).result())
"""


def test_forgotten_shared_memory_is_removed_at_the_end(tmp_path):
    from support.scripts import Script

    with Script(FORGETFUL, tmp_path) as script:
        code, stdout, _ = script.end()
        assert code == 0
        assert script.survivors() == []
    assert not os.path.exists(f"/dev/shm/{stdout.strip()}")

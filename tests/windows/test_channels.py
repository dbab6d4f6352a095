"""The compiled modules on Windows: master and worker are two processes, which share rings by handles of sections."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("_winapi", reason="only for Windows: make test-windows runs it under Wine")

import _winapi

import pympipool
from pympipool._core import ring
from pympipool._core.channel import MasterChannel
from pympipool._core.file_mapping import FileMapping
from pympipool._core.shared_memory import ArrayMemory, Mapping

LIMIT_S = 60.0

WORKER = """
import sys
from _winapi import OpenProcess
from pympipool._core.channel import Channel
from pympipool._core.ring import END, RESULT, Segment, start_watchdog
from pympipool._core.shared_memory import Mapping

SYNCHRONIZE = 0x100000
master, link, doorbells, data = map(int, sys.stdin.readline().split())
start_watchdog(OpenProcess(SYNCHRONIZE, False, master))
shared = Mapping.attach(data)
channel = Channel(Segment.attach(link), Segment.attach(doorbells))
while True:
    kind, number, tag, parts = channel.receive()
    if kind == END:
        break
    channel.send(RESULT, number, tag, [*parts, shared.parts()[0]])
"""


def duplicate(handle, process):
    """Return a handle of the same in another process."""
    here = _winapi.GetCurrentProcess()
    return _winapi.DuplicateHandle(here, handle, process, 0, False, _winapi.DUPLICATE_SAME_ACCESS)


@pytest.fixture
def worker():
    process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


@pytest.fixture
def master(worker):
    """The master's side of a link with the worker, who has a shared object of its own."""
    link, doorbells, shared = ring.link_segment(), ring.doorbell_segment(), Mapping.store([b"shared"])
    handles = [duplicate(each.fileno(), int(worker._handle)) for each in (link, doorbells, shared)]
    print(os.getpid(), *handles, file=worker.stdin, flush=True)
    channel = MasterChannel(link, doorbells)
    link.close_descriptor()
    return channel


def test_every_compiled_module_is_imported():
    root = Path(pympipool.__file__).parent
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.glob("*/*.pyd")]
    assert len(names) > 40
    for name in names:
        importlib.import_module(name)


def test_messages_of_all_sizes_come_back(master, worker):
    for size in (0, 1, 100, 70_000, 3_000_000):
        for number in range(20):
            data = bytes([number]) * size
            master.send(ring.CALL, number + 1, size, [b"call", data])
            kind, got, tag, parts = master.receive(LIMIT_S)
            assert (kind, got, tag) == (ring.RESULT, number + 1, size)
            assert [bytes(part) for part in parts] == [b"call", data, b"shared"]
    master.send(ring.END, 0, 0, [b""])
    assert worker.wait(LIMIT_S) == 0


def test_many_calls_are_sent_ahead(master, worker):
    count = 2000
    sent = received = 0
    while received < count:
        while sent < count and sent - received < 100:
            sent += 1
            master.send(ring.CALL, sent, 0, [b"%d" % sent])
        received += 1
        kind, number, _, parts = master.receive(LIMIT_S)
        assert (kind, number, bytes(parts[0])) == (ring.RESULT, received, b"%d" % received)
    assert worker.poll() is None


def test_worker_ends_with_its_master():
    """The master is killed while its worker waits for a call."""
    program = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", '''
import sys, time
from _winapi import OpenProcess
from pympipool._core.ring import start_watchdog
start_watchdog(OpenProcess(0x100000, False, {{}}))
print("watched", flush=True)
while True:
    pass
'''.format(__import__("os").getpid())], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
time.sleep({LIMIT_S})
"""
    master = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(master.stdout.readline())
    worker = _winapi.OpenProcess(0x100000, False, pid)
    master.kill()
    master.wait()
    master.stdout.close()
    assert _winapi.WaitForSingleObject(worker, int(1000 * LIMIT_S)) == _winapi.WAIT_OBJECT_0
    _winapi.CloseHandle(worker)


def test_memory_that_is_none_is_refused():
    with pytest.raises(OSError, match="is no segment"):
        ring.Segment.attach(0x7FFFFFF0)


def test_shared_array_is_written_by_both_sides():
    mine = Mapping.fill(100_000, b"\0")
    other = Mapping.attach(duplicate(mine.fileno(), _winapi.GetCurrentProcess()))
    here, there = memoryview(ArrayMemory(None, mine)), memoryview(ArrayMemory(None, other))
    here[99_999] = 5
    assert there[99_999] == 5
    there[0] = 6
    assert here[0] == 6


def test_file_is_mapped(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    with open(path, "rb") as file:
        memory = memoryview(FileMapping(file.fileno(), 8))
    memory[0] = ord("k")
    assert bytes(memory) == b"kontents"
    assert path.read_bytes() == b"contents"
    memory.release()

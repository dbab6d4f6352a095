"""Memory that calls need, and calls and results of any size."""

import gc
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import pympipool
from pympipool import Executor
from support.scripts import run_program


def pid():
    return os.getpid()


def echo(value):
    return value


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def double(array):
    array *= 2
    return array


def rss_bytes(process=None):
    return psutil.Process(process).memory_info().rss


def test_pending_calls_need_bounded_memory(make_block_executor, tmp_path):
    exe = make_block_executor()
    gate = tmp_path / "gate"
    exe.submit(echo, b"").result()
    exe.submit(wait_for, gate)
    gc.collect()
    before = rss_bytes()
    calls = [exe.submit(echo, os.urandom(1024)) for _ in range(100_000)]
    grown = rss_bytes() - before
    gate.touch()
    assert sum(len(call.result()) for call in calls) == 100_000 * 1024
    assert grown < 3 * 100_000 * 1050  # a pickled call of this kind has about 1050 bytes


def test_memory_is_constant_over_many_calls(make_block_executor):
    exe = make_block_executor()
    worker = exe.submit(pid).result()

    def run(count):
        for _ in range(count // 10_000):
            for call in [exe.submit(echo, i) for i in range(10_000)]:
                call.result()
        gc.collect()
        return rss_bytes(), rss_bytes(worker)

    before = run(100_000)
    after = run(300_000)
    assert after[0] - before[0] < 8e6
    assert after[1] - before[1] < 4e6


def test_worker_memory_is_constant_over_many_functions(make_block_executor):
    exe = make_block_executor()
    worker = exe.submit(pid).result()

    def run(count):
        for i in range(count):
            text = str(i) * 1000
            assert exe.submit(lambda text=text: len(text)).result() == len(text)
        return rss_bytes(worker)

    before = run(1000)
    assert run(3000) - before < 8e6


@pytest.mark.parametrize("size", [150_000, 300_000, 1_000_000, 2_200_000])
def test_kept_results_need_little_extra_memory(make_block_executor, size):
    exe = make_block_executor()
    exe.submit(np.ones, size // 8).result()
    gc.collect()
    before = rss_bytes()
    kept = [exe.submit(np.ones, size // 8).result() for _ in range(50)]
    assert rss_bytes() - before < 1.25 * 50 * size + 4e6
    assert all(array[-1] == 1 for array in kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told what to keep")
@pytest.mark.parametrize(
    ("name", "value", "keeps"),
    [
        ("MALLOC_ARENA_MAX", "2", True),
        ("MALLOC_TRIM_THRESHOLD_", "131072", False),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072", False),
    ],
)
def test_worker_reuses_memory_between_calls(make_block_executor, monkeypatch, name, value, keeps):
    """The user can turn this off with the variables of glibc's malloc."""
    for other in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    exe = (
        make_block_executor()
    )  # its calls are built-in functions: imports for other calls may happen to retain the heap

    def faults():
        return exe.submit(resource.getrusage, resource.RUSAGE_SELF).result().ru_minflt

    large = [bytes(200_000)]
    faults()  # the imports of this call take their memory first
    for _ in range(100):
        exe.submit(list, large).result()
    before = faults()
    for _ in range(100):
        exe.submit(list, large).result()
    assert (
        faults() - before < 1000
    ) == keeps  # if malloc returns the pages to the system, there are more than 50 faults a call


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 19) + 1, 40_000_000])
def test_arrays_of_any_size_arrive_writable_and_private(make_block_executor, size):
    exe = make_block_executor()
    sent = np.arange(size, dtype=np.uint8)
    kept = sent.copy()
    received = exe.submit(double, sent).result()
    assert received.flags.writeable
    assert np.array_equal(received, kept * 2)
    assert np.array_equal(sent, kept)


SMALL_SHM = """
import os, numpy as np
from pympipool import Executor
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 16 << 20
def total(array):
    return float(array.sum())
def make(size):
    return np.ones(size)
if __name__ == "__main__":
    size = 300_000_000 // 8
    with Executor(max_workers=1, block_allocation=True) as exe:
        assert exe.submit(total, np.ones(size)).result() == size
        assert exe.submit(make, size).result().sum() == size
    print("both ways")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small /dev/shm takes root: run the tests as root")
def test_300_mb_travel_despite_16_mb_of_shm(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SMALL_SHM)
    command = f"mount -t tmpfs -o size=16m tmpfs /dev/shm && exec {sys.executable} {script}"
    command = ["unshare", "--mount", "sh", "-c", command]
    source = str(Path(pympipool.__file__).parents[1])
    done = run_program(command, timeout_s=100, env={**os.environ, "PYTHONPATH": source})
    if "Operation not permitted" in done.stderr:
        pytest.skip("no mount namespaces here: run the tests with CAP_SYS_ADMIN")
    assert done.stdout.strip() == "both ways", done.stderr


def test_call_too_large_for_memory_raises(make_block_executor):
    exe = make_block_executor()
    assert isinstance(exe.submit(np.ones, 1 << 50).exception(), MemoryError)
    assert exe.submit(pow, 2, 3).result() == 8


def test_executor_without_calls_opens_and_closes_quickly():
    for _ in range(5):
        with Executor(max_workers=1, block_allocation=True):
            pass

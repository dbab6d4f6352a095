"""The limits of the machine: the ring alone, memory copies, and the transfer of a cache line between two cores.

This module compiles ring.c with the C core of this tree and the flags of setup.py, and runs it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from pympipool._core.ring import RING_CAPACITY

ROOT = Path(__file__).resolve().parent.parent
C_FLAGS = ["-std=gnu11", "-O2", "-pthread", "-I", str(ROOT / "csrc")]

RECORD_BYTES = (8, 64, 512, 4096, 32_768, 131_072)

TRANSFER_BYTES = 64_000_000
"""Most bytes that one measurement of a stream or of memcpy moves."""

RingTable = list[tuple[int, float, float, float]]
"""Rows of: bytes of a record, ns of a round trip, ns per record in a stream, ns of a memcpy."""

_folder = tempfile.TemporaryDirectory(prefix="pympipool-bench-")


class NoCompiler(RuntimeError):
    """The machine has no C compiler."""


@functools.cache
def ring_program() -> Path:
    """Compile ring.c and return the path of the program.

    Raises:
        NoCompiler: names the package to install.
    """
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise NoCompiler(f"there is no C compiler {compiler!r}: apt-get install gcc")
    program = Path(_folder.name, "ring")
    capacity = f"-DCAPACITY=UINT64_C({RING_CAPACITY})"  # the capacity of the rings of a worker
    core = [*(ROOT / "csrc").glob("ring*.c"), ROOT / "csrc/doorbell.c", *(ROOT / "csrc/platform").glob("*.c")]
    sources = [str(path) for path in (ROOT / "benchmarks/ring.c", *core)]
    subprocess.run([compiler, *C_FLAGS, capacity, *sources, "-o", str(program)], check=True)
    return program


def run_ring(operation: str, size_bytes: int, count: int) -> float:
    """Run one measurement of ring.c and return ns per operation."""
    command = [str(ring_program()), operation, str(size_bytes), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def spin_round_trip() -> float:
    """Return the seconds that a cache line takes to another core and back."""
    return run_ring("spin", 0, 200_000) * 1e-9


def records_per_second() -> float:
    """Return the rate of one ring, for records of the size of a no-op call."""
    return 1e9 / run_ring("stream", 64, 500_000)


def copy_time(size_bytes: int) -> float:
    """Return the seconds of one memcpy of this size, between memory that was touched before."""
    return run_ring("memcpy", size_bytes, max(TRANSFER_BYTES // size_bytes, 3)) * 1e-9


def ring_by_record_size(rounds: int) -> RingTable:
    """Return the medians of alternating rounds, for each size of a record."""
    table: RingTable = []
    for size_bytes in RECORD_BYTES:
        samples = [
            (
                run_ring("ping-pong", size_bytes, 20_000),
                run_ring("stream", size_bytes, max(TRANSFER_BYTES // size_bytes // 4, 1000)),
                run_ring("memcpy", size_bytes, max(TRANSFER_BYTES // size_bytes, 1000)),
            )
            for _ in range(rounds)
        ]
        round_trip, stream, copy = (statistics.median(column) for column in zip(*samples, strict=True))
        table.append((size_bytes, round_trip, stream, copy))
    return table


def instructions(operation: str, size_bytes: int) -> float:
    """Return the instructions of one push, or of one push and pop. Callgrind counts the same number in every run."""
    few, many = (_collected(operation, size_bytes, count) for count in (1000, 3000))
    return (many - few) / 2000


def _collected(operation: str, size_bytes: int, count: int) -> int:
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command = [*valgrind, str(ring_program()), operation, str(size_bytes), str(count)]
    report = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stderr
    found = re.search(r"Collected : (\d+)", report)
    if found is None:
        raise RuntimeError(f"callgrind printed no count of instructions:\n{report}")
    return int(found[1])

"""What a trace tells of the modules that calls import, and of the sizes of what is sent."""

import traceback

import pytest

from pympipool import Executor, trace
from pympipool.diagnostics.tracing.load import read
from support.calls import echo, square

pytestmark = [
    pytest.mark.anywhere,
    pytest.mark.only_at("this machine", "tcp", reason="the modules are on this machine"),
]

SLEEP_NS = 50_000_000


@pytest.fixture
def modules(tmp_path):
    """Return a folder of packages: `outer` imports `inner`, which takes 50 ms; `broken` raises."""
    for name, text in (
        ("inner", f"import time; time.sleep({SLEEP_NS / 1e9})"),
        ("outer", "import inner"),
        ("broken", "raise ValueError('not today')"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    return str(tmp_path)


def modules_of(call):
    """Return those of our modules that a call has imported. Unpickling functions of tests may look for others."""
    return [name for name in call.imports_ns if name in ("inner", "outer", "broken")]


def import_module(folder, name):
    import importlib
    import sys

    sys.path.insert(0, folder)
    importlib.import_module(name)
    return __import__(name).__name__


def test_import_time_counts_for_the_package_asked_for(make_executor, modules, tmp_path):
    with trace(tmp_path / "run.json") as seen:
        exe = make_executor()
        for name in ("outer", "outer", "inner"):
            assert exe.submit(import_module, modules, name).result() == name
        exe.submit(square, 2).result()
        exe.shutdown()
    first, *_, last = seen.timeline.calls
    assert modules_of(first) == ["outer"]
    assert SLEEP_NS <= first.imports_ns["outer"] <= first.import_ns <= first.run_ns
    assert modules_of(last) == []
    assert read(tmp_path / "run.json") == seen.timeline
    assert "of that: imports modules" in seen.report()


def test_imports_between_calls_belong_to_no_call(make_block_executor, modules):
    with trace() as seen:
        exe = make_block_executor()
        exe.submit(square, 2).result()
        exe.submit(import_module, modules, "outer").result()
        exe.submit(import_module, modules, "outer").result()
        exe.shutdown()
    assert [modules_of(call) for call in seen.timeline.calls] == [[], ["outer"], []]


def test_failed_import_has_its_usual_traceback(make_executor, modules):
    lines = []
    for is_traced in (False, True):
        exe = make_executor()
        if is_traced:
            with trace():
                error = exe.submit(import_module, modules, "broken").exception()
        else:
            error = exe.submit(import_module, modules, "broken").exception()
        lines.append([(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)])
        lines[-1] += [line for line in str(error.__cause__).splitlines() if "pid" not in line]
    assert lines[0] == lines[1]


def test_sizes_are_those_of_pickles(make_executor, tmp_path):
    with trace(tmp_path / "run.json") as seen:
        exe = make_executor()
        exe.submit(echo, bytes(3_000_000)).result()
        exe.submit(square, 2).result()
        exe.submit(echo, (n for n in "ab")).exception()
        exe.shutdown()
    large, small, failed = seen.timeline.calls
    assert 3_000_000 < large.argument_bytes < 3_010_000
    assert 3_000_000 < large.result_bytes < 3_010_000
    assert 0 < small.argument_bytes < 1000
    assert 0 < small.result_bytes < 1000
    assert (failed.argument_bytes, failed.result_bytes) == (None, None)
    assert read(tmp_path / "run.json") == seen.timeline


def test_sizes_of_a_map_are_shared_out(make_block_executor):
    with trace() as seen:
        exe = make_block_executor()
        list(exe.map(echo, [bytes([n]) * 100_000 for n in range(4)], chunksize=4))
        exe.shutdown()
    [function] = seen.summary().functions
    assert 100_000 < function.argument_bytes < 101_000
    assert 100_000 < function.result_bytes < 101_000
    assert "100 kB" in seen.report()


@pytest.mark.mpi
def test_imports_of_ranks_are_those_of_rank_0(modules):
    with trace() as seen, Executor(max_workers=1, cores_per_worker=2, block_allocation=True, oversubscribe=True) as exe:
        exe.submit(import_module, modules, "outer").result()
    [call] = seen.timeline.calls
    assert modules_of(call) == ["outer"]
    assert len(call.ranks_ns) == 2

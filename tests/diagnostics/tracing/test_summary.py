"""Summaries and findings: of made-up traces, whose numbers are known, and of real runs."""

import dataclasses
import json

import pytest

from pympipool import Executor, trace
from pympipool.cli import main
from pympipool.diagnostics.tracing.export import write
from pympipool.diagnostics.tracing.findings import find_findings
from pympipool.diagnostics.tracing.load import read
from pympipool.diagnostics.tracing.report import format_report
from pympipool.diagnostics.tracing.summary import Distribution, longest_path, summarize
from pympipool.diagnostics.tracing.timeline import Call, ExecutorRecord, Timeline, Worker
from support.calls import add, echo, fail, sleep_and_return, square
from support.timing import best

MS = 1_000_000

ON_THIS_MACHINE = {"backend": "mpi", "cores_per_worker": 1, "mp_context": None}


def make_timeline(calls, *, workers=2, length=1000, block=True, lives=None, info=None):
    """Make a trace from times in ms.

    Calls: (worker, submitted, ready, sent, started, ended, received, other attributes).
    """
    lives = lives or [(number, 0, 0, length) for number in range(1, workers + 1)]
    return Timeline(
        "2026-01-02T03:04:05.678+00:00",
        length * MS,
        "master",
        17,
        [ExecutorRecord(1, {"block_allocation": block, "max_workers": workers, **ON_THIS_MACHINE, **(info or {})})],
        [
            Worker(1, number, (("node", 100 + number),), started * MS, ready * MS, gone * MS)
            for number, started, ready, gone in lives
        ],
        [
            Call(number, "f", 1, worker, 1, "returned", *(time * MS for time in times), **more)
            for number, (worker, *times, more) in enumerate(calls, 1)
        ],
    )


def remedies(timeline):
    return " / ".join(f"{finding.message}: {finding.remedy}" for finding in find_findings(summarize(timeline)))


def test_stages_of_a_call_sum_to_its_time():
    timeline = make_timeline(
        [
            (1, 0, 10, 20, 30, 130, 140, {}),
            (1, 0, 5, 20, 135, 235, 240, {}),  # waits behind the first until 130
            (1, 0, 240, 250, 260, 360, 365, {"inputs": (2,)}),
        ],
        workers=1,
        length=400,
    )
    [executor] = summarize(timeline).executors
    totals = {name: distribution.total_ns // MS for name, distribution in executor.stages.items() if distribution.count}
    assert totals == {
        "pickling": 15,
        "inputs": 240,
        "worker": 35,
        "queued": 110,
        "dispatch": 25,
        "run": 300,
        "return": 20,
        "overhead": 60,
    }
    assert executor.stages["run"] == Distribution(3, 300 * MS, 100 * MS, 100 * MS, 100 * MS)
    assert executor.queue_max == 2


def test_idle_time_has_one_reason_at_a_time():
    timeline = make_timeline(
        [
            (1, 0, 0, 0, 100, 200, 200, {}),  # on its way for 100
            (1, 0, 300, 300, 300, 400, 400, {"inputs": (1,)}),  # waits for its input for 100 after the worker was free
            (1, 600, 600, 600, 600, 1000, 1000, {}),  # nothing was there for 200
        ],
        workers=1,
    )
    [worker] = summarize(timeline).executors[0].workers
    assert (worker.life_ns, worker.busy_ns, worker.starting_ns) == (1000 * MS, 600 * MS, 0)
    assert (worker.idle_ready_ns, worker.idle_blocked_ns, worker.idle_empty_ns) == (100 * MS, 100 * MS, 200 * MS)
    assert worker.idle_ns == worker.life_ns - worker.busy_ns


def test_workers_of_single_calls_share_tracks():
    timeline = make_timeline(
        [(1, 0, 0, 50, 50, 100, 100, {}), (2, 0, 0, 60, 60, 90, 90, {}), (3, 0, 0, 160, 160, 200, 200, {})],
        block=False,
        lives=[(1, 0, 50, 110), (2, 0, 60, 100), (3, 105, 160, 210)],
        length=210,
    )
    [executor] = summarize(timeline).executors
    assert [(worker.name, worker.calls, worker.starting_ns // MS) for worker in executor.workers] == [
        ("place 1", 1, 50),
        ("place 2", 2, 115),
    ]
    assert executor.stages["start"].total_ns == (50 + 60 + 55) * MS


def test_critical_path_follows_inputs():
    timeline = make_timeline(
        [
            (1, 0, 0, 0, 0, 100, 100, {}),
            (2, 0, 0, 0, 0, 300, 300, {}),
            (1, 0, 300, 300, 300, 400, 400, {"inputs": (1, 2)}),
            (2, 0, 0, 300, 300, 350, 350, {}),
            (1, 0, 400, 400, 400, 900, 900, {"inputs": (1, 3)}),
        ]
    )
    assert [call.number for call in longest_path(timeline.calls)] == [2, 3, 5]
    [executor] = summarize(timeline).executors
    assert executor.path_ns == 900 * MS
    assert "3 calls, each of which needs the result of the one before (f → f → f)" in remedies(timeline)


def test_critical_path_that_started_late_is_found():
    timeline = make_timeline(
        [
            *((1 + n % 2, 0, 0, 0, n // 2 * 100, n // 2 * 100 + 100, n // 2 * 100 + 100, {}) for n in range(8)),
            (1, 0, 0, 0, 400, 900, 900, {}),
            (1, 0, 900, 900, 900, 1000, 1000, {"inputs": (9,)}),
        ]
    )
    assert "also waited for workers for 400 ms: submit the calls that start the longest chains first" in remedies(
        timeline
    )


def test_single_call_is_no_critical_path():
    assert longest_path(make_timeline([(1, 0, 0, 0, 0, 100, 100, {})]).calls) == ()


REPEATED_IMPORTS = [(n, 0, 0, 0, 0, 100, 100, {"imports_ns": {"ase": 50 * MS}}) for n in range(1, 5)]

FINDINGS = {
    "block_allocation=True": make_timeline(
        [(n, n * 50, n * 50, n * 50 + 40, n * 50 + 40, n * 50 + 45, n * 50 + 45, {}) for n in range(1, 15)],
        block=False,
        lives=[(n, n * 50, n * 50 + 40, n * 50 + 46) for n in range(1, 15)],
    ),
    "use exe.map()": make_timeline(
        [(1, n * 10, n * 10 + 1, n * 10 + 1, n * 10 + 3, n * 10 + 4, n * 10 + 6, {}) for n in range(50)]
    ),
    "share what many calls need (pympipool.share)": make_timeline(
        [(1, 0, 0, n * 100, n * 100 + 40, n * 100 + 90, n * 100 + 100, {}) for n in range(10)], workers=1
    ),
    "submit calls before doing anything else": make_timeline(
        [(1, n * 100, n * 100, n * 100, n * 100, n * 100 + 20, n * 100 + 20, {}) for n in range(10)]
    ),
    "submit the longest calls first": make_timeline(
        [
            *((1 + n % 2, 0, 0, 0, n // 2 * 10, n // 2 * 10 + 10, n // 2 * 10 + 10, {}) for n in range(20)),
            (1, 0, 0, 0, 100, 1000, 1000, {}),
        ],
        workers=4,
    ),
    "more cores would help": make_timeline(
        [(1 + n % 2, 0, 0, n // 2 * 50, n // 2 * 50, n // 2 * 50 + 50, n // 2 * 50 + 50, {}) for n in range(40)]
    ),
    "create one executor": make_timeline(
        [(1, 0, 0, 600, 600, 1000, 1000, {})], lives=[(1, 0, 600, 1000), (2, 0, 600, 1000)]
    ),
    "distribute the work more evenly among the ranks": make_timeline(
        [(1, 0, 0, 0, 0, 1000, 1000, {"ranks_ns": ((0, 200 * MS), (0, 1000 * MS))})], workers=1
    ),
    "let the trace end after the executor": dataclasses.replace(
        make_timeline([]),
        calls=[Call(1, "f", 1, 0, 1, "unfinished", 0, 0, None, None, None, None)],
    ),
    'with preload=["ase"]': make_timeline(
        REPEATED_IMPORTS,
        block=False,
        lives=[(n, 0, 0, 100) for n in range(1, 5)],
        info={"preload": None},
    ),
    "let each worker run more calls (max_tasks_per_child)": make_timeline(REPEATED_IMPORTS, workers=4),
    "each call of f() carries 80 MB (3 calls)": make_timeline(
        [(1, 0, 0, n * 100, n * 100, n * 100 + 90, n * 100 + 90, {"argument_bytes": 80_000_000}) for n in range(3)]
    ),
    "each call of f() returns 80 MB (3 calls)": make_timeline(
        [(1, 0, 0, n * 100, n * 100, n * 100 + 90, n * 100 + 90, {"result_bytes": 80_000_000}) for n in range(3)]
    ),
    "raise max_calls": dataclasses.replace(make_timeline([(1, 0, 0, 0, 0, 1000, 1000, {})]), dropped=3),
    "look at what their futures raise": make_timeline([(1, 0, 0, 0, 0, 1000, 1000, {})]),
}
FINDINGS["look at what their futures raise"].calls[0].outcome = "error"


@pytest.mark.parametrize(
    "info", [{"backend": "slurm"}, {"cores_per_worker": 2}, {"mp_context": "spawn"}, {"preload": ["ase"]}], ids=str
)
def test_preload_is_advised_only_where_it_helps(info):
    lives = [(n, 0, 0, 100) for n in range(1, 5)]
    advice = remedies(make_timeline(REPEATED_IMPORTS, block=False, lives=lives, info=info))
    assert "calls import modules again and again (ase): for 50 % of the time" in advice
    assert "block_allocation=True: its workers import once" in advice
    assert "preload" not in advice


def test_imports_of_first_calls_are_no_finding():
    calls = [(1, 0, 0, 0, n * 100, n * 100 + 100, n * 100 + 100, {}) for n in range(4)]
    calls[0][-1]["imports_ns"] = {"ase": 90 * MS}
    timeline = make_timeline(calls, workers=1, length=400)
    assert "import" not in remedies(timeline)
    assert summarize(timeline).functions[0].import_ns == 90 * MS


@pytest.mark.parametrize("remedy", FINDINGS)
def test_each_finding_has_its_remedy(remedy):
    assert remedy in remedies(FINDINGS[remedy])


def test_efficient_run_has_no_findings():
    timeline = make_timeline(
        [(1 + n % 2, 0, 0, 0, n // 2 * 250, n // 2 * 250 + 249, n // 2 * 250 + 250, {}) for n in range(8)]
    )
    timeline.calls = [
        dataclasses.replace(call, sent_ns=call.started_ns, ready_ns=call.started_ns) for call in timeline.calls
    ]
    assert "Nothing stands out." in format_report(summarize(timeline)) or "these workers cannot be faster" in remedies(
        timeline
    )


# ---- real runs, and the command ----


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The trace of a run with calls of each kind, in which the start of processes takes most of the time."""
    path = tmp_path_factory.mktemp("trace") / "run.json"

    def work_dominates():
        """Return True if starts of processes do not stand out: a call without a core for a while seems to work."""
        run_calls_of_each_kind(path)
        return "block_allocation" not in remedies(read(path))

    assert not best(work_dominates, 1)
    return path


def run_calls_of_each_kind(path):
    with trace(path):
        with Executor(max_workers=2, block_allocation=True) as exe:
            some = [exe.submit(sleep_and_return, 0.01, n) for n in range(10)]
            exe.submit(add, some[0], some[9]).result()
            exe.submit(fail).exception()
            exe.submit(echo, (n for n in "ab")).exception()
            assert len(list(exe.map(square, range(1000)))) == 1000
        with Executor(max_workers=2) as exe:
            for future in [exe.submit(sleep_and_return, 0.001) for _ in range(12)]:
                future.result()


def test_trace_command_prints_report(file, capsys):
    assert main(["trace", str(file)]) == 0
    output = capsys.readouterr().out
    for line in (
        "1 025 calls, in ",
        "Functions ",
        "Executor 1: block allocation, max_workers=2",
        "Executor 2: a process for each call, max_workers=2",
        "Where the time of a call goes",
        "waits for results of other calls",
        "its process starts",
        "Longest calls",
        "What to change",
        "ended without a result, of echo, fail",
        "block_allocation=True",
    ):
        assert line in output
    assert max(map(len, output.splitlines())) <= 120


def test_trace_command_prints_json(file, capsys):
    assert main(["trace", "--json", str(file)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["calls"] == 1025
    assert data["outcomes"]["returned"] == 1023
    assert {function["name"] for function in data["functions"]} >= {"sleep_and_return", "add", "square"}
    assert data["executors"][0]["stages"]["run"]["count"] == data["messages"] - 12 - 1
    assert any("block_allocation" in finding["remedy"] for finding in data["findings"])


def test_trace_command_reports_unreadable_files(tmp_path, capsys):
    path = tmp_path / "other.json"
    assert main(["trace", str(path)]) == 1
    path.write_text("{}")
    assert main(["trace", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "No such file" in captured.err
    assert "is no trace of pympipool: write one with" in captured.err


# ---- the picture ----


@pytest.mark.slow
def test_trace_command_draws_picture(file, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="no matplotlib: pip install matplotlib")
    for ending, magic in ((".png", b"\x89PNG"), (".svg", b"<svg "), (".pdf", b"%PDF")):
        path = tmp_path / f"run{ending}"
        assert main(["trace", str(file), "--plot", str(path)]) == 0
        assert path.read_bytes().startswith(magic)
    text = (tmp_path / "run.svg").read_text()
    for label in (
        "worker 1",
        "worker 2",
        "place 1",
        "1 025 calls in",
        "sleep_and_return",
        "no result",
        "worker starts",
    ):
        assert f">{label}" in text
    assert main(["trace", str(file), "--plot", str(tmp_path / "run.nonsense")]) == 1
    assert "Format 'nonsense' is not supported" in capsys.readouterr().err


def test_tracks_with_too_many_calls_show_shares(tmp_path):
    pytest.importorskip("matplotlib", reason="no matplotlib: pip install matplotlib")
    from pympipool.diagnostics.tracing.plot import BINS, draw

    calls = [
        (1 + n % 2, n // 2, n // 2, n // 2, n // 2, n // 2 + (1 if n < 2000 else 0), n // 2 + 1, {})
        for n in range(4000)
    ]
    figure = draw(make_timeline(calls, length=2000), tmp_path / "run.png")
    assert len(figure.axes[0].patches) < 20
    filled = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    assert len(filled) == 2
    assert len(filled[0].get_data().values) == BINS + 1


def test_drawing_a_trace_without_calls_raises():
    pytest.importorskip("matplotlib", reason="no matplotlib: pip install matplotlib")
    with trace() as seen:
        pass
    with pytest.raises(ValueError, match="the trace has no calls"):
        seen.plot()


def test_report_and_file_of_hundreds_of_workers(tmp_path):
    lives = [(number, 0, 0, 1000) for number in range(1, 301)]
    timeline = make_timeline([(n, 0, 0, 0, 0, 1000, 1000, {}) for n in range(1, 301)], workers=300, lives=lives)
    text = format_report(summarize(timeline))
    assert "289 others" in text
    write(timeline, tmp_path / "run.json", compressed=False)
    names = [
        one for one in json.loads((tmp_path / "run.json").read_text())["traceEvents"] if one["name"] == "thread_name"
    ]
    assert len(names) == 300

"""Output of an executor about workers on another host: traces, logs, HTML, and the number of workers."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import jsonschema
import pytest

from executor.test_error_log_file import ENTRY
from pympipool import Executor, trace
from pympipool.diagnostics.tracing.load import read
from support.calls import divide, hold, sleep_and_return, square
from support.slurm_cluster import MODES, Cluster
from support.trace_events import SCHEMA, check_nesting
from support.waiting import wait_until

MS = 1_000_000
ALL_OF_A_HOST = {"threads_per_core": 8}
"""Resources that occupy all configured cores of a host, so that each worker is on its own host."""


@pytest.fixture
def make_executor(job, second_host, opened):
    def make(max_cores, *arguments, **parameters):
        options = {"backend": "slurm", "block_allocation": True, "command_line_argument_lst": list(arguments)}
        opened.append(Executor(max_cores=max_cores, **{**options, **parameters}))
        return opened[-1]

    return make


@pytest.fixture(params=["from the first host", "from the second host"])
def hosts_of_ranks(request, second_host, cluster: Cluster, monkeypatch, tmp_path):
    """Return the hosts of a worker's two ranks in rank order, and the arguments of srun that place them there."""
    hosts = [cluster.first, second_host]
    if request.param == "from the second host":
        hosts.reverse()
    (tmp_path / "hosts").write_text("\n".join(hosts))
    monkeypatch.setenv("SLURM_HOSTFILE", str(tmp_path / "hosts"))
    return hosts, ["--nodes=2", "--distribution=arbitrary"]


def assert_in_order(call):
    times = [call.submitted_ns, call.ready_ns, call.sent_ns, call.started_ns, call.ended_ns, call.received_ns]
    assert None not in times
    assert times == sorted(times)


# ---- traces ----


def read_valid(path):
    """Return the events and the timeline of a file, which must be valid."""
    events = json.loads(path.read_text())
    jsonschema.validate(events, SCHEMA)
    check_nesting(events["traceEvents"])
    return events["traceEvents"], read(path)


def clocks_apart(exe):
    """Return lower and upper bound of the correction of a worker's clock. They are equal if the clock is the same."""
    before_ns = time.monotonic_ns()
    there_ns = exe.submit(time.monotonic_ns).result()
    after_ns = time.monotonic_ns()
    low, high = before_ns - there_ns, after_ns - there_ns
    return (0, 0) if low <= 0 <= high else (low, high)


@MODES
def test_trace_times_are_on_the_master_clock(make_executor, cluster, tmp_path, block_allocation):
    file = tmp_path / "run.json"
    hosts = [cluster.first, cluster.second]
    with trace(file) as seen:
        executors = [make_executor(1, f"--nodelist={host}", block_allocation=block_allocation) for host in hosts]
        for exe in executors:
            assert [exe.submit(square, i).result() for i in range(3)] == [0, 1, 4]
            assert exe.submit(sleep_and_return, 0.05).result() is None
            assert list(exe.map(time.sleep, [0.002] * 4, chunksize=4)) == [None] * 4
        apart = {host: clocks_apart(exe) for host, exe in zip(hosts, executors, strict=True)}
        for exe in executors:
            exe.shutdown()
    events, timeline = read_valid(file)
    assert timeline == seen.timeline
    for call in timeline.calls:
        assert_in_order(call)
        assert call.ended_ns <= timeline.duration_ns
    assert [call.run_ns >= 50 * MS for call in timeline.calls if call.name == "sleep_and_return"] == [True, True]
    batches = [call for call in timeline.calls if call.name == "sleep" and call.size == 4]
    assert len(batches) == 2
    for batch in batches:
        ends = [batch.started_ns, *batch.items_ns, batch.ended_ns]
        assert len(ends) == 6
        assert ends == sorted(ends)
    assert {worker.host for worker in timeline.workers} == set(hosts)
    for worker in timeline.workers:
        low, high = apart[worker.host]
        assert low - worker.clock_uncertainty_ns <= worker.clock_offset_ns <= high + worker.clock_uncertainty_ns
    told = {(event["pid"], event["args"]["host"]) for event in events if event.get("cat") == "call"}
    assert told == {(number, host) for number, host in enumerate(hosts, 1)}
    assert (f"The clocks of {cluster.second} were corrected" in " ".join(seen.report().split())) is (
        apart[cluster.second] != (0, 0)
    )


def begun_and_ended(_):
    begun_ns = time.monotonic_ns()
    time.sleep(0.02)
    return socket.gethostname(), begun_ns, time.monotonic_ns()


@pytest.mark.mpi
def test_trace_has_times_of_ranks_on_both_hosts(make_executor, cluster, hosts_of_ranks, tmp_path):
    hosts, arguments = hosts_of_ranks
    exe = make_executor(2, *arguments, cores_per_worker=2)
    exe.submit(square, 0).result()
    file = tmp_path / "run.json"
    with trace(file) as seen:
        results = [exe.submit(begun_and_ended, i).result() for i in range(5)]
    assert [[host for host, _, _ in result] for result in results] == [hosts] * 5
    events, timeline = read_valid(file)
    assert timeline == seen.timeline
    (worker,) = timeline.workers
    assert [host for host, _ in worker.ranks] == hosts
    assert [host for host, _, _ in worker.clocks] == hosts[1:]
    shifts = {
        worker.host: worker.clock_offset_ns,
        **{host: clock_offset_ns for host, clock_offset_ns, _ in worker.clocks},
    }
    assert shifts[cluster.first] == 0  # also if rank 0, whose clock gives all times of the call, is on the other host
    is_another_clock = shifts[cluster.second] != 0
    assert (f"The clocks of {cluster.second} were corrected" in " ".join(seen.report().split())) is is_another_clock
    for call, result in zip(timeline.calls, results, strict=True):
        assert_in_order(call)
        for (begun_ns, ended_ns), (_, begun_there_ns, ended_there_ns) in zip(call.ranks_ns, result, strict=True):
            assert call.started_ns <= begun_ns <= ended_ns <= call.ended_ns
            assert ended_ns - begun_ns >= ended_there_ns - begun_there_ns >= 20 * MS
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    for event in events:
        if event.get("cat") == "rank":
            assert event["args"]["host"] == hosts[event["args"]["rank"]]
            assert names[event["tid"]].endswith(f"rank {event['args']['rank']} on {event['args']['host']}")


# ---- what is shown ----


def test_workers_are_shown_with_their_hosts(make_executor, cluster, gate):
    exe = make_executor(16, **ALL_OF_A_HOST)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    wait_until(lambda: len(exe.info["workers"]) == 2)
    hosts = sorted([cluster.first, cluster.second])
    assert sorted(worker["host"] for worker in exe.info["workers"]) == hosts
    assert all(worker["hosts"] == [worker["host"]] for worker in exe.info["workers"])
    assert f"2 workers on {', '.join(hosts)}; 1 running," in repr(exe)
    card = exe._repr_html_()
    for worker in exe.info["workers"]:
        assert f'<span class="host">{worker["host"]}</span>' in card
        assert f"<td>{worker['host']}</td><td>{worker['pid']}</td>" in card
    gate.open()
    held.result()


@pytest.mark.mpi
def test_worker_on_both_hosts_is_listed_with_both(make_executor, hosts_of_ranks):
    hosts, arguments = hosts_of_ranks
    exe = make_executor(2, *arguments, cores_per_worker=2)
    exe.submit(square, 0).result()
    (worker,) = exe.info["workers"]
    assert (worker["host"], worker["hosts"]) == (hosts[0], hosts)
    assert f"1 worker on {', '.join(sorted(hosts))};" in repr(exe)
    assert f'<span class="host">{", ".join(hosts)}</span>' in exe._repr_html_()


# ---- more workers, or less ----


def test_workers_come_and_go(make_executor):
    exe = make_executor(8, **ALL_OF_A_HOST)
    for number in [2, 1, 2, 1]:
        exe.max_workers = number
        assert list(exe.map(square, range(100))) == [i * i for i in range(100)]
        wait_until(lambda number=number: len(exe.info["workers"]) == number)
        assert len({worker["host"] for worker in exe.info["workers"]}) == number


def test_a_worker_too_many_ends_after_its_call(make_executor, cluster, gate):
    exe = make_executor(16, **ALL_OF_A_HOST)
    calls = [exe.submit(hold, gate.path, i) for i in range(2)]
    gate.wait_until_begun(2)
    exe.max_workers = 1
    later = exe.submit(socket.gethostname)
    gate.open(2)
    assert [call.result() for call in calls] == [0, 1]
    assert later.result() in {cluster.first, cluster.second}
    wait_until(lambda: len(exe.info["workers"]) == 1)
    assert exe.info["workers"][0]["host"] == exe.submit(socket.gethostname).result()


def test_resizing_changes_the_number_of_parallel_calls(make_executor, gate):
    exe = make_executor(1, block_allocation=False)
    calls = [exe.submit(hold, gate.path, i) for i in range(6)]
    gate.wait_until_begun()
    exe.max_workers = 3
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 3)
    exe.max_workers = 1
    gate.open(3)
    gate.wait_until_begun()
    wait_until(lambda: len(exe.info["workers"]) == 1)
    assert sum(call.running() for call in calls) == 1
    gate.open(3)
    assert [call.result() for call in calls] == list(range(6))


# ---- error_log_file ----


@MODES
def test_failures_on_both_hosts_share_one_log_file(make_executor, cluster, tmp_path, monkeypatch, block_allocation):
    monkeypatch.chdir(tmp_path)
    for host in (cluster.first, cluster.second):
        exe = make_executor(
            1, f"--nodelist={host}", error_log_file="errors.log", cwd="/", block_allocation=block_allocation
        )
        with pytest.raises(ZeroDivisionError):
            exe.submit(divide, 7, y=0).result()
    text = Path("errors.log").read_text()
    assert [(name, where.split(",")[0]) for name, where in ENTRY.findall(text)] == [
        ("divide", f"worker 1 (host {cluster.first}"),
        ("divide", f"worker 1 (host {cluster.second}"),
    ]
    assert text.count("\n    argument 1: 7\n    y: 0\nTraceback (most recent call last):\n") == 2


@pytest.mark.mpi
def test_ranks_of_both_hosts_share_one_log_file(make_executor, hosts_of_ranks, tmp_path):
    hosts, arguments = hosts_of_ranks
    log = tmp_path / "errors.log"
    exe = make_executor(2, *arguments, cores_per_worker=2, error_log_file=log)
    with pytest.raises(ZeroDivisionError):
        exe.submit(divide, 7, y=0).result()
    exe.shutdown()
    found = [re.search(r"rank (\d) .*host (\w+)", where).groups() for _, where in ENTRY.findall(log.read_text())]
    assert sorted(found) == [("0", hosts[0]), ("1", hosts[1])]


def test_unwritable_log_on_other_host_keeps_the_exception(make_executor, cluster, tmp_path, capfd):
    log = tmp_path / "covered" / "folder" / "errors.log"
    log.parent.mkdir(parents=True)
    cluster.on_second("mount", "-t", "tmpfs", "tmpfs", str(log.parent.parent))
    try:
        exe = make_executor(1, f"--nodelist={cluster.second}", error_log_file=log)
        with pytest.raises(ZeroDivisionError):
            exe.submit(divide, 7, y=0).result()
        exe.shutdown()
    finally:
        cluster.on_second("umount", str(log.parent.parent))
    assert not log.exists()
    assert f"pympipool: error_log_file {log} cannot be written" in capfd.readouterr().err

"""The suite itself: a failing peer ends only its own process, and measurements are stored."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import report, shared_data
from benchmarks.cases import CASES, find_case
from benchmarks.peer_process import PeerProcess, PeerProcesses, SampleFailed
from benchmarks.peers import OURS, PEERS, Feature, find_peer
from benchmarks.results import Conditions, Results
from benchmarks.rounds import Comparison, compare
from benchmarks.samples import Effort
from benchmarks.summary import ROWS, format_faster_peers, format_summary, with_summary
from benchmarks.targets import TARGETS

STANDARD = find_peer("ProcessPoolExecutor")
ROUND_TRIP = find_case("round-trip-no-op-call")
BRIEF = Effort(rounds=1, other_rounds=1, budget_s=0.02)
LONG = Effort(budget_s=1000.0)


@pytest.fixture
def peer_process() -> Iterator[PeerProcess]:
    opened = PeerProcess(STANDARD)
    yield opened
    opened.kill()


def test_peer_process_takes_samples(peer_process: PeerProcess) -> None:
    p50, p99 = peer_process.sample(ROUND_TRIP.name, BRIEF)
    assert 0 < p50 <= p99


def test_peer_process_survives_exception(peer_process: PeerProcess) -> None:
    with pytest.raises(SampleFailed, match="ValueError: there is no case 'nonsense'"):
        peer_process.sample("nonsense", BRIEF)
    assert peer_process.sample(ROUND_TRIP.name, BRIEF)


def test_death_of_peer_process_is_reported(peer_process: PeerProcess) -> None:
    peer_process.sample(ROUND_TRIP.name, BRIEF)
    os.kill(peer_process.pid, signal.SIGKILL)
    with pytest.raises(SampleFailed, match="its process died \\(SIGKILL\\)"):
        peer_process.sample(ROUND_TRIP.name, BRIEF)


def test_hanging_peer_is_killed_with_its_children(peer_process: PeerProcess) -> None:
    peer_process.sample(ROUND_TRIP.name, BRIEF)
    peer = psutil.Process(peer_process.pid)
    seen, over = {peer}, threading.Event()

    def watch_children() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not over.wait(0.1):
                seen.update(peer.children(recursive=True))

    watcher = threading.Thread(target=watch_children)
    watcher.start()
    with pytest.raises(SampleFailed, match="not done within 6 s"):
        peer_process.sample("cost-of-waiting-2-idle-workers", LONG, timeout_s=6)
    over.set()
    watcher.join()
    assert len(seen) > 1
    assert not psutil.wait_procs(list(seen), timeout=60)[1]


def test_dead_peer_process_is_replaced() -> None:
    with PeerProcesses() as peer_processes:
        peer_processes.sample(STANDARD, ROUND_TRIP.name, BRIEF)
        os.kill(peer_processes.get(STANDARD).pid, signal.SIGKILL)
        comparison = compare(ROUND_TRIP, BRIEF, peer_processes, [STANDARD, OURS])
        assert comparison.failed == [STANDARD.name]
        assert "SIGKILL" in comparison.not_measured[STANDARD.name]
        assert comparison.values(OURS.name)
        assert compare(ROUND_TRIP, BRIEF, peer_processes, [STANDARD]).values(STANDARD.name)


def test_stored_results_make_the_page(tmp_path: Path) -> None:
    measured = Comparison(ROUND_TRIP, {OURS.name: [(1e-6, 2e-6)], STANDARD.name: [(5e-5, 6e-5)]}, {"ray": "not here"})
    when = Conditions("2026-01-02T03:04:05+00:00", 1.5, 0.25, BRIEF, {"commit": "abc", "machine": "mine"})
    results = Results(tmp_path / "results")
    results.save(measured, when)
    results.save_ring([(8, 1.0, 2.0, 3.0)], when)
    assert list(results.comparisons()) == [(measured, when)]
    assert results.ring() == ([(8, 1.0, 2.0, 3.0)], when)
    assert results.was_measured_within(ROUND_TRIP.name, when.age_h + 1)
    assert not results.was_measured_within(ROUND_TRIP.name, when.age_h - 1)
    assert not results.was_measured_within(CASES[1].name, 1e9)
    page = report.format_page([(measured, when)], results.ring(), {})
    assert "| ProcessPoolExecutor | 50 µs **50 ×** | 60 µs **30 ×** |" in page
    assert "| round-trip-no-op-call | 2026-01-02 03:04 | abc | 1 | 2 s | 25% |" in page
    assert "| round trip of a no-op call, p50 | ProcessPoolExecutor | 25 × | **50 ×** | 50 – 50 × | ✓ |" in page


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.description)
def test_target_names_existing_case_and_peers(target) -> None:
    case = find_case(target.case)
    assert target.quantity < len(case.quantities)
    assert bool(target.peers) != bool(target.value)
    for peer in target.peers:
        assert not case.request.needs & ~find_peer(peer).features


def test_peers_that_share_data_have_ways() -> None:
    assert set(shared_data.WAYS) == {peer.name for peer in PEERS if Feature.SHARED_DATA in peer.features}


def test_case_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_page_begins_with_the_cases_that_matter_most() -> None:
    assert {*ROWS} <= {case.name for case in CASES}
    samples = {OURS.name: [(5e-6, 9e-6)], STANDARD.name: [(1e-6, 90e-6)]}
    assert list(format_summary([Comparison(ROUND_TRIP, samples)])) == [
        "| | pympipool | ProcessPoolExecutor |",
        "| --- | ---: | ---: |",
        "| a call that does nothing, there and back | 5 µs | 1 µs |",
    ]


def test_page_lists_where_others_are_faster() -> None:
    samples = {OURS.name: [(5e-6, 9e-6)], STANDARD.name: [(1e-6, 90e-6)]}
    faster = list(format_faster_peers([Comparison(ROUND_TRIP, samples)]))
    assert faster == ["- Round trip, no-op call, p50: ProcessPoolExecutor 5 ×"]


def test_readme_gets_the_summary() -> None:
    table = ["| new |"]
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    changed = with_summary(readme, table)
    assert "| new |\n<!-- until here -->" in changed
    assert with_summary(with_summary(readme, ["| other |"]), table) == changed

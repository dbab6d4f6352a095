"""`pympipool bench`: measurements of real workers, and advice that follows from measurements."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

import pytest

from pympipool import Executor
from pympipool.cli import bench
from pympipool.cli.bench import measuring
from pympipool.cli.bench.advice import advice
from pympipool.cli.bench.measuring import Length, Measured, MpiRanks
from pympipool.cli.bench.tables import bar, format_measured
from pympipool.errors import WorkerStartError
from support.scripts import run_program


def parse_options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all measurements short."""
    monkeypatch.setattr(measuring, "BUDGET_S", 0.02)
    monkeypatch.setattr(measuring, "LENGTHS_S", (1e-3, 1e-2))
    monkeypatch.setattr(measuring, "SIZES_BYTES", (8_000, 800_000))


def make_measured(**others: object) -> Measured:
    """Return the measurements of a quiet machine of four cores."""
    measured = Measured("mpi", "myhost", 4)
    measured.first_s, measured.all_s, measured.trip_s, measured.trip_p99_s, measured.alone_s = (
        0.1,
        0.2,
        5e-6,
        6e-6,
        5e-3,
    )
    measured.rates = {1: 100_000.0, 4: 400_000.0}
    measured.map_rate = measured.chunked_rate = 1e6
    measured.lengths = [Length(1e-3, 0.9, 0.9, 0.2), Length(1e-2, 1.0, 1.0, 0.5)]
    measured.speed_ups = {1: 1.0, 2: 2.0, 4: 4.0}
    measured.echoes_s = {8_000_000: 0.004}
    measured.mpi = [MpiRanks(2, 1.05e-4, 0.305)]
    for name, value in others.items():
        setattr(measured, name, value)
    return measured


def sentence_with(word: str, measured: Measured) -> str:
    found = [sentence for sentence in advice(measured) if word in sentence]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.usefixtures("short_measurements")
def test_bench_prints_measurements_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(parse_options("--cores", "2", "--backend", "mpi")) == 0
    text = capsys.readouterr().out
    assert "backend 'mpi', 2 cores" in text
    for title in (
        "Starting",
        "Calls that do nothing",
        "Values to a worker",
        "Share of the time",
        "Speed with",
        "What to set",
    ):
        assert title in text
    assert "block_allocation=True" in text.partition("What to set")[2]


@pytest.mark.usefixtures("short_measurements")
def test_bench_json_has_all_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(parse_options("--cores", "2", "--backend", "mpi", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] == 2
    for name in ("first_s", "all_s", "trip_s", "trip_p99_s", "alone_s", "map_rate", "chunked_rate"):
        assert found[name] > 0, name
    assert set(found["rates"]) == {"1", "2"}
    assert [length["call_s"] for length in found["lengths"]] == [1e-3, 1e-2]
    for length in found["lengths"]:
        assert 0 < length["alone"] <= 1
        assert 0 < length["block"] <= 1
        assert 0 < length["mapped"] <= 1
    assert found["speed_ups"]["1"] == 1
    assert set(found["echoes_s"]) == {"8000", "800000"}
    assert found["advice"]


def test_missing_workers_raise_after_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "START_TIMEOUT_S", 0.2)
    with Executor(max_workers=1, block_allocation=True) as exe:
        with pytest.raises(WorkerStartError, match=r"1 of 3 workers have started, .* --cores 1 measures the workers"):
            measuring._wait_for_all(exe, 3)
        measuring._wait_for_all(exe, 1)


@pytest.mark.mpi
@pytest.mark.usefixtures("short_measurements")
def test_mpi_is_measured() -> None:
    pytest.importorskip("mpi4py", reason="MPI is measured with mpi4py: pip install mpi4py mpich")
    measured = measuring.measure("mpi", 2)
    assert not measured.no_mpi
    assert [found.ranks for found in measured.mpi] == [2]
    assert measured.mpi[0].trip_s > 0
    assert measured.mpi[0].alone_s > 0


@pytest.mark.usefixtures("short_measurements")
def test_bench_without_mpi_names_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from pympipool.backends.local import mpiexec

    def find_nothing(library: object) -> None:
        raise WorkerStartError("there is no MPI library: pip install mpich")

    monkeypatch.setattr(mpiexec, "find_launcher", find_nothing)
    measured = measuring.measure("mpi", 2)
    assert measured.trip_s > 0
    assert sentence_with("MPI was not measured", measured).endswith("there is no MPI library: pip install mpich.")


def test_mpi_is_not_measured_on_one_core() -> None:
    measured = Measured("mpi", "myhost", 1)
    measuring._measure_mpi(measured, print)
    assert measured.no_mpi == "functions of several ranks need two cores"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--backend", "slum"), "backend is 'slum'"),
        (("--cores", "0", "--backend", "mpi"), "max_cores must be greater than 0, not 0"),
        (("--plot", "/no/such/folder/plot.svg"), "there is no folder /no/such/folder"),
        (("--plot", "plot.nonsense"), "plot.nonsense: the name must end with one of"),
    ],
)
def test_wrong_options_are_rejected_at_once(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(parse_options(*arguments)) == 2
    assert complaint in capsys.readouterr().err


def test_plot_to_a_folder_is_rejected_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plot.svg").mkdir()
    assert bench.run(parse_options("--plot", str(tmp_path / "plot.svg"))) == 2
    assert "plot.svg: it is a folder" in capsys.readouterr().err


def test_plot_without_matplotlib_is_rejected_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # its import fails, as if it was missing or broken
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert bench.run(parse_options("--plot", "plot.svg")) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.usefixtures("short_measurements")
def test_bytes_are_sent_without_numpy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert bench.run(parse_options("--cores", "1", "--backend", "mpi")) == 0
    assert "Values to a worker and back (bytes)" in capsys.readouterr().out


def test_ctrl_c_ends_bench_and_its_workers() -> None:
    script = textwrap.dedent("""
        import argparse, os, signal, threading
        from pympipool.cli import bench
        from pympipool.cli.bench import measuring

        def interrupt_soon(text):
            if text.startswith("the same work with 2"):
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

        measuring.BUDGET_S = 1.0
        try:
            measuring.measure("mpi", 2, interrupt_soon)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    done = run_program([sys.executable, "-c", script], timeout_s=150)
    assert done.stdout == "interrupted\n", done.stderr


def test_bench_draws_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")
    from pympipool.cli.bench.plot import draw

    draw(make_measured(), tmp_path / "bench.svg")
    assert (tmp_path / "bench.svg").read_text().startswith("<svg ")


@pytest.mark.usefixtures("short_measurements")
def test_bench_measures_one_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(parse_options("--cores", "1", "--backend", "mpi")) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "max_workers=1, one for each core" in text
    assert "MPI was not measured: functions of several ranks need two cores." in text


def test_advice_on_block_allocation_for_short_calls() -> None:
    # Calls of 10 ms lose half of the time, so a process costs 10 ms; calls of 190 ms then lose 5 %.
    assert "for calls shorter than 190 ms" in sentence_with("a process of its own costs", make_measured())


def test_advice_on_map_for_short_calls() -> None:
    # 400 000 calls per second on 4 cores: each costs 10 µs.
    assert "for calls shorter than 190 µs" in sentence_with("map instead of submit", make_measured())


def test_advice_on_chunksize() -> None:
    assert "Do not set chunksize of map" in sentence_with("chunksize", make_measured())
    assert "about 4 ms / length of a call" in sentence_with("chunksize", make_measured(chunked_rate=2e6))


@pytest.mark.parametrize(
    ("speed_ups", "advised"),
    [
        ({1: 1.0, 2: 2.0, 4: 3.9}, "max_workers=4, one for each core"),
        ({1: 1.0, 2: 1.98, 4: 2.0}, "max_workers=2 for calls that compute: 2.0 times"),
        ({1: 1.0, 2: 1.0, 4: 1.0}, "max_workers=1: more of them were not faster"),
    ],
)
def test_advice_on_number_of_workers(speed_ups: dict[int, float], advised: str) -> None:
    assert advised in sentence_with("max_workers=", make_measured(speed_ups=speed_ups))


def test_advice_on_mpi() -> None:
    # Two ranks save half of the call and cost 100 µs (or 300 ms) more, so the call must take twice that time.
    sentence = sentence_with("MPI with 2 ranks", make_measured())
    assert "more than 200 µs on one core with block_allocation=True" in sentence
    assert "or 600 ms without" in sentence


def test_advice_on_busy_machine() -> None:
    assert not any("Measure again" in sentence for sentence in advice(make_measured()))
    assert "its load was 3.0" in sentence_with("Measure again when the machine is quiet", make_measured(load=3.0))


def test_bars_have_the_same_width_in_any_encoding() -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        for share in (-1.0, 0.0, 0.013, 0.5, 1.0, 7.0):
            assert len(bar(share, encoding)) == 36


def test_tables_fit_into_a_terminal() -> None:
    assert max(len(line) for line in format_measured(make_measured())) <= 100

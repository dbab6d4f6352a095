"""The programs in examples/ compute correct results. They run as a user runs them, with small inputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.scripts import run_script

EXAMPLES = Path(__file__).parents[1] / "examples"

pytest.importorskip("numpy", reason='the examples need numpy: pip install ".[demo]"')


@pytest.fixture
def run(tmp_path):
    """Return run(name, argument, ...), which runs a program of examples/ and returns its output."""

    def run(name, *arguments):
        return run_script("", tmp_path, command=[str(EXAMPLES / name), *map(str, arguments)])

    return run


def test_every_example_is_tested():
    tested = Path(__file__).read_text() + (Path(__file__).parent / "system" / "test_quickstart.py").read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested] == []


def test_workstations_may_be_this_machine(run):
    assert run("hosts/workstations.py", "localhost:3") == "[3, 4, 5, 6]\non 3 workers\n"


def test_the_parameter_study_finds_the_threshold(run):
    printed = run("parameter_study.py", 20, 24)
    assert float(re.search(r"percolate at p = ([\d.]+)", printed)[1]) == pytest.approx(0.593, abs=0.05)
    assert "420 lattices" in printed


@pytest.mark.mpi
def test_parallel_tempering_orders_only_cold_replicas(run):
    printed = run("parallel_tempering.py", 6, 16)
    rows = [list(map(float, line.split())) for line in printed.splitlines() if re.fullmatch(r"[\d. ]+", line)]
    magnetizations = {temperature: magnetization for temperature, magnetization, _ in rows}
    assert magnetizations[1.8] > 0.9
    assert magnetizations[2.5] < 0.8
    assert re.search(r"\d+ of 15 exchanges", printed)


def test_k_fold_training_chooses_a_network_that_learns(run):
    printed = run("k_fold.py", 3, 600)
    errors = {int(hidden): float(error) for hidden, error in re.findall(r"(\d+) hidden units: error ([\d.]+)", printed)}
    best = int(re.search(r"Best: (\d+) hidden units", printed)[1])
    assert errors[best] == min(errors.values())
    assert errors[best] < 0.5 * errors[2]  # two units are too few


def test_workflow_prints_equation_of_state_and_draws_figure(run, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib: pip install matplotlib")
    printed = run("workflow.py", tmp_path / "figure.png", 9)
    assert float(re.search(r"energy +(-[\d.]+)", printed)[1]) == pytest.approx(-8.61, abs=0.02)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

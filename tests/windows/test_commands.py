"""The program `pympipool`: info, check, bench and trace; what cannot be tried on a system is said."""

import io
import json
import subprocess
import sys
from contextlib import closing, redirect_stdout
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

import pympipool
from pympipool import Executor, cli
from pympipool._util.platform import IS_WINDOWS
from pympipool.cli.bench import measuring

LIMIT_S = 150

pytestmark = pytest.mark.skipif(not IS_WINDOWS, reason="tests/cli and tests/diagnostics try these on other systems")


def run(*arguments):
    """Run `python -m pympipool` to its end; return its exit code and its output."""
    done = subprocess.run(
        [sys.executable, "-m", "pympipool", *arguments],
        check=False, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=LIMIT_S,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_info_tells_of_this_machine():
    code, text = run("info")
    assert code == 0
    assert "\"auto\" takes 'mpi'" in text
    assert f"pympipool {pympipool.__version__}" in text
    assert "memory unknown" not in text
    assert "Nothing is wrong" in text
    assert "pip install mpi4py impi-rt" in text


def test_info_is_data_for_programs():
    code, text = run("info", "--json")
    found = json.loads(text)
    assert code == 0
    assert found["machine"]["memory"]["machine"] >= found["machine"]["memory"]["available"] > 1 << 20
    assert found["installation"]["compiled"] is None


def test_check_tries_steps():
    code, text = run("check", "serial", "exception", "death", "time", "--cores", "1", "--backend", "mpi")
    assert "Everything works" in text
    assert code == 0


def test_check_notices_the_end_of_a_script():
    code, text = run("check", "end", "--cores", "1", "--backend", "mpi")
    assert "Everything works" in text
    assert code == 0


def test_what_needs_mpi_is_said():
    code, text = run("check", "mpi")
    assert "pip install mpi4py impi-rt" in text
    assert "1 could not be tried" in text
    assert code == 1


def test_bench_measures(monkeypatch):
    monkeypatch.setattr(measuring, "BUDGET_S", 0.02)
    monkeypatch.setattr(measuring, "LENGTHS_S", (1e-3,))
    monkeypatch.setattr(measuring, "SIZES_BYTES", (8_000, 800_000))
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert cli.main(["bench", "--cores", "1", "--backend", "mpi"]) == 0
    assert "round trip" in printed.getvalue()


def test_dashboard_shows_an_executor():
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        assert exe.submit(pow, 2, 5).result(LIMIT_S) == 32
        url = urlsplit(exe.dashboard().url)
        with closing(HTTPConnection(url.hostname, url.port, timeout=LIMIT_S)) as connection:
            connection.request("GET", f"{url.path}status")
            status = json.load(connection.getresponse())
    (worker,) = status["workers"]
    assert worker["pid"] > 0


def test_trace_tells_where_the_time_went(tmp_path, capsys):
    with pympipool.trace(tmp_path / "run.json"), Executor(max_workers=1, block_allocation=True) as exe:
        assert [call.result(LIMIT_S) for call in [exe.submit(pow, 2, n) for n in range(20)]] == [
            2**n for n in range(20)
        ]
    assert cli.main(["trace", str(tmp_path / "run.json")]) == 0
    text = capsys.readouterr().out
    assert "20 calls" in text
    assert "pow" in text

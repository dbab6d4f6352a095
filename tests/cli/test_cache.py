"""`pympipool cache`: what is in a cache directory is listed, shown, checked, removed and exported."""

import json
import os
import pickle
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

import pympipool
from pympipool import Executor, cli, get_cache_data, get_future_from_cache
from pympipool.caching.store import Store


def calls_in(folder, **options):
    """Return the dicts of get_cache_data, also where another test has imported pandas."""
    calls = get_cache_data(folder, **options)
    return calls if isinstance(calls, list) else calls.to_dict("records")


@pytest.fixture
def folder(tmp_path):
    """A cache directory with four results."""
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
        exe.submit(pow, 2, 5).result()
        exe.submit(np.arange, 50_000).result()
        exe.submit(pow, 2, exp=7, resource_dict={"cache_key": "a power"}).result()
        exe.submit(sorted, [3, 1, 2], reverse=True).result()
    return str(tmp_path / "cache")


def run(capsys, *arguments):
    code = cli.main(["cache", *arguments])
    return code, *capsys.readouterr()


def test_list(folder, capsys):
    code, out, err = run(capsys, "list", "-d", folder)
    assert (code, err) == (0, "")
    assert "pow(2, 5)" in out
    assert "arange(50000)" in out
    assert "pow(a power)" in out
    assert "sorted(<list>, reverse=True)" in out
    assert out.splitlines()[-1].startswith("4 results, 40")


def test_list_for_programs(folder, capsys):
    code, out, _ = run(capsys, "list", "--json", "--directory", folder)
    calls = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [call["function"] for call in calls] == ["pow", "arange", "pow", "sorted"]
    assert all(call["run_ns"] > 0 and call["size_bytes"] > 0 and time.time() - call["created"] < 600 for call in calls)


def test_show(folder, capsys):
    (key,) = [call["key"] for call in calls_in(folder) if call["arguments"] == "2, 5"]
    for name, result in ((key, "32"), (key[:10], "32"), ("a power", "128")):
        code, out, _ = run(capsys, "show", name, "-d", folder)
        assert code == 0
        assert out.splitlines()[-1].split() == ["result", result]
    code, out, err = run(capsys, "show", "nothing", "-d", folder)
    assert (code, out) == (1, "")
    assert "'nothing'" in err


def test_verify(folder, capsys):
    assert run(capsys, "verify", "-d", folder)[:2] == (0, "4 results, 0 damaged\n")
    (path,) = (path for path in Path(folder, "results").glob("*/*"))
    os.truncate(path, 1000)
    code, out, _ = run(capsys, "verify", "-d", folder)
    assert code == 1
    assert "damaged, removed: " in out
    assert out.endswith("4 results, 1 damaged\n")
    assert run(capsys, "verify", "-d", folder)[:2] == (0, "3 results, 0 damaged\n")


def test_prune(folder, capsys):
    assert run(capsys, "prune", "--older", "1d", "-d", folder)[1].startswith("0 results removed")
    store = Store(folder)
    store.index.write([row._replace(created=row.created - 90_000) for row in store.index.rows() if row.value is None])
    store.close()
    assert run(capsys, "prune", "--older", "1d", "-d", folder)[1].startswith("1 result removed, 40")
    assert len(calls_in(folder)) == 3
    assert not list(Path(folder, "results").glob("*/*"))


def test_prune_wants_an_age(folder, capsys):
    with pytest.raises(SystemExit):
        run(capsys, "prune", "--older", "soon", "-d", folder)
    assert "'soon' is no age" in capsys.readouterr().err


def test_export(folder, capsys, tmp_path):
    code, out, _ = run(capsys, "export", str(tmp_path / "out"), "-d", folder)
    assert (code, out) == (0, f"4 results exported to {tmp_path / 'out'}\n")
    calls = [json.loads(line) for line in (tmp_path / "out" / "calls.jsonl").read_text().splitlines()]
    results = [pickle.loads((tmp_path / "out" / call["file"]).read_bytes()) for call in calls]
    assert results[0] == 32
    assert (results[1] == np.arange(50_000)).all()
    assert b"pympipool" not in (tmp_path / "out" / calls[1]["file"]).read_bytes()


@pytest.mark.parametrize("action", ["list", "verify"])
def test_a_directory_without_a_cache_is_named(action, capsys, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, out, err = run(capsys, action, "-d", str(folder))
        assert (code, out) == (1, "")
        assert str(folder) in err
    assert list(tmp_path.iterdir()) == []


# ---- the functions ----


def test_get_cache_data_tells_all(folder):
    calls = calls_in(folder)
    assert [call["function"] for call in calls] == ["pow", "arange", "pow", "sorted"]
    assert calls[0]["result"] == 32
    assert (calls[1]["result"] == np.arange(50_000)).all()
    assert "result" not in calls_in(folder, results=False)[0]


def test_get_cache_data_makes_a_data_frame(folder):
    pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    frame = get_cache_data(folder)
    assert list(frame["function"]) == ["pow", "arange", "pow", "sorted"]


def test_get_future_from_cache(folder):
    future = get_future_from_cache(folder, "a power")
    assert future.done()
    assert future.result() == 128
    key = calls_in(folder, results=False)[1]["key"]
    assert (pympipool.get_future_from_cache(folder, key).result() == np.arange(50_000)).all()
    with pytest.raises(KeyError, match="nothing"):
        get_future_from_cache(folder, "nothing")


def test_a_damaged_index_is_named(folder, capsys):
    connection = sqlite3.connect(os.path.join(folder, "index.sqlite"))
    connection.execute("ALTER TABLE results RENAME COLUMN created TO damaged")
    connection.close()
    code, out, err = run(capsys, "list", "-d", folder)
    assert (code, out) == (1, "")
    assert "is damaged: no such column: created; remove the directory" in err
    with pytest.raises(OSError, match="is damaged"):
        get_cache_data(folder)

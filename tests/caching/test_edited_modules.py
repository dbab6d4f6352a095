"""Modules in keys whose files change while the script runs."""

import importlib
import importlib.util
import os
import time

import pytest

from pympipool import Executor
from pympipool.caching import file_stamps, modules
from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError
from support.module_keys import key, write
from support.waiting import wait_until


def test_edited_modules_have_no_key(folder):
    write(folder / "changing_deeper.py", "VALUE = 1\n")
    write(folder / "changing.py", "from changing_deeper import VALUE\n\ndef f(x):\n    return VALUE\n")
    import changing

    keys = Keys()
    first = key(changing.f, keys)
    write(folder / "changing_deeper.py", "VALUE = 1  # a comment\n")
    assert key(changing.f, keys) == first
    write(folder / "changing_deeper.py", "VALUE = 22\n")
    with pytest.raises(UnhashableError, match="changing_deeper, which has changed since the executor was made"):
        key(changing.f, keys)
    with pytest.raises(UnhashableError, match="changing_deeper"):  # it is not forgotten
        key(changing.f, keys)
    assert key(changing.f) != first  # workers of a new executor import the new one
    with pytest.raises(UnhashableError, match="changing_deeper"):
        keys.of_call(pow, (changing.f,), {}, 1, "all")


def test_edits_before_the_first_digest_are_seen(folder):
    path = folder / "changing_early.py"
    write(path, "def f(x):\n    return 1\n")
    import changing_early

    keys = Keys()
    wait_until(lambda: path.touch() or path.stat().st_ctime_ns > keys._version)  # file systems may be late by 4 ms
    write(path, "def f(x):\n    return 22\n")
    with pytest.raises(UnhashableError, match="changing_early, which has changed since the executor was made"):
        key(changing_early.f, keys)
    assert key(changing_early.f)
    path = folder / "still_to_come.py"
    write(path, "def f(x):\n    return 1\n")
    os.utime(path, ns=(2**62, 2**62))  # such a time tells nothing
    assert key(importlib.import_module("still_to_come").f)


@pytest.mark.parametrize("way", ["another file", "an edit", "a revert"])
def test_edits_are_seen_after_others(folder, way):
    """A worker of the second executor may have imported the module before its last edit, which no key was made after."""
    path, other = folder / "changing_often.py", folder / "changing_beside.py"
    for one in (path, other):
        write(one, "def f(x):\n    return 1\n")
    function, beside = (importlib.import_module(one.stem).f for one in (path, other))
    first = key(function), key(beside)
    edited = other if way == "another file" else path
    edited.write_text("def f(x):\n    return 22\n")
    modules.version_of_files(now=True)
    keys = Keys()
    path.write_text(f"def f(x):\n    return {1 if way == 'a revert' else 333}\n")
    with pytest.raises(UnhashableError, match="changing_often, which has changed since the executor was made"):
        key(function, keys)
    assert (key(function) == first[0]) == (way == "a revert")


def test_touched_files_are_the_same(folder):
    path = folder / "changing_never.py"
    write(path, "def f(x):\n    return 1\n")
    import changing_never

    keys = Keys()
    first = key(changing_never.f, keys)
    version = modules.version_of_files()
    os.utime(path, (1, 1))
    assert key(changing_never.f, keys) == first
    assert modules.version_of_files() > version
    path.unlink()
    with pytest.raises(UnhashableError, match="changing_never, whose file cannot be read"):
        key(changing_never.f, keys)
    write(path, "def f(x):\n    return 22\n")
    with pytest.raises(UnhashableError, match="changing_never, which has changed"):
        key(changing_never.f, keys)


def test_edits_of_what_workers_begin_with_are_seen(folder):
    write(folder / "beginning.py", "def begin():\n    return 1\n")
    import beginning

    keys = Keys([(beginning.begin, ())])
    assert key(abs, keys) == key(abs, keys)
    write(folder / "beginning.py", "def begin():\n    return 22\n")
    modules.version_of_files(now=True)
    for _ in range(2):
        with pytest.raises(UnhashableError, match="beginning, which has changed since the executor was made"):
            key(abs, keys)
    assert key(abs, Keys([(beginning.begin, ())]))


def test_what_is_just_being_replaced_has_changed(folder, monkeypatch):
    write(folder / "replaced.py", "def f(x):\n    return 1\n")
    import replaced

    key(replaced.f)
    version = modules.version_now()
    (folder / "replaced.py").write_text("def f(x):\n    return 22\n")
    monkeypatch.setattr(modules._Modules, "_read", lambda *_: {}["an installer is at work"])
    assert modules.version_of_files(now=True) > version
    assert modules.changed_since(["replaced"], version) == "replaced"


def test_edits_with_the_same_file_time_are_seen(folder):
    path = folder / "changing_fast.py"
    write(path, "def f(x):\n    return 1\n")
    import changing_fast

    first = key(changing_fast.f)
    status = path.stat()
    path.write_text("def f(x):\n    return 2\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if it was in the same moment
    assert path.stat().st_ino == status.st_ino
    second = key(changing_fast.f)
    assert second != first
    assert key(changing_fast.f) == second


def test_files_that_are_old_are_not_read_again(folder, monkeypatch):
    path = folder / "old_module.py"
    write(path, "def f(x):\n    return 1\n")
    os.utime(path, (1, 1))
    import old_module

    first = key(old_module.f)
    were_read = []
    monkeypatch.setattr(file_stamps, "read", were_read.append)
    assert key(old_module.f) == first
    assert str(path) not in were_read


@pytest.mark.parametrize("options", [{}, {"block_allocation": True}], ids=["one_process_per_call", "block_allocation"])
def test_results_of_edited_modules_have_no_older_key(folder, monkeypatch, options):
    """The edit is not noticed when the second call is made, as it comes within `CHECK_INTERVAL_S`."""
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    path = folder / "edited_at_once.py"
    before, after = ("VALUE = 1\n\ndef f(x):\n    return VALUE + x\n", "VALUE = 2\n\ndef f(x):\n    return VALUE + x\n")
    write(path, before)
    import edited_at_once

    with Executor(max_workers=1, cache_directory=folder / "cache", **options) as exe:
        assert exe.submit(edited_at_once.f, 0).result() == 1
        monkeypatch.setattr(modules, "CHECK_INTERVAL_S", 60.0)
        key(edited_at_once.f)
        path.write_text(after)
        late = exe.submit(edited_at_once.f, 10)
        after_it = exe.submit(abs, late)
        assert late.result() == after_it.result()
        assert late.result() in (11, 12)
    path.write_text(before)
    with Executor(max_workers=1, cache_directory=folder / "cache", **options) as exe:
        assert exe.submit(edited_at_once.f, 10).result() == 11
        assert exe.submit(abs, exe.submit(edited_at_once.f, 10)).result() == 11


def test_only_edits_that_count_drop_results(folder, monkeypatch, caplog):
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    for name in ("plotting", "base", "calculating"):
        write(folder / f"{name}.py", f"{'import base' * (name == 'calculating')}\n\ndef f(x):\n    return x\n")
    plot, calculate = (importlib.import_module(name).f for name in ("plotting", "calculating"))

    def go_on(file, value):
        while not os.path.exists(file):
            time.sleep(0.01)
        return calculate(value)

    def kept_after_an_edit(name):
        go = folder / f"{name}.go"
        with Executor(max_workers=1, block_allocation=True, cache_directory=folder / "cache") as exe:
            exe.submit(plot, 1).result()  # so its file is watched
            late = exe.submit(go_on, str(go), 1)
            after = exe.submit(abs, late)
            path = folder / f"{name}.py"
            write(path, path.read_text() + "\nMORE = 1\n")
            go.touch()
            assert after.result() == 1
        with Executor(max_workers=1, block_allocation=True, cache_directory=folder / "cache") as exe:
            return exe._cache._store.find(late.cache_entry.key), exe._cache._store.find(after.cache_entry.key)

    assert None not in kept_after_an_edit("plotting")
    assert "go_on" not in caplog.text
    assert kept_after_an_edit("base") == (None, None)
    assert "go_on() are not cached: the module base has changed meanwhile" in caplog.text

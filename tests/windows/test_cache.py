"""Results on disk, where a file that is open or mapped can be neither removed nor replaced as on Unix."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pympipool import Executor, cli, get_cache_data
from pympipool._util.platform import IS_WINDOWS
from pympipool.caching.files import access
from pympipool.caching.store import Store
from pympipool.serialization import payload

numpy = pytest.importorskip("numpy")

LIMIT_S = 60
SIZE = 50_000
KEY = bytes(20)

of_windows = pytest.mark.skipif(not IS_WINDOWS, reason="other systems have modes: tests/caching/test_store.py")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache"


def array(value, path):
    Path(path).touch()
    return numpy.full(SIZE, value)


def write(cache, value):
    cache.write([(KEY, payload.dump(value), "function", "arguments", 5)])


def read(cache):
    found = cache.find(KEY)
    return payload.load(cache.files.read(KEY, found)) if isinstance(found, int) else found


def unfinished(directory):
    folder = Path(directory, "results", "unfinished")
    return list(folder.iterdir()) if folder.exists() else []


def test_calls_are_answered_from_disk(make, directory, tmp_path):
    """Workers leave large results in files. They are mapped, and changes to them stay in this process."""
    first = make(cache_directory=directory)
    made = first.submit(array, 7, str(tmp_path / "ran")).result(LIMIT_S)
    made[:] = 0
    assert first.submit(pow, 2, 5).result(LIMIT_S) == 32
    first.shutdown()
    (tmp_path / "ran").unlink()
    second = make(cache_directory=directory)
    calls = [second.submit(array, 7, str(tmp_path / "ran")), second.submit(pow, 2, 5)]
    assert all(call.done() for call in calls)
    assert (calls[0].result() == 7).all()
    assert calls[1].result() == 32
    assert not (tmp_path / "ran").exists()


def test_maps_are_answered_from_disk(directory):
    for answered in (0, 20):
        with Executor(max_workers=1, block_allocation=True, cache_directory=directory) as exe:
            assert list(exe.map(pow, range(20), [2] * 20)) == [n * n for n in range(20)]
            assert exe._cache.counts.found == answered


def test_mapped_results_can_be_removed_and_replaced(directory):
    cache = Store(directory)
    write(cache, numpy.ones(SIZE))
    first = read(cache)
    write(cache, numpy.zeros(SIZE))
    second = read(cache)
    cache.remove([KEY])
    assert read(cache) is None
    assert (first == 1).all()
    assert (second == 0).all()
    cache.close()
    del first, second
    Store(directory).close()
    assert unfinished(directory) == []


def test_file_that_is_read_can_be_replaced(directory):
    cache = Store(directory)
    write(cache, numpy.ones(5000))
    descriptor = access.open_to_read(cache.files.path(KEY))
    write(cache, numpy.zeros(6000))
    assert len(read(cache)) == 6000
    os.close(descriptor)
    cache.close()


SCRIPT = """
import os, sys, numpy
from pympipool import Executor
if __name__ == "__main__":
    exe = Executor(max_workers=1, block_allocation=True, cache_directory=sys.argv[1])
    exe.submit(numpy.arange, 50_000, dtype="f8").result()
    exe._cache._writer.flush()
    exe.submit(numpy.arange, 60_000, dtype="f8").result()
    print("read", flush=True)
    sys.stdin.read()
"""


def test_folder_of_a_killed_script_is_removed(directory, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert script.stdout.readline().strip() == b"read"
        (folder,) = unfinished(directory)
        (folder / "left").touch()
        Store(directory).close()
        assert (folder / "left").exists()  # the script lives
    finally:
        script.kill()
        script.communicate()
    Store(directory).close()
    assert unfinished(directory) == []
    with Executor(max_workers=1, cache_directory=directory) as exe:
        assert exe.submit(numpy.arange, 50_000, dtype="f8").done()


def test_directory_is_listed_checked_and_pruned(directory, capsys):
    cache = Store(directory)
    write(cache, numpy.ones(SIZE))
    held = read(cache)
    cache.close()
    for arguments, text in {
        "list": "1 result,",
        "verify": "1 result, 0 damaged",
        "prune --older 0s": "1 result removed",
        "list ": "0 results",
    }.items():
        assert cli.main(["cache", *arguments.split(), "-d", str(directory)]) == 0
        assert text in capsys.readouterr().out
    assert (held == 1).all()
    assert len(get_cache_data(directory)) == 0


def set_permissions(path, text):
    """Give a file other permissions, in the language of security descriptors."""
    advapi32, descriptor = ctypes.WinDLL("advapi32", use_last_error=True), ctypes.c_void_p()
    assert advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(text, 1, ctypes.byref(descriptor), None)
    assert advapi32.SetFileSecurityW(str(path), 4, descriptor)


@of_windows
@pytest.mark.parametrize("name", ["cache", "cache/index.sqlite"])
def test_what_others_can_write_is_refused(tmp_path, name):
    Store(tmp_path / "cache").close()
    set_permissions(tmp_path / name, "D:(A;;FA;;;WD)")
    with pytest.raises(PermissionError, match=r"other users can write to .*S-1-1-0.*icacls"):
        Executor(max_workers=1, cache_directory=tmp_path / "cache")
    set_permissions(tmp_path / name, "D:(A;;FA;;;BA)(A;;FR;;;WD)")
    Store(tmp_path / "cache").close()


@of_windows
def test_an_account_of_another_user_is_refused(tmp_path, monkeypatch):
    from pympipool.caching import directory_windows

    monkeypatch.setattr(directory_windows, "_own_account", lambda: "S-1-5-21-1-2-3-4")
    monkeypatch.setattr(directory_windows, "_OWNERS", {})
    with pytest.raises(PermissionError, match=r"belongs to the user S-1-5-.*of your own"):
        Store(tmp_path / "cache")


@of_windows
def test_folders_of_other_hosts_are_known():
    from pympipool.caching.directory_windows import file_system

    assert file_system("\\\\server\\share\\cache") == "smb3"
    assert file_system(os.path.realpath(os.environ["SYSTEMROOT"])) == ""


@of_windows
@pytest.mark.parametrize("scanned", ["from", "to"])
def test_files_that_are_scanned_are_renamed(tmp_path, monkeypatch, scanned):
    """A program that looks for viruses has one of the two open, and lets nobody rename it meanwhile."""
    paths = {name: tmp_path / name for name in ("from", "to")}
    for name, path in paths.items():
        path.write_text(name)
    with open(paths[scanned]) as scanner:
        monkeypatch.setattr("time.sleep", lambda _seconds: scanner.close())
        access.replace(str(paths["from"]), str(paths["to"]), str(tmp_path / "removed"))
    assert paths["to"].read_text() == "from"
    assert not paths["from"].exists()


@of_windows
def test_files_without_rights_are_soon_refused(tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in ("from", "to")}
    for name, path in paths.items():
        path.write_text(name)

    def refuse(*_):
        raise PermissionError(13, "Access is denied", "to", 5)

    pauses = []
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(PermissionError, match="Access is denied"):
        access.replace(str(paths["from"]), str(paths["to"]), str(tmp_path / "removed"))
    assert sum(pauses) < 0.1
    assert paths["to"].read_text() == "to"

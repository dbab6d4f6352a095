"""Files of the user that have the names of Python's modules."""

import json
import subprocess
import sys

import pytest

from pympipool._util.shadowing import ShadowingExplained, shadowing
from support.scripts import script_environment

PLAIN = """
from pympipool import Executor
Executor(max_workers=1).shutdown()
print("made")
"""

CACHED = """
from pympipool import Executor
if __name__ == "__main__":
    with Executor(max_workers=1, block_allocation=True, cache_directory="cache") as exe:
        print(exe.submit(pow, 2, 5).result())
"""

DETACHED = """
from pympipool import Executor
if __name__ == "__main__":
    with Executor(max_workers=1, backend="local", detached=True, cache_directory="cache") as exe:
        print(exe.submit(pow, 2, 5).result())
"""


def run_beside(folder, name, script, mark):
    """Run a script beside a file that has the name of a module; return what it prints, and its last line of stderr."""
    (folder / f"{name}.py").write_text("VALUE = 1\n")
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        check=False,
        cwd=folder,
        env=script_environment(mark),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("struct", PLAIN),
        ("socket", PLAIN),
        ("sqlite3", CACHED),
        ("hashlib", CACHED),
        ("json", DETACHED),
        ("random", DETACHED),
    ],
)
def test_errors_name_the_file_of_the_user(tmp_path, mark, name, script):
    _, errors = run_beside(tmp_path, name, script, mark)
    assert f"{str(tmp_path / name) + '.py'!r} has the name of Python's module {name}, which pympipool needs" in errors


def test_file_named_like_cloudpickle_is_named(tmp_path, mark):
    _, errors = run_beside(tmp_path, "cloudpickle", PLAIN, mark)
    assert f"{str(tmp_path / 'cloudpickle.py')!r} has the name of the package cloudpickle" in errors


@pytest.mark.parametrize("name", ["json", "random", "glob", "profile"])
def test_files_that_nobody_needs_do_no_harm(tmp_path, mark, name):
    assert run_beside(tmp_path, name, CACHED, mark) == ("32\n", "")


def test_import_names_an_attribute_that_is_missing(tmp_path, mark):
    script = "import threading\ndel threading.Lock\n" + PLAIN
    _, errors = run_beside(tmp_path, "other", script, mark)
    assert "ImportError: cannot import pympipool.executor: module 'threading' has no attribute 'Lock'" in errors


def test_other_errors_stay_as_they_are():
    for error in (ValueError("x"), ImportError("x", name="no_such_module"), AttributeError("x", obj=5), None):
        assert shadowing(error) == ""
    with pytest.raises(AttributeError, match="no_such_name"), ShadowingExplained():
        json.no_such_name  # noqa: B018

"""The source keeps its structure, and the pictures of the pages show the source as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"


MAX_WORDS = 8
"""Maximum number of words of a test name after `test_`."""


def test_committed_pictures_are_up_to_date(tmp_path):
    script = PICTURES / "draw.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # among other reasons, when a room imports from above
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert {"why.svg", "way.svg", "rooms.svg"} <= set(drawn)
    outdated = [name for name, picture in drawn.items() if picture != (PICTURES / name).read_text()]
    assert not outdated, f"{outdated} in docs/pictures differ from what draw.py draws; renew them by: make pictures"


def test_package_root_has_few_entries():
    command = ["git", "-C", str(ROOT), "ls-files", "pympipool"]
    try:
        files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    entries = {file.split("/")[1] for file in files}
    assert "executor.py" in entries
    assert len(entries) <= 25, sorted(entries)


def test_test_names_have_few_words():
    names = [
        (file, node.name)
        for folder in ("tests", "benchmarks")
        for file in (ROOT / folder).rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 1000
    too_long = [f"{file.relative_to(ROOT)}: {name}" for file, name in names if name.count("_") > MAX_WORDS]
    assert not too_long, f"these names have more than {MAX_WORDS} words after test_: {too_long}"


def asks_which_system(node):
    """Return True for `sys.platform`, `os.name`, `platform.system()`, and for questions of what modules of the system have."""
    match node:
        case (
            ast.Attribute(value=ast.Name(id="sys"), attr="platform")
            | ast.Attribute(value=ast.Name(id="os"), attr="name")
        ):
            return True
        case ast.Call(
            func=ast.Name(id="hasattr" | "getattr"), args=[ast.Name(id="os" | "select" | "signal" | "socket"), *_]
        ):
            return True
    return False


def test_one_module_asks_which_system_it_is():
    asking = {
        str(file.relative_to(ROOT / "pympipool"))
        for file in (ROOT / "pympipool").rglob("*.py")
        if not file.stem.endswith("_windows")  # which is for one system, and asserts that
        for node in ast.walk(ast.parse(file.read_text()))
        if asks_which_system(node)
    }
    assert asking == {"_util/platform.py"}, "ask _util/platform.py for what the system has"

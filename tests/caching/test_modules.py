"""Modules in keys: which of them count, and what happens when their files change while the script runs."""

import importlib
import importlib.util
import sys
import zipfile

import pytest

from pympipool.caching import modules
from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder from which modules are imported; they are gone after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modules, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()


def key(function, keys=None):
    return (keys or Keys()).of_call(function, (1,), {}, 1, "all")


def function_in(namespace, body):
    """Return a function of a script."""
    exec(f"def f(x):\n    {body}", namespace)
    return namespace["f"]


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


def test_relative_imports_in_functions_count(folder):
    write(folder / "relative_package" / "__init__.py", "")
    write(folder / "relative_package" / "part.py", "VALUE = 1\n")
    for body in ("from .part import VALUE; return VALUE", "from . import part; return part.VALUE"):
        function = function_in({"__name__": "__main__", "__package__": "relative_package"}, body)
        first = key(function)
        (folder / "relative_package" / "part.py").write_text(f"VALUE = {body!r}\n")
        assert key(function) != first


def test_modules_of_other_finders_count(folder, monkeypatch):
    class Finder:
        """Finds a project like those that are installed as editable."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            is_asked_for = name == "editable_project"
            return (
                importlib.util.spec_from_file_location(name, folder / "elsewhere" / "code.py") if is_asked_for else None
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    write(folder / "elsewhere" / "code.py", "VALUE = 1\n")
    function = function_in({"__name__": "__main__"}, "import editable_project; return editable_project.VALUE")
    first = key(function)
    write(folder / "elsewhere" / "code.py", "VALUE = 22\n")
    assert key(function) != first


def test_modules_in_archives_have_no_key(folder, monkeypatch):
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("in_archive.py", "def f(x):\n    return 1\n")
    monkeypatch.syspath_prepend(str(folder / "archive.zip"))
    import in_archive

    with pytest.raises(UnhashableError, match="the module in_archive, whose file cannot be read"):
        key(in_archive.f)


def test_modules_without_a_file_have_no_key(folder, monkeypatch):
    module = type(sys)("made_by_hand")
    exec("def f(x):\n    return 1", module.__dict__)
    module.__spec__ = importlib.util.spec_from_loader("made_by_hand", loader=None)
    monkeypatch.setitem(sys.modules, "made_by_hand", module)
    with pytest.raises(UnhashableError, match="made_by_hand, which has no file"):
        key(module.f)

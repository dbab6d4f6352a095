"""Modules in keys: which of them count."""

import importlib
import importlib.util
import sys
import warnings
import zipfile

import pytest

from pympipool.caching import modules
from pympipool.caching.values import UnhashableError
from support.module_keys import function_in, key, write


def test_reading_modules_repeats_no_warnings(folder):
    for name in ("first", "second"):
        write(folder / f"read_{name}.py", "def f(x):\n    return 1\n")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("first", "second"):
            key(importlib.import_module(f"read_{name}").f)
            warnings.warn_explicit("once", UserWarning, "script.py", 1, registry=vars(modules).setdefault("_shown", {}))
    del modules._shown
    assert len(shown) == 1


@pytest.mark.parametrize("text", [r'"\d"', "1 is 1"])
def test_modules_with_warnings_have_their_imports(folder, text):
    write(folder / "imported_too.py", "VALUE = 1\n")
    write(folder / "warning.py", f"import imported_too\n\ndef f(x):\n    return {text}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sys.modules.pop("warning", None)
        leaves = {}
        modules._modules._collect("warning", leaves)
    assert leaves.keys() == {"warning", "imported_too"}


def test_relative_imports_in_functions_count(folder):
    write(folder / "relative_package" / "__init__.py", "")
    write(folder / "relative_package" / "part.py", "VALUE = 1\n")
    bodies = [
        "from .part import VALUE; return VALUE",
        "from . import part; return part.VALUE",
        "import importlib; return importlib.import_module('.part', __package__).VALUE",
        "import relative_package.plugins; return relative_package.plugins",
    ]
    plugins = "from importlib import import_module\nVALUE = import_module('.part', __package__).VALUE\n"
    write(folder / "relative_package" / "plugins.py", plugins)
    for body in bodies:
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

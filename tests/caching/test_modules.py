"""Modules in keys: which of them count, and what happens when their files change while the script runs."""

import functools
import importlib
import importlib.util
import os
import shutil
import sys
import time
import warnings
import zipfile

import cloudpickle
import numpy as np
import pytest

from pympipool import Executor, shared_array
from pympipool.caching import file_stamps, installed, modules
from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError, digest_of
from pympipool.serialization import reloads
from support.waiting import wait_until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder from which modules are imported; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modules, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(modules, "_modules", modules._Modules())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    registered = cloudpickle.list_registry_pickle_by_value()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
        reloads.SPECS.pop(name, None)
        reloads._versions.pop(name, None)
    for name in cloudpickle.list_registry_pickle_by_value() - registered:
        cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.discard(name)


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


# ---- what this process has of a module, in place of what its file has ----


BY_VALUE = """\
import made_by_value_deeper
VALUE, LOCKS = 1, []

class Model:
    factor = 1

    def method(self, x):
        return x * self.factor

def f(x):
    return deeper(x)

def deeper(x):
    return Model().method(x) + VALUE
"""

REACHES = [
    lambda module: module.f,
    lambda module: module.Model,
    lambda module: module.Model().method,
    lambda module: function_in({"__name__": "__main__", "module": module}, "return module.f(x)"),
    lambda module: function_in({"__name__": "__main__", "imported": module.f}, "return imported(x)"),
    lambda module: functools.partial(max, module),
]


@pytest.mark.parametrize("reach", REACHES)
def test_modules_by_value_count_as_they_are(folder, reach):
    write(folder / "made_by_value_deeper.py", "VALUE = 1\n")
    write(folder / "made_by_value.py", BY_VALUE)
    module = importlib.import_module("made_by_value")
    by_file = key(reach(module))
    cloudpickle.register_pickle_by_value(module)
    keys = Keys()
    assert by_file != key(reach(module), keys) == key(reach(module))
    digests = {key(reach(module), keys)}
    module.Model.factor = module.VALUE = 2
    digests.add(key(reach(module), keys))
    module.Model.factor = module.VALUE = 3
    digests.add(key(reach(module), keys))
    write(folder / "made_by_value.py", BY_VALUE + "# an edit of the file changes nothing\nOTHER = 1\n")
    digests.add(key(reach(module), keys))
    assert len(digests) == 3


def test_reloaded_modules_count_as_they_are(folder):
    write(folder / "made_reloaded.py", "VALUE = 1\n\ndef f(x):\n    return VALUE\n")
    import made_reloaded

    keys = Keys()
    first = key(made_reloaded.f, keys)
    write(folder / "made_reloaded.py", "VALUE = 22\n\ndef f(x):\n    return VALUE\n")
    importlib.reload(made_reloaded)
    second = key(made_reloaded.f, keys)  # by value, so it makes no difference what workers have imported
    write(folder / "made_reloaded.py", "VALUE = 333\n\ndef f(x):\n    return VALUE\n")
    assert first != second == key(made_reloaded.f, keys)


@pytest.mark.parametrize("reach", REACHES[:-1])
def test_calls_in_this_process_see_its_modules(folder, reach):
    write(folder / "made_by_value_deeper.py", "VALUE = 1\n")
    write(folder / "made_by_value.py", BY_VALUE.replace("[]", "[__import__('threading').Lock()]"))
    module = importlib.import_module("made_by_value")
    keys, workers = Keys(runs_here=True), Keys()
    first, by_file = key(reach(module), keys), key(reach(module), workers)
    assert first == key(reach(module), keys) != by_file
    module.Model.factor = module.VALUE = 2
    assert key(reach(module), keys) != first
    assert key(reach(module), workers) == by_file  # they import it anew
    module.Model.factor = module.VALUE = 1
    assert key(reach(module), keys) == first
    write(folder / "made_by_value_deeper.py", "VALUE = 22\n")
    assert key(reach(module), Keys(runs_here=True)) != first


def test_serial_calls_do_not_answer_those_of_workers(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    write(folder / "edited_after_import.py", "VALUE = 1\n\ndef f(x):\n    return VALUE\n")
    import edited_after_import

    write(folder / "edited_after_import.py", "VALUE = 22\n\ndef f(x):\n    return VALUE\n")
    with Executor(backend="serial", cache_directory=folder / "cache") as exe:
        assert exe.submit(edited_after_import.f, 0).result() == 1
        edited_after_import.VALUE = 333
        assert exe.submit(edited_after_import.f, 0).result() == 333
    with Executor(max_workers=1, cache_directory=folder / "cache") as exe:
        assert exe.submit(edited_after_import.f, 0).result() == 22
    assert key(abs, Keys(runs_here=True)) != key(abs)  # a script may have changed an installed package, too


WITH_STATE = """\
import contextvars, queue, threading

class State:
    lock = threading.Lock()

    def __init__(self):
        self.condition, self.value = threading.Condition(), 1

STATE, LOCK, WAITING = State(), threading.RLock(), queue.Queue()
SHARED, LOCAL, VARIABLE = None, threading.local(), contextvars.ContextVar("made")

def state(x):
    with LOCK:
        return STATE.value + WAITING.qsize()

def shared(x):
    return SHARED.sum()

def local(x):
    return LOCAL.value

def variable(x, default=VARIABLE):
    return default.get()
"""


def test_serial_calls_see_values_beside_locks(folder):
    write(folder / "made_with_state.py", WITH_STATE)
    import made_with_state as module

    keys = Keys(runs_here=True)
    digests = [key(module.state, keys)]
    module.STATE.value = 2
    digests.append(key(module.state, keys))
    module.WAITING.put(1)
    digests.append(key(module.state, keys))
    assert len(set(digests)) == 3
    module.LOCK, module.STATE.value = type(module.LOCK)(), 1
    module.WAITING.get(), module.WAITING.task_done()
    assert key(module.state, Keys(runs_here=True)) == digests[0]


@pytest.mark.parametrize("name", ["shared", "local", "variable"])
def test_serial_calls_have_no_key_for_unreadable_state(folder, name):
    write(folder / "made_with_state.py", WITH_STATE)
    import made_with_state as module

    module.SHARED = shared_array((3,), np.float64, fill=1)
    script = function_in({"__name__": "__main__", "module": module}, f"return module.{name.upper()}")
    for function in (getattr(module, name), script):
        with pytest.raises(UnhashableError, match=f"{name}|{name.upper()}"):
            key(function, Keys(runs_here=True))
    assert key(getattr(module, name))  # workers import it anew


def test_names_in_installed_modules_are_not_the_users(folder):
    write(folder / "made_users.py", "VALUE = 1\n")
    for name, is_users in {
        "numpy.zeros": False,
        "os.path.join": False,
        "made_users.VALUE": True,
        "nowhere": True,
    }.items():
        assert modules._modules.is_users(name) == is_users
    keys = Keys(runs_here=True)
    imports_installed = function_in({"__name__": "__main__"}, "from numpy import zeros; return zeros(x)")
    key(imports_installed, keys)
    assert keys._functions._known[id(imports_installed)][1] is not None  # its digest is kept


IMPORTS_LATE = """\
def f(x):
    import made_late
    return made_late.f(x)

def g(x):
    if x > 10:
        import made_late
    return x
"""


def test_serial_calls_see_what_they_import_themselves(folder):
    write(folder / "made_early.py", "VALUE = 1\n")
    write(
        folder / "made_late.py", "import made_early\nVALUE = 1\n\ndef f(x):\n    return x + VALUE + made_early.VALUE\n"
    )
    namespace = {"__name__": "__main__"}
    exec(IMPORTS_LATE, namespace)
    f, g = namespace["f"], namespace["g"]

    def session(expected, found, value=1):
        """Call f twice, and then after a change, in a script that has changed `made_early` at its beginning."""
        import made_early

        made_early.VALUE = value
        with Executor(backend="serial", cache_directory=folder / "cache") as exe:
            first = exe.submit(f, 1)
            after = exe.submit(abs, first)  # known by the call before, whose key does not tell what it has seen
            assert after.result() == first.result() == exe.submit(f, 1).result() == expected
            sys.modules["made_late"].VALUE = 5
            assert exe.submit(f, 1).result() == expected + 4
            assert exe._cache.counts.found == found
        del sys.modules["made_late"], sys.modules["made_early"]

    session(3, 0)
    session(3, 2)
    session(12, 0, value=10)
    session(12, 2, value=10)
    for found in (0, 1):
        with Executor(backend="serial", cache_directory=folder / "cache") as exe:
            assert exe.submit(g, 1).result() == 1  # does not import it
            assert exe._cache.counts.found == found


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


# ---- installed packages ----


@pytest.fixture
def install(folder, monkeypatch):
    """Install a package, with these lines in the list of its files."""
    site = folder / "site"
    monkeypatch.setattr(modules, "_LOADED_NS", time.time_ns() + 10**12)
    for module in (modules, installed):
        monkeypatch.setattr(module, "installed_folders", lambda: (f"{site}/",))
    monkeypatch.syspath_prepend(str(site))

    def install(*record, version="1.0", name="made_package"):
        if not (site / "made_package.py").exists():
            write(site / "made_package.py", "def f(x):\n    return x\n")
        for old in site.glob("*.dist-info"):
            shutil.rmtree(old)
        information = site / f"{name}-{version}.dist-info"
        write(information / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if record:
            write(information / "RECORD", "\n".join(record))
        modules.version_of_files(now=True)
        import made_package

        return key(made_package.f)

    yield install
    installed.forget_installations()


def test_a_package_is_another_one_with_other_files(install):
    listed = install("made_package.py,sha256=aaaa,30", "made_package-1.0.dist-info/RECORD,,")
    assert install("made_package.py,sha256=bbbb,30", "made_package-1.0.dist-info/RECORD,,") != listed
    assert install("made_package.py,sha256=aaaa,30", "more.py,sha256=cccc,30") != listed
    assert install("made_package.py,sha256=aaaa,30", version="1.1") != listed
    assert install() != listed


def test_older_executors_do_not_take_new_installations(install):
    install("made_package.py,sha256=aaaa,30")
    import made_package

    keys, here = Keys(), Keys(runs_here=True)
    first = key(made_package.f, keys)
    key(made_package.f, here)
    install("made_package.py,sha256=bbbb,30")
    with pytest.raises(UnhashableError, match="made_package, installed, which has changed since the executor was made"):
        key(made_package.f, keys)
    assert key(made_package.f) != first  # workers of a new executor import the new one
    with pytest.raises(UnhashableError, match="this process may have what it was"):
        key(made_package.f, Keys(runs_here=True))


def test_serial_calls_do_not_take_later_installations(install, monkeypatch):
    monkeypatch.setattr(modules, "_LOADED_NS", 0)
    install("made_package.py,sha256=aaaa,30")
    import made_package

    with pytest.raises(UnhashableError, match=r"made_package, installed, .* may have what it was"):
        key(made_package.f, Keys(runs_here=True))
    assert key(made_package.f)


def test_arrays_count_with_the_numpy_that_is_installed(monkeypatch):
    def digests(version):
        monkeypatch.setattr(modules, "_modules", modules._Modules())
        monkeypatch.setattr(modules, "installation_of", lambda _: installed.Installation(version, ()))
        return [digest_of(value) for value in (np.zeros(2), np.float64(2), [{1}, np.zeros(2), np.zeros(2)], 2.0)]

    first, second = digests(b"numpy 1"), digests(b"numpy 2")
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, False, True]


def test_a_file_beside_installed_packages_is_a_module(folder, install):
    listed = install("made_package.py,sha256=aaaa,30")
    (folder / "site" / "made_package.py").write_text("def f(x):\n    return x + 1\n")
    assert install("made_package.py,sha256=aaaa,30") == listed  # the installer has noted what it was
    first = install(name="of_another_package")
    (folder / "site" / "made_package.py").write_text("def f(x):\n    return x + 2\n")
    modules.version_of_files(now=True)
    import made_package

    assert key(made_package.f) != first


def test_a_namespace_may_be_installed_in_part(folder, install, monkeypatch):
    install("made_corp/core.py,sha256=aaaa,30", name="made_corp_core")
    write(folder / "site" / "made_corp" / "core.py", "VALUE = 1\n")
    write(folder / "made_corp" / "app.py", "from made_corp import util, core\n\ndef f(x):\n    return util.VALUE\n")
    write(folder / "made_corp" / "util.py", "VALUE = 1\n")
    app = importlib.import_module("made_corp.app")
    first = key(app.f)
    write(folder / "made_corp" / "util.py", "VALUE = 22\n")
    second = key(app.f)
    install("made_corp/core.py,sha256=bbbb,30", name="made_corp_core")
    assert len({first, second, key(app.f)}) == 3


def test_packages_count_that_an_installed_one_requires(folder, install, monkeypatch):
    def require(name, *requirements, version="1.0"):
        information = folder / "site" / f"{name}-1.0.dist-info"
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
        write(information / "METADATA", "".join([*lines, *map("Requires-Dist: {}\n".format, requirements)]))

    def found(*, of_extra, deeper):
        require(
            "made_package", "Made_middle>=1; python_version > '3'", "absent", "made_extra ; extra == 'all'", "damaged"
        )
        require("made_middle", "made.deeper (>=1)", "made_package")
        require("made_deeper", version=deeper)
        require("made_extra", version=of_extra)
        installed.forget_installations()
        return installed.installation_of("made_package").content

    install()
    (folder / "site" / "damaged-1.0.dist-info").mkdir()  # an installer was interrupted
    first = found(of_extra="1.0", deeper="1.0")
    assert found(of_extra="2.0", deeper="1.0") == first != found(of_extra="1.0", deeper="2.0")
    for name in ("absent", "made_deeper"):  # brought by another package for itself, or beside the script
        write(folder / "vendor" / "METADATA", "")
        write(folder / "vendor" / f"{name}-9.0.dist-info" / "METADATA", f"Name: {name}\nVersion: 9.0\n")
    monkeypatch.syspath_prepend(str(folder / "vendor"))
    assert found(of_extra="1.0", deeper="1.0") == first


def test_what_differs_between_machines_makes_no_other_package(install):
    listed = install("made_package.py,sha256=aaaa,30", "part/__init__.py,sha256=cccc,0")
    assert listed == install(
        "../../../bin/made,sha256=dddd,9",
        "part/__init__.py,sha256=cccc,0",
        "__pycache__/made_package.cpython-311.pyc,,",
        "made_package.py,sha256=aaaa,30",
        "made_package-1.0.dist-info/INSTALLER,sha256=eeee,4",
        "not a line of a list",
    )
    without = install()
    assert without == install()

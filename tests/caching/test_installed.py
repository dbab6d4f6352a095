"""Installed packages in keys."""

import importlib
import importlib.util
import shutil
import time

import numpy as np
import pytest

from pympipool.caching import installed, modules
from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError, digest_of
from support.module_keys import key, write


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

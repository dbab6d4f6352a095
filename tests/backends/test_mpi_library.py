from __future__ import annotations

import ctypes.util
import importlib.util
import subprocess
import sys

import pytest

from pympipool.backends import mpi_library
from pympipool.backends.mpi_library import Kind, Library, find_launcher, loaded_library
from pympipool.errors import WorkerStartError

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def clear_caches():
    yield
    mpi_library._probe.cache_clear()
    mpi_library._kind_of.cache_clear()


@pytest.fixture
def make_launcher(tmp_path, monkeypatch):
    """Create programs that report to be some mpiexec, in a folder in PATH or in another one."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python"))

    def make(folder, name, version):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{version}'\n")
        path.chmod(0o755)
        return str(path)

    return make


HYDRA = "HYDRA build details:"
OPEN_MPI = "mpiexec (Open MPI) 5.0.11"


@pytest.mark.mpi
def test_probe_does_not_initialize_mpi_here():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from pympipool.backends.mpi_library import loaded_library, find_launcher\n"
        "print(find_launcher(loaded_library()).kind is loaded_library().kind, 'mpi4py.MPI' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert answer.stdout.split() == ["True", "False"]


def test_missing_mpi4py_error_names_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkerStartError, match=r"mpi4py, which is not installed.*`pip install mpi4py mpich`"):
        loaded_library()


@pytest.mark.mpi
def test_load_error_of_mpi4py_is_quoted(monkeypatch):
    monkeypatch.setenv("MPI4PY_LIBMPI", "/no/such/libmpi.so")
    with pytest.raises(WorkerStartError, match=r"cannot load an MPI library.*`pip install mpi4py mpich`") as raised:
        loaded_library()
    assert "/no/such/libmpi.so" in str(raised.value)


def test_library_under_another_name_is_named(monkeypatch):
    """As Debian's MPICH is."""
    monkeypatch.setattr(ctypes.util, "find_library", {"mpich": "libmpich.so.12"}.get)
    monkeypatch.setattr(mpi_library, "_PROBE", "raise ImportError('libmpi.so.12: cannot open shared object file')")
    mpi_library._probe.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        WorkerStartError, match=r"libmpich.so.12 is installed.*LD_LIBRARY_PATH.*`pip install --no-binary"
    ):
        loaded_library()


def test_broken_interpreter_is_reported(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WorkerStartError, match=r"cannot find out which MPI library.*/no/such/python"):
        loaded_library()


def test_mpiexec_beside_the_library_comes_first(make_launcher, tmp_path):
    make_launcher("path", "mpiexec", HYDRA)
    beside_python = make_launcher("python", "mpiexec", HYDRA)
    beside_library = make_launcher("mpi/bin", "mpiexec", HYDRA)
    assert find_launcher(Library("MPICH Version: 5.0", f"{tmp_path}/mpi/lib/libmpi.so.12")).path == beside_library
    assert find_launcher(Library("MPICH Version: 5.0", "")).path == beside_python


def test_mpiexec_of_another_mpi_is_skipped(make_launcher):
    make_launcher("python", "mpiexec", HYDRA)
    right = make_launcher("path", "mpiexec", OPEN_MPI)
    assert find_launcher(Library("Open MPI v5.0.11", "")) == (right, Kind.OPEN_MPI)


def test_unambiguous_names_are_tried_first(make_launcher):
    make_launcher("path", "mpiexec", OPEN_MPI)
    right = make_launcher("path", "mpiexec.mpich", HYDRA)
    assert find_launcher(Library("MPICH Version: 4.1", "")) == (right, Kind.HYDRA)


def test_missing_mpiexec_error_lists_others(make_launcher):
    wrong = make_launcher("path", "mpiexec", HYDRA)
    unknown = make_launcher("python", "mpirun", "no idea")
    with pytest.raises(WorkerStartError) as raised:
        find_launcher(Library("Open MPI v5.0.11", "/opt/lib/libmpi.so.40"))
    message = str(raised.value)
    assert "Open MPI v5.0.11 (/opt/lib/libmpi.so.40)" in message
    assert f"{wrong} (of MPICH)" in message
    assert f"{unknown} (of an unknown MPI)" in message
    assert "pip install mpi4py mpich" in message


def test_file_that_cannot_run_is_skipped(make_launcher, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "mpiexec").write_text("not executable")
    (tmp_path / "python" / "mpiexec").mkdir(parents=True)
    broken = make_launcher("path", "mpiexec.hydra", "")
    with open(broken, "w") as file:
        file.write("#!/no/such/interpreter\n")
    with pytest.raises(WorkerStartError, match=r"mpiexec\.hydra \(of an unknown MPI\)"):
        find_launcher(Library("MPICH Version: 5.0", ""))

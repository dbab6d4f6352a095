"""Workers of several ranks, by the mpiexec of Intel MPI, and by one that starts ranks as that of MS-MPI does (`standin_mpiexec.c`).

No MPI library can run under Wine. So mpi4py is a stand-in, `standin/mpi4py`.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

pytest.importorskip("_winapi", reason="only for Windows: make test-windows runs it under Wine")

from pympipool import Executor
from pympipool._util.service_threads import ServiceThread
from pympipool.backends import mpi_library
from pympipool.backends.local.mpiexec_windows import MpiJob
from pympipool.backends.local.process_windows import KILLED
from pympipool.diagnostics.environment.mpi import probe_mpi
from pympipool.errors import WorkerDied, WorkerStartError
from support.waiting import wait_until

LIMIT_S = 60
STANDIN = Path(__file__).parents[1] / "csrc" / "build" / "windows" / "standin_mpiexec.exe"
OPTIONS = {"block_allocation": True, "backend": "mpi", "oversubscribe": True}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """library(version): an mpi4py that says that it has loaded this MPI library."""

    def be(version):
        monkeypatch.setenv("STANDIN_MPI_VERSION", version)
        mpi_library._probe.cache_clear()

    monkeypatch.setenv("STANDIN_MPI_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "standin"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    yield be
    mpi_library._probe.cache_clear()


@pytest.fixture
def ms_mpi(library, tmp_path, monkeypatch):
    """The mpiexec of MS-MPI in PATH, in a folder with spaces and umlauts."""
    if not STANDIN.exists():
        pytest.skip(f"{STANDIN.name} is not compiled: make -C tests/csrc windows")
    home = tmp_path / "MPI für alle"
    home.mkdir()
    shutil.copy(STANDIN, home / "mpiexec.exe")
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    library("Microsoft MPI 10.1.0.0")


@pytest.fixture
def intel_mpi(library, monkeypatch):
    """The mpiexec of Intel MPI in PATH."""
    places = [Path(sysconfig.get_path(name), "Library", "bin") for name in ("data", "purelib")]
    place = next((place for place in places if (place / "mpiexec.exe").exists()), None)
    if place is None:
        pytest.skip("Intel MPI is not installed: pip install impi-rt")
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    library("Intel(R) MPI Library 2021.19 for Windows* OS")


@pytest.fixture(params=["ms_mpi", "intel_mpi"])
def mpi(request):
    """Each of the two."""
    request.getfixturevalue(request.param)


def place(text=""):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if text:
        print(f"{text} from rank {world.rank}")
    return world.rank, world.size, world.allreduce(world.rank + 1)


def end_rank(which, code):
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == which:
        os._exit(code)
    time.sleep(LIMIT_S)


def raise_on_rank(which):
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == which:
        raise KeyError(f"of rank {which}")
    return MPI.COMM_WORLD.rank


def test_all_ranks_run_each_call(mpi, capfd):
    with Executor(max_workers=1, cores_per_worker=3, **OPTIONS) as exe:
        assert exe.submit(place, "a line").result(LIMIT_S) == [(rank, 3, 6) for rank in range(3)]
        data = os.urandom(3_000_000)
        assert exe.submit(bytes, data).result(LIMIT_S) == [data] * 3
        assert list(exe.map(pow, [2] * 5, range(5))) == [[2**n] * 3 for n in range(5)]
        error = exe.submit(raise_on_rank, 1).exception(LIMIT_S)
        assert isinstance(error, KeyError)
        assert exe.submit(place).result(LIMIT_S)[2] == (2, 3, 6)
    assert {f"a line from rank {rank}" for rank in range(3)} <= set(capfd.readouterr().out.splitlines())


def test_dead_rank_fails_its_call_alone(mpi, capfd):
    with Executor(max_workers=1, cores_per_worker=2, **OPTIONS) as exe:
        with pytest.raises(WorkerDied, match="exit code 7") as caught:
            exe.submit(end_rank, 1, 7).result(LIMIT_S)
        assert caught.value.rank == 1
        assert exe.submit(place).result(LIMIT_S) == [(0, 2, 3), (1, 2, 3)]
    assert "job aborted" not in capfd.readouterr().out  # as MS-MPI's says


def test_call_without_block_allocation_gets_ranks(ms_mpi):
    with Executor(max_workers=2, backend="mpi", oversubscribe=True) as exe:
        call = exe.submit(time.sleep, LIMIT_S * 10, resource_dict={"cores": 2})
        wait_until(call.running)
        assert call.cancel(force=True)
        assert exe.submit(place, resource_dict={"cores": 2}).result(LIMIT_S) == [(0, 2, 3), (1, 2, 3)]


def test_ranks_outside_of_the_job_end_too():
    """They are there if mpiexec has started something before it became a member of the job."""
    rank = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    job = MpiJob([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, None, lambda function: function())
    job.add_rank(1, rank.pid)
    try:
        job.kill()
        wait_until(lambda: job.poll() is not None)
        assert rank.wait(LIMIT_S) == KILLED
        assert job.exit_status_of(1) == (1, -9)
    finally:
        rank.kill()
        rank.stdin.close()
        job.close()


def test_without_threads_no_job_stays(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    processes = []
    start = MpiJob._start
    monkeypatch.setattr(ServiceThread, "start", fail)
    monkeypatch.setattr(MpiJob, "_start", lambda *args: processes.append(start(*args)) or processes[0])
    with pytest.raises(WorkerStartError, match="can't start new thread"):
        MpiJob([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, None, lambda function: function())
    (process,) = processes
    process.wait(LIMIT_S)
    assert process.stdout.closed
    assert process.stderr.closed


def test_info_knows_the_library_and_its_mpiexec(ms_mpi):
    found = probe_mpi()
    assert (found.kind, found.version, found.error) == ("MS-MPI", "Microsoft MPI 10.1.0.0", None)
    assert not found.another_in_path


def test_mpiexec_of_another_library_is_refused(ms_mpi, library):
    library("Open MPI v5.0.11")
    with pytest.raises(
        WorkerStartError, match=r"mpi4py loads Open MPI.*mpiexec\.exe \(of MS-MPI\).*pip install mpi4py impi-rt"
    ):
        Executor(max_workers=1, cores_per_worker=2, **OPTIONS)

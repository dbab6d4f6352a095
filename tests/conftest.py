"""Fixtures: executors that are closed, gates at which calls wait, and a check of what a module leaves behind."""

from __future__ import annotations

import copyreg
import functools
import gc
import os
import signal
import tempfile
import threading
from pathlib import Path

import hypothesis
import pytest

from pympipool import Executor
from pympipool._util.platform import IS_WINDOWS
from pympipool.backends.mpi_library import find_launcher, loaded_library
from pympipool.errors import WorkerStartError
from pympipool.serialization import describe_shared
from support.flux_instance import make_instance, running_one_broker, running_two_brokers  # noqa: F401  fixtures
from support.gate import Gate
from support.hang_watch import HangWatch
from support.leftover_files import forgotten_files, shared_memory_files
from support.parallel import make_scheduler, turn_of
from support.places import MODE_IDS, THIS_MACHINE, parametrize_places, repeat_less, workers_at
from support.processes import ENDED_S, MARK, new_mark, own_processes, still_alive
from support.slurm_cluster import running_cluster  # noqa: F401  a fixture
from support.ssh_hosts import running_hosts  # noqa: F401  a fixture
from support.windows_selection import reason_to_leave_out

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@functools.cache
def why_no_mpi() -> str | None:
    """Return the reason why MPI workers cannot be started here, or None."""
    try:
        find_launcher(loaded_library())
    except WorkerStartError as error:
        return f"no MPI here: {error}"  # names the remedy
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return make_scheduler(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    repeat_less(config, items)
    for item in items if IS_WINDOWS else ():
        if reason := reason_to_leave_out(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=reason))


WATCH = pytest.StashKey[HangWatch]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the watch, here because stderr is not captured yet. Heed Ctrl-C, as scripts do that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells have their background processes ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    runs_no_tests = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not runs_no_tests and not config.getoption("usepdb") and hasattr(os, "pidfd_open"):
        config.stash[WATCH] = HangWatch(Path(tempfile.gettempdir()), stderr=2)


def pytest_unconfigure(config: pytest.Config) -> None:
    if WATCH in config.stash:
        config.stash[WATCH].close()
        del config.stash[WATCH]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    with turn_of(item):
        try:
            return (yield)
        finally:
            if WATCH in item.config.stash:
                item.config.stash[WATCH].end()


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item, settings):
    if WATCH in item.config.stash:
        item.config.stash[WATCH].begin(item.nodeid, settings.timeout)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the stacks to the report of a test that has reached its time limit."""
    result = yield
    stacks = item.config.stash[WATCH].report() if result.failed and WATCH in item.config.stash else None
    if stacks:
        result.sections.append(("Stacks and states shortly before the time limit", stacks))
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_places(metafunc)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mpi") and why_no_mpi():
        pytest.skip(why_no_mpi())


@pytest.fixture(scope="session", autouse=True)
def mark():
    """Mark all processes that the tests start, see `support.processes`."""
    os.environ[MARK] = new_mark()
    yield os.environ[MARK]
    del os.environ[MARK]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(mark):
    """Fail if a module of tests leaves a process, a thread, shared memory or shared data behind."""
    processes = {process.pid for process in own_processes(mark)}
    threads = set(threading.enumerate())
    files = shared_memory_files()
    yield
    started = [process for process in own_processes(mark) if process.pid not in processes]
    assert still_alive(started) == []
    new = [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("pympipool")]
    for thread in new:
        thread.join(ENDED_S)
    assert [thread for thread in new if thread.is_alive()] == []
    assert forgotten_files(shared_memory_files, files) == set()
    if describe_shared():
        gc.collect()  # of handles in garbage that refers to itself
    assert describe_shared() == ""


@pytest.fixture(params=["class", "copyreg"])
def any_registration(request, monkeypatch):
    """any_registration(kind): with "copyreg", register exceptions of this type with pickle, as tblib and dask do."""
    if request.param == "class":
        return lambda kind: None
    return lambda kind: monkeypatch.setitem(copyreg.dispatch_table, kind, _reduce_with_shared_attributes)


def _reduce_with_shared_attributes(error):
    return _rebuild_with_shared_attributes, (type(error), error.args, error.__dict__, error.__traceback__)


def _rebuild_with_shared_attributes(kind, args, attributes, traceback):
    error = kind.__new__(kind)
    error.args, error.__dict__, error.__traceback__ = args, attributes, traceback
    return error


@pytest.fixture(params=MODE_IDS, ids=MODE_IDS.values(), scope="module")
def block_allocation(request):
    return request.param


@pytest.fixture(scope="module")
def many(block_allocation):
    """many(a, b): a calls with block allocation, b calls where each call starts a process, which takes longer."""
    return lambda in_block, by_process: in_block if block_allocation else by_process


@pytest.fixture(scope="module")
def where_workers_are(request):
    """Parameters that place workers: on this machine, unless the module of tests is marked `anywhere`."""
    with workers_at(getattr(request, "param", THIS_MACHINE), request) as parameters:
        yield parameters


@pytest.fixture(scope="module")
def executor(block_allocation, where_workers_are):
    """An executor of two workers for tests that do not change it."""
    with Executor(max_workers=2, block_allocation=block_allocation, **where_workers_are) as exe:
        yield exe


@pytest.fixture
def opened():
    """The executors of a test, which are closed after it."""
    executors = []
    yield executors
    close(executors)


def close(executors):
    for exe in executors:
        exe.shutdown(wait=False, cancel_futures=True)
    while executors:
        executors.pop().shutdown()


@pytest.fixture
def make_executor(opened, block_allocation, where_workers_are):
    """Make executors in the mode under test, which are closed after the test; default: one worker."""
    return make_with(opened, block_allocation=block_allocation, **where_workers_are)


@pytest.fixture
def make_block_executor(opened, where_workers_are):
    """Make executors with block allocation, for tests that make sense in no other mode."""
    return make_with(opened, block_allocation=True, **where_workers_are)


def make_with(executors, **defaults):
    def make(max_workers=1, **parameters):
        executors.append(Executor(max_workers=max_workers, **{**defaults, **parameters}))
        return executors[-1]

    return make


@pytest.fixture
def make_gate(tmp_path, opened):
    """Make gates, which open before the executors of the test are closed."""
    gates = []

    def make():
        folder = tmp_path / f"gate-{len(gates)}"
        folder.mkdir()
        gates.append(Gate(folder))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open(1000)
    close(opened)
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(make_gate):
    return make_gate()

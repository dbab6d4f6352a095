"""The forkserver, which may be stopped, killed or broken, and requests that are to survive that."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from pympipool import Executor
from pympipool._util import subprocesses
from pympipool._util.import_path import package_folder
from pympipool.backends.local import forkserver as module
from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError
from support.calls import hold
from support.processes import children_with, is_alive
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

EXIT_CODE = 1
"""Exit code of a worker that gets no configuration."""


@pytest.fixture
def spawner():
    spawner = ForkserverSpawner()
    yield spawner
    spawner.close()


@pytest.fixture
def exe():
    with Executor(max_workers=2, block_allocation=False) as exe:
        yield exe


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.3)


def request(number, **variables):
    return LaunchRequest(number, ranks=1, environment={"PYMPIPOOL_PATH": package_folder(), **variables})


def forkservers():
    """Return our forkservers."""
    return children_with("pympipool_fork_server")


def wait_for(workers, spawner):
    """Wait for the ends of workers, and check the forkserver as a supervisor does."""

    def all_ended():
        spawner.check()
        return None not in [worker.poll() for worker in workers]

    wait_until(all_ended)
    codes = [worker.poll() for worker in workers]
    for worker in workers:
        worker.close()
    return codes


def test_closed_pipes_do_not_end_the_forkserver(spawner, capfd):
    before = set(psutil.Process().children())
    first = spawner.start(request(1))
    (forkserver,) = set(psutil.Process().children()) - before
    assert first.wait(30) == EXIT_CODE
    first.close()
    forkserver.suspend()
    spawner.start(request(2)).close()
    forkserver.resume()
    third = spawner.start(request(3))
    assert third.wait(30) == EXIT_CODE
    third.close()
    assert set(psutil.Process().children()) - before == {forkserver}
    assert "Traceback" not in capfd.readouterr().err


def test_stopped_forkserver_is_replaced(exe, short_timeouts):
    exe.submit(pow, 2, 3).result()
    (stopped,) = forkservers()
    stopped.suspend()
    assert [exe.submit(pow, 2, i).result() for i in range(3)] == [1, 2, 4]
    wait_until(lambda: not is_alive(stopped.pid))


def test_stopped_forkserver_hinders_no_end(exe, gate):
    exe.submit(pow, 2, 3).result()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    (stopped,) = forkservers()
    stopped.suspend()
    gate.open()
    call.result()
    waiting = exe.submit(time.sleep, 1000)
    exe.shutdown(cancel_futures=True, wait=False)
    exe.__exit__(KeyboardInterrupt, None, None)
    assert waiting.cancelled() or waiting.exception() is not None
    wait_until(lambda: not is_alive(stopped.pid))


def test_time_limit_holds_without_forkserver(short_timeouts):
    with Executor(max_workers=1, block_allocation=False) as exe:
        exe.submit(pow, 2, 3).result()
        call = exe.submit(time.sleep, 1000, resource_dict={"run_time_max": 0.5})
        wait_until(lambda: call.running() or call.done())  # if it has ended, the test covers less
        (stopped,) = forkservers()
        stopped.suspend()
        assert isinstance(call.exception(30), TimeoutError)
        assert exe.submit(pow, 2, 3).result(30) == 8


def test_request_to_stopped_forkserver_returns_at_once(spawner, short_timeouts):
    """The requests are far larger than the buffer of a socket."""
    wait_for([spawner.start(request(1))], spawner)
    (stopped,) = forkservers()
    stopped.suspend()
    workers = [spawner.start(request(number, TEXT="x" * 50_000)) for number in range(2, 42)]
    assert wait_for(workers, spawner) == [EXIT_CODE] * 40
    wait_until(lambda: not is_alive(stopped.pid))


def test_requests_survive_killed_forkservers(spawner):
    wait_for([spawner.start(request(1))], spawner)
    for _ in range(2):
        (victim,) = forkservers()
        victim.suspend()
        workers = [spawner.start(request(number)) for number in range(2, 10)]
        victim.kill()
        assert wait_for(workers, spawner) == [EXIT_CODE] * 8
        assert not any(worker.start_failure for worker in workers)


def test_withdrawn_request_starts_no_worker(spawner):
    wait_for([spawner.start(request(1))], spawner)
    (forkserver,) = forkservers()
    forkserver.suspend()
    worker = spawner.start(request(2))
    worker.kill()
    assert worker.poll() == -signal.SIGKILL
    worker.close()
    forkserver.resume()
    assert spawner.check() is None


def test_request_without_memory_leaves_nothing(spawner, monkeypatch):
    wait_for([spawner.start(request(1))], spawner)
    before = set(os.listdir("/proc/self/fd"))

    def refuse(*_):
        raise MemoryError("injected")

    with monkeypatch.context() as patches:
        patches.setattr(module.Forkserver, "send", refuse)
        with pytest.raises(MemoryError):
            spawner.start(request(2))
    assert set(os.listdir("/proc/self/fd")) <= before
    assert spawner.check() is None  # it asks for no worker that nothing knows
    assert wait_for([spawner.start(request(3))], spawner) == [EXIT_CODE]


@pytest.fixture
def broken_import(monkeypatch, tmp_path):
    """Workers cannot import a module that they need, and find in a folder of the script."""
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('broken on this node')\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_failed_import_of_forkserver_is_told(exe, broken_import, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FAILURES_MAX", 2)
    with pytest.raises(WorkerStartError, match="ImportError: broken on this node"):
        exe.submit(pow, 2, 3).result()
    (tmp_path / "cloudpickle.py").unlink()
    assert exe.submit(pow, 2, 3).result() == 8


def test_failed_starts_are_counted_in_rounds(spawner, broken_import, monkeypatch):
    monkeypatch.setattr(module, "RESTART_DELAY_S", 0.01)
    workers = [spawner.start(request(number)) for number in range(8)]
    assert wait_for(workers, spawner) == [EXIT_CODE] * 8
    errors = {id(worker.start_failure) for worker in workers}
    assert len(errors) == 8  # each has an exception of its own
    assert all("broken on this node" in str(worker.start_failure) for worker in workers)


def test_exit_code_without_report_is_known(spawner):
    started = spawner.start(request(1))
    wait_for([started], spawner)
    (forkserver,) = forkservers()
    worker = spawner.start(request(2, PYMPIPOOL_ADDRESS="@none", PYMPIPOOL_KEY="00", PYMPIPOOL_WORKER="2"))
    wait_until(lambda: worker.poll() is not None or worker.pid)
    forkserver.suspend()
    worker.kill()
    wait_until(lambda: worker.poll() is not None)
    assert worker.poll() in (EXIT_CODE, -signal.SIGKILL)
    worker.close()
    assert os.path.exists(f"/proc/{forkserver.pid}")


def test_requests_survive_forkserver_that_cannot_be_killed(exe, short_timeouts, monkeypatch):
    """A process that hangs in a file system keeps its pipes open, so nothing shows that it is lost."""
    exe.submit(pow, 2, 3).result()
    (stopped,) = forkservers()
    stopped.suspend()
    monkeypatch.setattr(module.subprocesses, "end", subprocesses.reap_later)
    assert exe.submit(pow, 2, 4).result() == 16
    monkeypatch.undo()
    assert is_alive(stopped.pid)
    stopped.kill()
    wait_until(lambda: not is_alive(stopped.pid))
    subprocesses.reap_later()

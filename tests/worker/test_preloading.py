"""Modules that are imported before workers are forked: those that calls have imported, and those that the user names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pympipool import Executor
from pympipool.worker.forkserver import Forkserver
from pympipool.worker.preloading import Preloading
from support.processes import children_with
from support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="the checks that make it safe need /proc: run on Linux"),
]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that makes a module that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield make
    for name in [name for name, one in sys.modules.items() if str(tmp_path) in str(getattr(one, "__file__", ""))]:
        del sys.modules[name]


def modules_at_start(name):
    """Return the call's value of a name in sys.modules, as text."""
    return name in sys.modules, os.getppid()


def import_numpy():
    import numpy as np

    return np.__name__


def random_number():
    import numpy as np

    return float(np.random.random())


def the_forkserver():
    (forkserver,) = children_with("pympipool_fork_server")
    return forkserver


def is_preloaded(exe, name):
    return exe.submit(modules_at_start, name).result()[0]


def test_learned_modules_are_imported_before_calls():
    with Executor(max_workers=1) as exe:
        assert not is_preloaded(exe, "numpy")
        exe.submit(import_numpy).result()
        wait_until(lambda: is_preloaded(exe, "numpy"))


def test_calls_without_a_target_report_no_imports(monkeypatch):
    """There is none without /proc, and for further environments."""
    reports = []
    monkeypatch.setattr(
        "pympipool.worker.forkserver.report_imports", lambda _reporter, target, _known: reports.append(target)
    )
    requests, other = socket.socketpair()
    with requests, other:
        server = Forkserver(requests, reporter=requests)
        for descriptor in server.wakeup_pipe:
            os.close(descriptor)
        server._report_imports(SimpleNamespace(preload=None), server.target)
        server._report_imports(SimpleNamespace(preload=None), 0)
    assert reports == [0]


def test_named_modules_are_imported_before_calls(module):
    name = module("named", "value = 1")
    with Executor(max_workers=1, preload=[name]) as exe:
        wait_until(lambda: is_preloaded(exe, "named"))


def test_empty_preload_imports_nothing():
    with Executor(max_workers=1, preload=()) as exe:
        for _ in range(3):
            exe.submit(import_numpy).result()
        forkserver = the_forkserver()
        assert not is_preloaded(exe, "numpy")
        wait_until(lambda: forkserver.children() == [])


def test_user_modules_are_not_learned(module):
    name = module("mine", "value = 1")
    with Executor(max_workers=1) as exe:
        for value in (1, 2):
            exe.submit(import_numpy).result()
            module("mine", f"value = {value}  #" + "." * value)
            wait_until(lambda: is_preloaded(exe, "numpy"))
            assert exe.submit(eval, f"__import__({name!r}).value").result() == value


def test_preloaded_numpy_gives_each_call_other_random_numbers():
    with Executor(max_workers=1, preload=["numpy"]) as exe:
        wait_until(lambda: is_preloaded(exe, "numpy"))
        numbers = [exe.submit(random_number).result() for _ in range(4)]
    assert len(set(numbers)) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "starts a thread",
        ),
        ("import socket; kept = socket.socket()", "opens socket:"),
        ("raise SystemExit('no GPU')", "SystemExit: no GPU"),
        ("undefined", "NameError"),
    ],
    ids=["thread", "socket", "exit", "error"],
)
def test_unsafe_module_is_left_to_calls(module, capfd, text, told):
    module("unsafe", text)
    module("harmless", "")
    with Executor(max_workers=1, preload=["harmless", "unsafe"]) as exe:
        wait_until(lambda: is_preloaded(exe, "harmless"))
        assert not is_preloaded(exe, "unsafe")
    assert "preload: unsafe: " in (err := capfd.readouterr().err)
    assert told in err


def test_deadly_module_is_left_to_calls(module):
    module("deadly", "import os; os._exit(3)")
    with Executor(max_workers=1, preload=["deadly"]) as exe:
        for _ in range(3):
            assert not is_preloaded(exe, "deadly")


def test_slow_import_delays_no_call(module, tmp_path):
    module("endless", f"import time; open({str(tmp_path / 'begun')!r}, 'w').close(); time.sleep(1000)")
    with Executor(max_workers=1, preload=["endless"]) as exe:
        assert [exe.submit(abs, -1).result() for _ in range(3)] == [1, 1, 1]
        forkserver = the_forkserver()
        wait_until((tmp_path / "begun").exists)
        wait_until(lambda: len(forkserver.children()) == 1)  # the processes of the calls may still be ending
        (importing,) = forkserver.children()
        opened = {}
        for file in Path(f"/proc/{importing.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # of a file that it has read meanwhile
                opened[file.name] = os.readlink(file)
        assert [file for number, file in opened.items() if int(number) > 2 and file.startswith("pipe:")] == []
    wait_until(lambda: not importing.is_running())


def test_other_environment_is_not_served_by_same_process(module, monkeypatch):
    module("reads", "import os; value = os.environ.get('READ_AT_IMPORT')")
    with Executor(max_workers=1, preload=["reads"]) as exe:
        for value in ("first", "second"):
            monkeypatch.setenv("READ_AT_IMPORT", value)
            wait_until(lambda: is_preloaded(exe, "reads"))
            assert exe.submit(eval, "__import__('reads').value").result() == value


def test_killed_preloaded_process_is_replaced(module):
    name = module("named", "")
    with Executor(max_workers=1, preload=[name]) as exe:
        wait_until(lambda: is_preloaded(exe, name))
        preloaded = exe.submit(modules_at_start, name).result()[1]
        os.kill(preloaded, signal.SIGKILL)
        wait_until(lambda: exe.submit(modules_at_start, name).result() not in [(True, preloaded), (False, preloaded)])
        wait_until(lambda: is_preloaded(exe, name))


def test_exit_code_of_worker_of_preloaded_process(module):
    name = module("named", "")
    with Executor(max_workers=1, preload=[name]) as exe:
        wait_until(lambda: is_preloaded(exe, name))
        with pytest.raises(Exception, match="exit code 7"):
            exe.submit(os._exit, 7).result()


def test_preloaded_process_ends_with_killed_forkserver(module):
    name = module("named", "")
    with Executor(max_workers=1, preload=[name]) as exe:
        wait_until(lambda: is_preloaded(exe, name))
        forkserver = the_forkserver()
        (preloaded,) = forkserver.children()
        forkserver.kill()
        wait_until(lambda: not preloaded.is_running() or preloaded.status() == psutil.STATUS_ZOMBIE)
        assert exe.submit(abs, -1).result() == 1


@pytest.mark.parametrize(
    ("preload", "told"),
    [
        (["no_such_module"], "no module 'no_such_module'"),
        (["mpi4py.MPI"], "MPI cannot be started before a fork"),
        ("numpy", "must be a list of str"),
    ],
)
def test_wrong_preload_is_refused(preload, told):
    with pytest.raises((ValueError, TypeError), match=told):
        Executor(max_workers=1, preload=preload)


def test_modules_see_no_variables_of_workers(module, monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_OF_A_WORKER", "secret")
    name = module("sees", "import os; seen = [name for name in os.environ if name.startswith('PYMPIPOOL_')]")
    with Executor(max_workers=1, preload=[name]) as exe:
        wait_until(lambda: is_preloaded(exe, name))
        assert exe.submit(eval, f"__import__({name!r}).seen").result() == []
        assert exe.submit(os.getenv, "PYMPIPOOL_OF_A_WORKER").result() == "secret"


def test_job_of_an_agent_preloads_nothing():
    preloading = Preloading(lambda _: None, lambda _: None, lambda *_: None, lambda: None)
    with preloading.reporter, preloading._reports:
        targets = [preloading.target_for(one, [], ("numpy",)) for one in ({"PYMPIPOOL_JOB": "[]"}, {})]
    assert [target is None for target in targets] == [True, False]


def test_call_can_name_modules_itself(module):
    name = module("named", "")
    with Executor(max_workers=1) as exe:
        wait_until(lambda: exe.submit(modules_at_start, name, resource_dict={"preload": [name]}).result()[0])
        assert not is_preloaded(exe, name)


def test_arrays_pass_through_preloaded_process():
    import numpy

    array = numpy.arange(100_000.0)
    with Executor(max_workers=1, preload=["numpy"]) as exe:
        wait_until(lambda: is_preloaded(exe, "numpy"))
        assert exe.submit(numpy.sum, array).result() == array.sum()

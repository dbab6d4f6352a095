"""gevent and eventlet: executors work in patched programs, and green threads run while one of them waits for a call."""

from __future__ import annotations

import importlib.util

import pytest

from support.scripts import run_script

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent_without_threads": "from gevent import monkey; monkey.patch_all(thread=False)",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet_without_threads": "import eventlet; eventlet.monkey_patch(thread=False)",
}


def patch_by(name):
    """Return the source of a patch, or skip the test. The library is not imported here: it changes its process."""
    library = name.partition("_")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'{library} is not installed: pip install ".[ecosystem]"')
    return "import warnings; warnings.simplefilter('ignore')\n" + PATCHES[name]


@pytest.fixture(params=PATCHES)
def patch(request):
    return patch_by(request.param)


@pytest.fixture(params=["gevent", "eventlet"])
def full_patch(request):
    return patch_by(request.param)


CALLS = """
from concurrent.futures import FIRST_COMPLETED, as_completed, wait

def fail(x):
    raise ValueError(x)

with Executor(max_workers=2, backend="mpi", block_allocation={block}) as exe:
    calls = [exe.submit(pow, 2, n) for n in range(4)]
    assert wait(calls, return_when=FIRST_COMPLETED).done
    assert sorted(call.result() for call in as_completed(calls)) == [1, 2, 4, 8]
    assert not wait(calls).not_done
    assert list(exe.map(abs, range(-3, 0))) == [3, 2, 1]
    assert isinstance(exe.submit(fail, 1).exception(), ValueError)
print("good")
"""


@pytest.mark.parametrize("block", [True, False])
def test_calls_end_when_patched_before_import(patch, block, tmp_path):
    source = f"{patch}\nfrom pympipool import Executor\n" + CALLS.format(block=block)
    assert run_script(source, tmp_path) == "good\n"


@pytest.mark.parametrize("block", [True, False])
def test_calls_end_when_patched_after_import(patch, block, tmp_path):
    source = f"from pympipool import Executor\n{patch}\n" + CALLS.format(block=block)
    assert run_script(source, tmp_path) == "good\n"


WAITING = """
from pympipool import Executor
from concurrent.futures import Future, wait
import threading

with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
    for way in ("result", "exception", "wait"):
        given = Future()
        call = exe.submit(pow, given, 2)
        threading.Timer(0.05, given.set_result, [3]).start()  # a green thread: it ends only if the others get their turn
        wait([call]) if way == "wait" else getattr(call, way)()
        assert call.result() == 9
    given = Future()
    call = exe.submit(pow, given, 2)
    threading.Timer(0.05, given.set_result, [3]).start()
assert call.result() == 9
print("good")
"""


def test_others_run_while_one_waits(full_patch, tmp_path):
    assert run_script(full_patch + WAITING, tmp_path) == "good\n"


CALLBACKS = """
from pympipool import Executor
import threading

ended = threading.Event()
where = []

def callback(future):
    where.append(threading.get_ident() != creator)
    ended.set()

creator = threading.get_ident()
with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
    call = exe.submit(pow, 2, 3)
    call.add_done_callback(callback)
    assert ended.wait(60)
    waiting = exe.submit(__import__("time").sleep, 60)
    try:
        waiting.result(timeout=0.1)
    except TimeoutError:
        print("late")
    waiting = None
    exe._engine.kill()
print(where)
"""


def test_callbacks_run_in_green_threads(full_patch, tmp_path):
    assert run_script(full_patch + CALLBACKS, tmp_path) == "late\n[True]\n"


GEVENT_WAIT = """
import gevent
from pympipool import Executor
seen = []
with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
    exe.submit(pow, 2, 3).result()
    assert gevent.wait(timeout=60)
    assert gevent.get_hub().join(timeout=60)
    other = gevent.spawn(lambda: seen.append(exe.submit(pow, 2, 3).result()))
    exe.submit(pow, 2, 4).add_done_callback(lambda call: seen.append(call.result()))
    assert gevent.wait(timeout=60)
print(sorted(seen))
"""


def test_gevent_wait_ends_after_last_call(tmp_path):
    assert run_script(patch_by("gevent") + GEVENT_WAIT, tmp_path) == "[8, 16]\n"


def test_unknown_patch_of_threads_is_refused(tmp_path):
    source = """
import _thread, sys, types
sys.modules["gevent"] = types.ModuleType("gevent")

def start_new_thread(*args):
    pass

start_new_thread.__module__ = "unknown.threads"
_thread.start_new_thread = start_new_thread
import time
time.sleep = types.FunctionType(start_new_thread.__code__, {"__name__": "gevent.hub"})
try:
    import pympipool
except RuntimeError as error:
    print(error)
"""
    assert "unknown has replaced the threads of Python" in run_script(source, tmp_path)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest

from pympipool.errors import RemoteTraceback, SerializationError
from support.loopback_tcp import UNREACHABLE_ADDRESS
from support.processes import is_alive
from support.tiny_master import LIMIT_S
from support.waiting import wait_until


def pickled(function):
    return cloudpickle.dumps(function)


# ---- calls ----


def test_call_with_its_function_returns_a_result(worker):
    call = worker.send(lambda x, *, y: (x, y), 1, y=2)
    kind, answered, run_time_ns, value = worker.receive()
    assert (kind, answered, value) == ("result", call, (1, 2))
    assert 0 < run_time_ns < LIMIT_S * 1e9


def test_function_sent_once_is_called_by_number(worker):
    worker.send_function(11, lambda x: x * 2)
    sent = [worker.send_call(11, value) for value in range(20)]
    answers = [worker.receive() for _ in sent]
    assert [answer[1] for answer in answers] == sent
    assert [answer[3] for answer in answers] == [value * 2 for value in range(20)]


def test_reported_run_time_is_that_of_the_call(worker):
    began_ns = time.monotonic_ns()
    worker.send(time.sleep, 0.05)
    run_time_ns = worker.receive()[2]
    assert 0.05e9 < run_time_ns < time.monotonic_ns() - began_ns


def test_exception_arrives_with_type_message_traceback_and_location(worker):
    def divide(x):
        return 1 / x

    worker.send(divide, 0)
    kind, _, _, error = worker.receive()
    assert kind == "error"
    assert type(error) is ZeroDivisionError
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "return 1 / x" in str(error.__cause__)
    assert f"worker 7 (host {worker.process.host}, pid {worker.process.pid})" in str(error.__cause__)
    assert "worker/serial.py" not in str(error.__cause__)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, StopIteration])
def test_every_kind_of_exception_fails_only_the_call(worker, kind):
    def function():
        raise kind("out")

    worker.send(function)
    assert type(worker.receive()[3]) is kind
    worker.send(len, "abc")
    assert worker.result() == 3


def test_unpicklable_result_is_named(worker):
    worker.send(threading.Lock)
    kind, _, _, error = worker.receive()
    assert kind == "error"
    assert type(error) is SerializationError
    assert "the result" in str(error)
    assert "_thread.lock" in str(error)


def test_broken_arguments_fail_only_their_call(worker):
    class Bad:
        def __reduce__(self):
            return int, ("no number",)

    worker.send(id, Bad())
    assert type(worker.receive()[3]) is SerializationError
    worker.send(len, "abc")
    assert worker.result() == 3


def test_large_data_arrive_writable(worker):
    import numpy as np

    def double(array):
        array *= 2
        return array

    sent = np.arange(1 << 20, dtype=float)
    worker.send(double, sent)
    received = worker.result()
    assert (received == sent * 2).all()
    received += 1


def test_no_reference_to_an_ended_call_is_kept(worker):
    class Thing:
        pass

    def remember(thing, fails=False):
        import gc
        import sys
        import weakref

        gc.disable()
        result = Thing()
        sys.remembered = [weakref.ref(thing), weakref.ref(result)]
        if fails:
            raise ValueError(result)
        return result

    def alive():
        import gc
        import sys

        gc.enable()
        return [reference() is not None for reference in sys.remembered]

    for fails in (False, True):
        worker.send(remember, Thing(), fails=fails)
        worker.receive()
        worker.send(alive)
        assert worker.result() == [False, False]


def test_prefetched_calls_are_answered_in_order(worker):
    sent = [worker.send(lambda x: x, number) for number in range(100)]
    assert [worker.receive()[1] for _ in sent] == sent


# ---- start and end ----


def test_end_message_ends_the_worker_normally(start):
    def at_exit():
        import atexit

        atexit.register(print, "bye")

    master = start().ready()
    master.send(at_exit)
    master.result()
    assert master.end() == 0
    assert master.output == {"stdout": b"bye\n", "stderr": b""}


def test_one_call_worker_ends_after_its_call(start):
    master = start(max_calls=1).ready()
    master.send(len, "abc")
    assert master.result() == 3
    assert master.wait() == 0


def test_one_call_worker_accepts_functions_before_its_call(start):
    master = start(max_calls=1).ready()
    master.send_function(1, lambda: 5)
    master.send_call(1)
    assert master.result() == 5
    assert master.wait() == 0


@pytest.mark.parametrize("doing", ["waiting", "computing", "deaf to signals", "asleep in C"])
def test_end_of_master_ends_a_busy_worker(start, doing):
    def compute():
        while True:
            pass

    def compute_deaf():
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        while True:
            pass

    master = start().ready()
    if doing != "waiting":
        master.send(
            {"computing": compute, "deaf to signals": compute_deaf, "asleep in C": lambda: time.sleep(1000)}[doing]
        )
    master.connections[0].close()
    assert master.process.wait(LIMIT_S) == -signal.SIGKILL


def test_killed_master_leaves_no_worker():
    """The master runs in its own process, and is killed, so that it cannot end its worker."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from support.tiny_master import TinyMaster\n"
        "from pympipool.backends.local.direct import LocalSpawner\n"
        "master = TinyMaster(LocalSpawner()).ready()\n"
        "print(master.process.pid, flush=True)\n"
        "master.send(lambda: [None for _ in iter(int, 1)])\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        worker = int(master.stdout.readline())
        assert is_alive(worker)
        master.kill()
        wait_until(lambda: not is_alive(worker))


def test_worker_ignores_ctrl_c_child_programs_do_not(start):
    def start_program():
        import subprocess
        import sys

        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout

    master = start().ready()
    for _ in range(3):
        os.kill(master.process.pid, signal.SIGINT)
    master.send(start_program)
    assert master.result() == "True\n"
    assert master.end() == 0


def test_missing_master_is_reported_on_stderr(start):
    master = start(environment={"PYMPIPOOL_ADDRESS": UNREACHABLE_ADDRESS})
    assert master.process.wait(LIMIT_S) == 1
    assert b"ConnectionRefusedError" in master.process.stderr.read(1 << 16)


def test_worker_started_by_hand_explains_itself():
    answer = subprocess.run(
        [sys.executable, "-m", "pympipool.worker"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert answer.returncode == 1
    assert "PYMPIPOOL_ADDRESS is not set" in answer.stderr


# ---- settings ----


def test_calls_see_no_variables_of_pympipool(worker):
    worker.send(lambda: [name for name in os.environ if name.startswith("PYMPIPOOL_")])
    assert set(worker.result()) <= set(os.environ)  # the tests add variables of their own


def test_optional_modules_are_not_imported(worker):
    worker.send(lambda: sorted({"mpi4py", "numpy", "asyncio", "multiprocessing"} & set(__import__("sys").modules)))
    assert set(worker.result()) <= {"numpy"}  # imported by another test


def test_working_directory_comes_from_the_settings(start, tmp_path):
    master = start(cwd=str(tmp_path)).ready()
    master.send(os.getcwd)
    assert master.result() == str(tmp_path)


def test_missing_working_directory_is_reported_to_the_master(start, tmp_path):
    master = start(cwd=str(tmp_path / "missing"))
    error = master.failure()
    assert type(error) is FileNotFoundError
    assert "missing" in str(error)
    assert master.wait() == 1


def test_sys_argv_is_the_masters_script(start):
    master = start(argv=["/home/user/study.py", "--steps", "3"]).ready()
    master.send(lambda: __import__("sys").argv)
    assert master.result() == ["/home/user/study.py", "--steps", "3"]


def test_worker_can_import_the_masters_modules(start, tmp_path, monkeypatch):
    (tmp_path / "beside_the_script.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(tmp_path)
    from beside_the_script import answer

    master = start().ready()
    master.send(answer)
    assert master.result() == 42


def test_output_arrives_line_by_line_during_the_call(start, tmp_path):
    gate = tmp_path / "gate"

    def chat(gate):
        import sys
        import time

        print("größer")
        print("warning", file=sys.stderr)
        while not gate.exists():
            time.sleep(0.01)

    master = start(environment={"PYTHONIOENCODING": "ascii"}).ready()
    master.send(chat, gate)
    master.until(lambda: master.output == {"stdout": "größer\n".encode(), "stderr": b"warning\n"}, "output")
    gate.touch()
    master.result()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_arrive_whole_despite_pythonunbuffered(start, unbuffered):
    def chat():
        import os

        print("half a", end=" ")
        os.write(1, b"another worker's\n")
        print("line")

    master = start(environment={"PYTHONUNBUFFERED": unbuffered}).ready()
    master.send(chat)
    master.result()
    master.until(lambda: master.output["stdout"] == b"another worker's\nhalf a line\n", "output")


# ---- init_function ----


def test_missing_arguments_come_from_init_function(start):
    """The example of the specification."""

    def init_function():
        return {"j": 4, "k": 3, "l": 2}

    def calc(i, j, k):
        return i + j + k

    master = start(init_function=pickled(init_function)).ready()
    master.send(calc, 2, j=5)
    assert master.result() == 10
    master.send_function(1, calc)
    master.send_call(1, 2)
    assert master.result() == 9


@pytest.mark.parametrize(
    ("init_function", "kind", "words"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda: None, TypeError, r"returned NoneType: None; it must return a dict"),
        (lambda: {1: 2}, TypeError, r"a dict with the key int: 1"),
        (lambda: sys.exit(3), SystemExit, "3"),
    ],
)
def test_failing_init_function_is_reported_to_the_master(start, init_function, kind, words):
    master = start(init_function=pickled(init_function))
    error = master.failure()
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert master.wait() == 1
    assert "worker 7" in str(error.__cause__)


def test_unpicklable_init_function_is_reported_to_the_master(start):
    error = start(init_function=b"no pickle").failure()
    assert type(error) is SerializationError
    assert "init_function" in str(error)


def test_too_large_exception_is_reported_by_type(start):
    def init_function():
        raise ValueError("x" * (70 << 20))

    error = start(init_function=pickled(init_function)).failure()
    assert type(error) is RuntimeError
    assert "ValueError" in str(error)

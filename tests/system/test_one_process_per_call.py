"""Without block allocation: each call has its own process, which shares no state with any other."""

import contextlib
import os
import signal
import subprocess
import threading
from concurrent import futures
from pathlib import Path
from time import monotonic

import numpy as np
import psutil
import pytest

from pympipool.errors import WorkerDied, WorkerStartError
from support import process_calls as calls
from support.calls import add, echo, hold, pid, square, touch
from support.processes import still_alive
from support.scripts import Script, run_script


@pytest.fixture(scope="module")
def block_allocation():
    return False


def read_log(path):
    """Return the entries of `calls.work`, sorted by time: (nanoseconds, cores occupied or released, name)."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return sorted((int(moment), int(cores), name) for moment, cores, name in lines)


def most_cores(path):
    """Return the maximum number of cores that were in use at the same time."""
    used, most = 0, 0
    for _, cores, _ in read_log(path):
        used += cores
        most = max(most, used)
    assert used == 0
    return most


def begun(path):
    """Return the names of the calls in the order in which they began."""
    return [name for _, cores, name in read_log(path) if cores > 0]


def template_of(exe):
    """Return the forkserver, the process that forks the workers of an executor."""
    return psutil.Process(exe.submit(os.getppid).result())


# ---- a process of its own ----


def test_each_call_has_its_own_process(executor):
    pids = list(executor.map(pid, range(40)))
    assert len(set(pids)) == 40
    assert os.getpid() not in pids


def test_the_process_ends_with_its_call(executor):
    process = psutil.Process(executor.submit(os.getppid).result())
    for number in executor.map(pid, range(5)):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(number).wait(60)
    assert process.is_running()


def test_nothing_is_inherited_from_previous_call(make_executor, tmp_path):
    exe = make_executor(1)
    before = exe.submit(calls.traces).result()
    left = exe.submit(calls.leave_traces, tmp_path).result()
    assert [name for name in before if left[name] == before[name]] == []  # the call has changed every kind of state
    assert exe.submit(calls.traces).result() == before


def test_nothing_is_inherited_from_process_of_user(make_executor, tmp_path):
    """A call inherits no thread, no open file and no module. The forkserver has one thread."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="of the user")
    thread.start()
    with open(tmp_path / "of the user", "w") as file:
        os.set_inheritable(file.fileno(), True)
        exe = make_executor(1)
        about = exe.submit(calls.about_this_process).result()
        template = psutil.Process(about["parent"])
        assert template.num_threads() == 1
        assert str(tmp_path / "of the user") not in calls.open_files(template.pid)
        assert str(tmp_path / "of the user") not in about["files"]
        assert about["python threads"] == ["MainThread"]
        assert "pytest" not in about["modules"]
        assert "numpy" not in about["modules"]
        assert template.ppid() == os.getpid()
    stop.set()
    thread.join()


def test_call_inherits_no_descriptors_of_other_processes(make_executor, gate):
    exe = make_executor(2)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    stdin, stdout, stderr, *others = exe.submit(calls.open_files).result()
    gate.open()
    assert stdin == "/dev/null"
    assert stdout.startswith("pipe:")
    assert stderr.startswith("pipe:")
    ours = sorted([file for file in others if not file.startswith("/proc/")], key=others.count)
    assert len(ours) == 3  # for the report of imports; the connection, and its duplicate for the watchdog
    assert ours[1] == ours[2] != ours[0]
    assert all(file.startswith("socket:") for file in ours)
    assert held.result()


def test_lock_held_by_user_is_free_in_call(make_executor):
    """In a fork of the user's process, the lock would stay locked: the thread that holds it does not exist there."""
    with calls.LOCK:
        assert make_executor(1).submit(calls.lock_is_free).result()


def test_call_sees_current_environment(executor, monkeypatch):
    assert executor.submit(calls.variable, "SET_LATER").result() is None
    monkeypatch.setenv("SET_LATER", "yes")
    assert executor.submit(calls.variable, "SET_LATER").result() == "yes"
    monkeypatch.delenv("SET_LATER")
    assert executor.submit(calls.variable, "SET_LATER").result() is None


def test_call_runs_in_current_working_folder(executor, tmp_path, monkeypatch):
    assert executor.submit(calls.where).result() == os.getcwd()
    monkeypatch.chdir(tmp_path)
    assert executor.submit(calls.where).result() == str(tmp_path)


def test_each_call_runs_in_its_own_folder(executor, tmp_path):
    folders = [tmp_path / str(i) for i in range(6)]
    for folder in folders:
        folder.mkdir()
    submitted = [executor.submit(calls.where, resource_dict={"cwd": folder}) for folder in folders]
    assert [future.result() for future in submitted] == list(map(str, folders))


def test_deleted_folder_fails_the_call(make_executor, gate, tmp_path):
    exe = make_executor(1)
    first = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    (tmp_path / "short-lived").mkdir()
    second = exe.submit(calls.where, resource_dict={"cwd": tmp_path / "short-lived"})
    (tmp_path / "short-lived").rmdir()
    third = exe.submit(calls.where)
    gate.open()
    assert "short-lived" in str(second.exception())
    assert third.result() == os.getcwd()
    assert first.result()


def test_call_sees_modules_written_after_first_call(make_executor, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    exe = make_executor(1)
    assert exe.submit(add, 1, 1).result() == 2
    (tmp_path / "written_later.py").write_text("def answer(): return 41")
    assert exe.submit(calls.import_and_call, "written_later", "answer").result() == 41
    (tmp_path / "written_later.py").write_text("def answer(): return 42  # changed")
    assert exe.submit(calls.import_and_call, "written_later", "answer").result() == 42


@pytest.mark.parametrize("size_bytes", [0, 1000, 1_000_000, 30_000_000])
def test_arguments_and_results_of_any_size_arrive(executor, size_bytes):
    array = np.arange(size_bytes, dtype=np.uint8)
    np.testing.assert_array_equal(executor.submit(echo, array).result(), array)


def test_processes_left_by_a_call_end_with_it(executor):
    left = executor.submit(calls.start_a_program).result()
    with contextlib.suppress(psutil.NoSuchProcess):
        assert still_alive([psutil.Process(left)]) == []


# ---- cores ----


def test_max_cores_is_never_exceeded(make_executor, tmp_path):
    exe = make_executor(2)
    log = tmp_path / "log"
    for future in [exe.submit(calls.work, log, i, amount=500_000) for i in range(20)]:
        future.result()
    assert most_cores(log) <= 2


@pytest.mark.mpi
def test_call_using_mpi_leaves_no_shared_memory(make_executor):
    with make_executor() as exe:
        process = exe.submit(calls.world_of_one).result()
    assert not [path for path in Path("/dev/shm").glob(f"*_{process:x}_*") if path.name.startswith("mpich")]


@pytest.mark.mpi
def test_small_and_large_calls_share_max_cores(make_executor, tmp_path):
    exe = make_executor(3)
    log = tmp_path / "log"
    together = []
    for i in range(12):
        if i % 4 == 1:
            together.append(exe.submit(calls.work_together, log, i, 2, resource_dict={"cores": 2}))
        else:
            together.append(exe.submit(calls.work, log, i))
    sizes = [future.result() for future in together]
    assert sizes[1] == sizes[5] == [2, 2]
    assert most_cores(log) <= 3


def test_calls_start_in_submission_order(make_executor, tmp_path):
    exe = make_executor(1)
    log = tmp_path / "log"
    for future in [exe.submit(calls.work, log, i) for i in range(30)]:
        future.result()
    assert begun(log) == list(map(str, range(30)))


@pytest.mark.mpi
def test_small_call_overtakes_waiting_large_call(make_executor, gate, tmp_path):
    exe = make_executor(2)
    log = tmp_path / "log"
    first = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    large = exe.submit(calls.work_together, log, "large", 2, resource_dict={"cores": 2})
    small = exe.submit(calls.work, log, "small")
    small.result()  # while the first still runs
    gate.open()
    assert large.result() == [2, 2]
    assert begun(log) == ["small", "large"]
    assert first.result()


@pytest.mark.mpi
def test_small_calls_do_not_starve_large_call(make_executor, gate, tmp_path):
    exe = make_executor(2)
    log = tmp_path / "log"
    first = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    large = exe.submit(calls.work_together, log, "large", 2, resource_dict={"cores": 2})
    small = [exe.submit(calls.work, log, i) for i in range(60)]
    small[5].result()  # small calls overtake one at a time, as long as the first call occupies the other core
    gate.open()
    overtook = len(begun(log))
    assert large.result() == [2, 2]
    for call in small:
        call.result()
    assert begun(log).index("large") < overtook + 25
    assert first.result()


def test_call_cancelled_in_queue_never_runs(make_executor, gate, tmp_path):
    exe = make_executor(1)
    first = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    second, third = (exe.submit(touch, tmp_path / name) for name in ("second", "third"))
    assert second.cancel()
    assert not first.cancel()
    gate.open()
    assert third.result()
    assert not (tmp_path / "second").exists()


def test_calls_can_be_cancelled_at_any_moment(make_executor):
    """A process whose call is cancelled while it starts must not wait forever for that call."""
    exe = make_executor(2)
    submitted = []
    for delay in range(60):
        submitted.append(exe.submit(square, delay))
        with contextlib.suppress(futures.TimeoutError):
            submitted[-1].result(timeout=0.0005 * (delay % 12))
        submitted[-1].cancel()
        submitted.append(exe.submit(echo, np.zeros(300_000)))  # too large to be sent in one piece
        with contextlib.suppress(futures.TimeoutError):
            submitted[-1].result(timeout=0.0005 * (delay % 12))
        submitted[-1].cancel()
    exe.shutdown()
    assert all(future.done() for future in submitted)
    assert {future.result() for future in submitted[::2] if not future.cancelled()} <= {i * i for i in range(60)}


# ---- workers that die ----


@pytest.mark.parametrize(
    ("how", "exit_code", "word"), [("exit", 3, "exit code 3"), ("SIGKILL", -9, "SIGKILL"), ("SIGSEGV", -11, "SIGSEGV")]
)
def test_call_ending_its_process_fails_alone(executor, how, exit_code, word):
    broken, fine = executor.submit(calls.end_self, how), executor.submit(square, 3)
    with pytest.raises(WorkerDied, match=word) as error:
        broken.result()
    assert error.value.exit_code == exit_code
    assert error.value.function == "end_self"
    assert fine.result() == 9
    assert executor.submit(square, 4).result() == 16


def test_stderr_of_dying_call_is_in_error(executor):
    with pytest.raises(WorkerDied, match="its last words"):
        executor.submit(calls.say_and_die, "its last words").result()


@pytest.mark.parametrize("size_bytes", [8, 50_000_000])
def test_call_killed_at_any_moment_ends(make_executor, size_bytes):
    """Kill the process before it is ready, while it receives arguments, while it runs and while it sends its result."""
    exe = make_executor(1)
    template = template_of(exe)
    argument = bytes(size_bytes)
    for moment in range(12):
        future = exe.submit(echo, argument)
        killed = kill_children(template, future, moment)
        error = future.exception(timeout=60)
        assert killed or error is None
        assert error is None or isinstance(error, (WorkerDied, WorkerStartError))
    assert exe.submit(square, 5).result() == 25


def kill_children(template, future, moment):
    """Kill the processes of a call at different times after their start until it is done; return their number."""
    killed = 0
    end = monotonic() + 60
    while not future.done() and monotonic() < end:
        for child in template.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                if moment % 3 == 0:
                    child.suspend()  # the process does not receive the messages that are sent to it now
                if moment % 3 == 1:
                    child.wait(0.002 * moment)
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                killed += 1
        with contextlib.suppress(futures.TimeoutError):
            future.exception(timeout=0.001)
    return killed


def test_killed_forkserver_is_restarted(make_executor):
    exe = make_executor(1)
    template = template_of(exe)
    template.kill()
    psutil.wait_procs([template], timeout=60)
    assert exe.submit(square, 6).result() == 36
    assert template_of(exe).pid != template.pid


def test_running_call_survives_the_forkserver(make_executor, gate):
    exe = make_executor(1)
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    (worker,) = exe.info["workers"]
    process = psutil.Process(worker["pid"])
    process.parent().kill()
    gate.open()
    running.result()
    process.wait(60)
    assert exe.submit(square, 7).result() == 49


def test_call_killing_its_process_can_be_retried(executor, tmp_path):
    retried = executor.submit(calls.end_self_once, tmp_path / "first", resource_dict={"restart_limit": 1})
    assert retried.result() != os.getpid()
    with pytest.raises(WorkerDied):
        executor.submit(calls.end_self, "SIGKILL", resource_dict={"restart_limit": 2}).result()


def test_call_beyond_run_time_max_is_killed(executor):
    with pytest.raises(TimeoutError, match=r"run_time_max=0.2"):
        executor.submit(calls.never_returns, resource_dict={"run_time_max": 0.2}).result()
    assert executor.submit(square, 8).result() == 64


# ---- output, and the end ----

SCRIPT = """
import os, sys
from pympipool import Executor

def say(number):
    print("line", number)
    print("error", number, file=sys.stderr)
    os.write(1, b"raw %d\\n" % number)
    print("no end", number, end="")
    return number

if __name__ == "__main__":
    with Executor(max_cores=2) as exe:
        print(sum(exe.map(say, range(10))))
"""


AT_EXIT = """
import atexit, gc, time
from pympipool import Executor

def say(number):
    atexit.register(last_words, number)
    return number

def last_words(number):
    gc.collect()
    time.sleep(0.3)  # longer than the master takes to notice a connection's end
    print("last words of", number)

if __name__ == "__main__":
    with Executor(max_workers=2, block_allocation=BLOCK) as exe:
        assert [exe.submit(say, number).result() for number in range(3)] == [0, 1, 2]
"""


@pytest.mark.parametrize("block", [True, False])
def test_atexit_functions_of_workers_finish(tmp_path, block):
    with Script(AT_EXIT.replace("BLOCK", str(block)), tmp_path) as script:
        code, stdout, stderr = script.end()
    assert code == 0, stderr
    assert sorted(stdout.splitlines()) == [f"last words of {number}" for number in range(3)]


def test_output_of_calls_reaches_the_user(tmp_path):
    with Script(SCRIPT, tmp_path) as script:
        code, stdout, stderr = script.end()
    assert code == 0, stderr
    for i in range(10):
        assert f"line {i}\n" in stdout
        assert f"raw {i}\n" in stdout
        assert f"no end {i}" in stdout
        assert f"error {i}\n" in stderr
    assert "45" in stdout  # where Python writes without buffers, output of a call may come before the end of this line


def test_output_arrives_in_order_before_shutdown_returns(make_executor, capsys):
    exe = make_executor(1)
    for i in range(20):
        exe.submit(calls.say, f"ä {i}", f"ö {i}")
    exe.shutdown()
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"ä {i}" for i in range(20)]
    assert captured.err.splitlines() == [f"ö {i}" for i in range(20)]


FORGETFUL = """
from pympipool import Executor

def slow(path):
    import time
    time.sleep(0.3)
    open(path, "w").close()

exe = Executor(max_cores=1)
exe.submit(slow, "done")
print("the end")
"""


def test_calls_finish_when_script_ends(tmp_path):
    assert run_script(FORGETFUL, tmp_path) == "the end\n"
    assert (tmp_path / "done").exists()


HANGING = """
import sys
from pympipool import Executor

def hang():
    import time
    print("begun", flush=True)
    time.sleep(1000)

with Executor(max_cores=2) as exe:
    exe.submit(hang)
    exe.submit(hang)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_survives_process_of_user(tmp_path, how):
    with Script(HANGING, tmp_path) as script:
        script.wait_for_line("begun")
        script.wait_for_line("begun")
        script.process.send_signal(how)
        script.process.wait(60)
        assert script.survivors() == []


def test_fork_of_user_process_is_harmless(make_executor):
    exe = make_executor(1)
    assert exe.submit(square, 2).result() == 4
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert exe.submit(square, 3).result() == 9


def test_stdin_of_a_call_is_empty(executor):
    assert executor.submit(calls.read_stdin).result() == ""


def test_child_programs_write_to_terminal_of_user(make_executor, capfd):
    exe = make_executor(1)
    exe.submit(subprocess.call, ["echo", "from a program"]).result()
    exe.shutdown()
    assert "from a program\n" in capfd.readouterr().out

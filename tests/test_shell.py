"""`SubprocessExecutor` and `ShellExecutor` run external programs; names that older scripts import still work."""

import os
import subprocess
import sys
import tempfile
from concurrent import futures
from pathlib import Path

import psutil
import pytest

import pympipool
from pympipool import Executor, ShellExecutor, SubprocessExecutor
from pympipool.backends.mpi_library import find_launcher, loaded_library
from pympipool.errors import WorkerStartError
from pympipool.flux import PyFluxExecutor
from pympipool.mpi import PyMPIExecutor
from pympipool.slurm import PySlurmExecutor
from support import process_calls as calls
from support.scripts import run_script
from support.timing import best
from support.waiting import LIMIT_S

COUNT = """
import sys

def count(iterations):
    for i in range(int(iterations)):
        print(i)
    print("done")

while True:
    user_input = input()
    if "shutdown" in user_input:
        print("bye")
        sys.exit(7)
    if "complain" in user_input:
        sys.stderr.write("a complaint\\n")  # in one piece, which print does not do when unbuffered
    count(iterations=int(user_input.split()[0]))
"""


@pytest.fixture
def counter(tmp_path):
    """Return the command of a program that counts up to the number in each input line."""
    (tmp_path / "count.py").write_text(COUNT)
    return [sys.executable, "-u", str(tmp_path / "count.py")]


# ---- command lines ----


@pytest.fixture(scope="module")
def commands():
    with SubprocessExecutor(max_workers=2) as exe:
        yield exe


@pytest.mark.parametrize(
    ("command", "options", "output"),
    [
        (["echo", "test"], {"universal_newlines": True}, "test\n"),
        (["echo", "test"], {}, b"test\n"),
        ("echo test; echo two", {"shell": True, "text": True}, "test\ntwo\n"),
        (["cat"], {"input": "given\n", "text": True}, "given\n"),
        (["sh", "-c", "echo $GIVEN"], {"env": {"GIVEN": "set"}, "text": True}, "set\n"),
        (["pwd"], {"cwd": "/", "text": True}, "/\n"),
        (["sh", "-c", "echo both >&2"], {"stderr": subprocess.STDOUT, "text": True}, "both\n"),
    ],
)
def test_command_returns_its_output(commands, command, options, output):
    assert commands.submit(command, **options).result() == output


def test_command_may_be_a_keyword_argument(commands):
    assert commands.submit(args=["echo", "test"], text=True).result() == "test\n"


def test_submitted_commands_are_futures(commands):
    submitted = [commands.submit(["echo", str(i)], text=True) for i in range(10)]
    assert all(isinstance(future, futures.Future) for future in submitted)
    assert [future.result() for future in submitted] == [f"{i}\n" for i in range(10)]


def test_futures_can_be_parts_of_a_command(commands):
    first = commands.submit(["printf", "one"], text=True)
    assert commands.submit(["echo", first, "two"], text=True).result() == "one two\n"


def test_two_workers_run_two_commands_concurrently(commands, tmp_path):
    """The commands wait for each other at the two ends of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    writer = commands.submit(["sh", "-c", f"echo met > {tmp_path / 'pipe'}"])
    reader = commands.submit(["cat", str(tmp_path / "pipe")], text=True)
    assert reader.result() == "met\n"
    assert writer.result() == b""


def test_command_gets_cwd_and_environment_of_user(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_BY_USER", "now")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = 'pwd; echo "$SET_BY_USER"; echo "${OMP_NUM_THREADS-none}"'
    assert commands.submit(command, shell=True, text=True).result() == f"{tmp_path}\nnow\nnone\n"


def test_failing_command_fails_its_future(commands):
    with pytest.raises(subprocess.CalledProcessError) as error:
        commands.submit("echo before; exit 3", shell=True, text=True).result()
    assert (error.value.returncode, error.value.output) == (3, "before\n")
    with pytest.raises(FileNotFoundError, match="/executable/does/not/exist"):
        commands.submit(["/executable/does/not/exist"]).result()
    with pytest.raises(subprocess.TimeoutExpired):
        commands.submit(["sleep", "100"], timeout=0.1).result()
    assert commands.submit(["echo", "test"]).result() == b"test\n"


def test_missing_command_raises_in_submit(commands):
    with pytest.raises(TypeError, match="no command"):
        commands.submit()


def test_commands_after_shutdown_raise():
    exe = SubprocessExecutor()
    exe.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(["echo", "test"])


def test_waiting_commands_can_be_cancelled(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with SubprocessExecutor(max_workers=1) as exe:
        running = exe.submit(["cat", str(tmp_path / "pipe")], text=True)
        while not running.running():
            pass
        waiting = [exe.submit(["echo", "never"]) for _ in range(3)]
        exe.shutdown(wait=False, cancel_futures=True)
        (tmp_path / "pipe").write_text("end")
    assert running.result() == "end"
    assert all(future.cancelled() for future in waiting)


# ---- one program ----


def test_answer_ends_after_lines_to_read(counter):
    with ShellExecutor(counter, universal_newlines=True) as exe:
        future = exe.submit(string_input="4", lines_to_read=5)
        assert future.result() == "0\n1\n2\n3\ndone\n"
        assert future.done()


def test_answer_ends_at_stop_read_pattern(counter):
    with ShellExecutor(counter, universal_newlines=True) as exe:
        assert exe.submit(string_input="4", stop_read_pattern="done").result() == "0\n1\n2\n3\ndone\n"
        assert (
            exe.submit("3", lines_to_read=2, stop_read_pattern="done").result() == "0\n1\n"
        )  # whichever condition holds first
        assert (
            exe.submit("0", stop_read_pattern="done").result() == "2\ndone\n"
        )  # the rest of the previous answer comes first


def test_inputs_are_answered_in_order(counter):
    with ShellExecutor(counter) as exe:
        answers = [exe.submit(str(i), stop_read_pattern="done") for i in range(50)]
        for i, answer in enumerate(answers):
            assert answer.result() == "".join(f"{k}\n" for k in range(i)) + "done\n"


def test_output_is_read_while_input_is_written():
    text = "".join(f"{number}\n" for number in range(200_000))
    with ShellExecutor(["cat"]) as exe:
        answer = exe.submit(text, stop_read_pattern="199999")
        after = exe.submit("the next", lines_to_read=1)
        done, _ = futures.wait([answer, after], LIMIT_S)
        if not done:
            end_children_of_workers()
        assert answer.result() == text
        assert after.result() == "the next\n"


def test_program_that_reads_no_input_can_be_ended(tmp_path):
    with ShellExecutor(
        "echo ready; trap 'echo asked to > ended; exit' TERM; while :; do :; done", shell=True, cwd=tmp_path
    ) as exe:
        assert exe.submit("x" * 1_000_000, lines_to_read=1).result(LIMIT_S) == "ready\n"
    assert (tmp_path / "ended").read_text() == "asked to\n"


def test_program_that_closes_its_output_is_ended():
    with ShellExecutor("exec >&-; exec sleep 600", shell=True) as exe:
        call = exe.submit("anything", lines_to_read=1)
        done, _ = futures.wait([call], LIMIT_S)
        if not done:
            end_children_of_workers()
        assert done
        with pytest.raises(subprocess.CalledProcessError, match="SIGTERM"):
            call.result()


def end_children_of_workers():
    for worker in psutil.Process().children():
        for program in worker.children():
            program.kill()


def test_newline_is_added_only_if_missing(counter):
    with ShellExecutor(counter) as exe:
        assert exe.submit("1\n", lines_to_read=2).result() == "0\ndone\n"
        assert exe.submit("1\n2", lines_to_read=5).result() == "0\ndone\n0\n1\ndone\n"


def test_stderr_of_the_program_reaches_the_user(tmp_path, counter):
    script = f"""
from pympipool import ShellExecutor
with ShellExecutor({counter!r}) as exe:
    print(exe.submit("1 complain", lines_to_read=2).result())
"""
    with_stderr = f"import sys, os\nos.dup2(1, 2)\n{script}"
    assert "a complaint\n" in run_script(with_stderr, tmp_path)


def test_exit_of_the_program_fails_pending_inputs(counter):
    with ShellExecutor(counter) as exe:
        assert exe.submit("1", lines_to_read=2).result() == "0\ndone\n"
        with pytest.raises(subprocess.CalledProcessError) as error:
            exe.submit("shutdown", lines_to_read=3).result()
        assert (error.value.returncode, error.value.output) == (7, "bye\n")
        with pytest.raises(subprocess.CalledProcessError, match="status 7"):
            exe.submit("1", lines_to_read=1).result()


def test_missing_program_fails_inputs():
    with (
        ShellExecutor(["/executable/does/not/exist"]) as exe,
        pytest.raises(FileNotFoundError, match="/executable/does/not/exist"),
    ):
        exe.submit("1", lines_to_read=1).result()


@pytest.mark.alone
def test_program_ends_with_its_executor(tmp_path):
    """Also a program that ignores the end of its input."""
    programs = ("echo $$; cat; touch ended", "trap 'touch ended; exit' TERM; echo $$; while :; do :; done")
    for number, program in enumerate(programs):

        def is_late(number=number, program=program):
            """Return True if the program was killed before it could end, as happens if it gets no core in time."""
            folder = Path(tempfile.mkdtemp(prefix=str(number), dir=tmp_path))
            with ShellExecutor(program, shell=True, cwd=folder) as exe:
                process = psutil.Process(int(exe.submit("", lines_to_read=1).result()))
                assert process.is_running()
            assert not process.is_running()
            return not (folder / "ended").exists()

        assert not best(is_late, 1)


def test_program_gets_cwd_and_environment_of_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_BY_USER", "now")
    with ShellExecutor("pwd; echo $SET_BY_USER; cat", shell=True) as exe:
        assert exe.submit("x", lines_to_read=3).result() == f"{tmp_path}\nnow\nx\n"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"string_input": "1"}, ValueError, "lines_to_read and stop_read_pattern"),
        ({"string_input": 1, "lines_to_read": 1}, TypeError, "string_input is 1"),
        ({"string_input": "1", "lines_to_read": 0}, ValueError, "lines_to_read is 0"),
        ({"string_input": "1", "lines_to_read": "2"}, TypeError, "lines_to_read is '2'"),
        ({"string_input": "1", "stop_read_pattern": 2}, TypeError, "stop_read_pattern is 2"),
    ],
)
def test_wrong_input_raises_in_submit(arguments, kind, words):
    with ShellExecutor(["cat"]) as exe:
        with pytest.raises(kind, match=words):
            exe.submit(**arguments)
        assert exe.submit("fine", lines_to_read=1).result() == "fine\n"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({}, TypeError, "no command"),
        ({"args": ["cat"], "stdin": subprocess.PIPE}, TypeError, "stdin is -1"),
        ({"args": ["cat"], "stdout": subprocess.DEVNULL}, TypeError, "stdout is -3"),
        ({"args": ["cat"], "stderr": subprocess.PIPE}, ValueError, "stderr is subprocess.PIPE"),
    ],
)
def test_wrong_program_raises_in_the_constructor(options, kind, words):
    with pytest.raises(kind, match=words):
        ShellExecutor(**options)


# ---- names that older scripts import ----


def test_all_public_names_can_be_imported():
    assert set(pympipool.__all__) <= set(dir(pympipool))
    for name in pympipool.__all__:
        assert getattr(pympipool, name) is not None
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = pympipool.NoSuchName


def test_importing_pympipool_imports_no_executor(tmp_path):
    script = "import sys, pympipool\nprint([name for name in sys.modules if name.startswith('pympipool')])"
    assert run_script(script, tmp_path) == "['pympipool._util', 'pympipool']\n"


def test_older_executor_of_this_machine_is_a_block(tmp_path):
    with PyMPIExecutor(2, init_function=calls.preset, cwd=tmp_path) as exe:
        assert isinstance(exe, Executor)
        assert exe.submit(calls.three, 1, j=2).result() == (1, 2, 3)
        assert Path(exe.submit(os.getcwd).result()) == tmp_path
        assert exe.info["block_allocation"] is True
        assert exe.info["backend"] == "mpi"
        assert exe.info["max_workers"] == 2


def test_older_executor_has_one_worker_by_default():
    with PyMPIExecutor() as exe:
        assert exe.info["max_workers"] == 1


@pytest.mark.mpi
def test_older_executor_runs_functions_on_several_cores():
    with PyMPIExecutor(1, 2) as exe:
        assert exe.submit(calls.rank_and_preset, 5, 6, 7).result() == [(5, 6, 7), (5, 6, 7)]


def test_older_slurm_executor_reports_missing_srun(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkerStartError, match=r"backend 'slurm' cannot be used: .*'srun'"):
        PySlurmExecutor(max_workers=1)


@pytest.mark.parametrize("executor_class", [PyMPIExecutor, PySlurmExecutor, PyFluxExecutor])
def test_older_executors_check_their_parameters(executor_class):
    with pytest.raises(TypeError, match="cores_per_worker is '2'"):
        executor_class(1, "2")
    with pytest.raises(TypeError, match="max_cores"):
        executor_class(max_cores=1)  # an option of Executor only


# ---- resources of programs ----


def count_at_once(folder, path):
    """Return a command that notes in a folder how many such commands run at the same time."""
    return [sys.executable, "-c", RUN_AT_ONCE, str(folder), str(path)]


RUN_AT_ONCE = """
import os, sys, time
folder, maximum = sys.argv[1:]
mine = os.path.join(folder, str(os.getpid()))
open(mine, "w").close()
time.sleep(0.2)
with open(maximum, "a") as file:
    print(len(os.listdir(folder)), file=file)
os.remove(mine)
"""


@pytest.mark.parametrize("resources", [{"cores": 2}, {"threads_per_core": 2}], ids=["cores", "threads"])
def test_cores_of_commands_are_counted(tmp_path, resources):
    folder = tmp_path / "running"
    folder.mkdir()
    with SubprocessExecutor(max_cores=2, block_allocation=False) as exe:
        command = count_at_once(folder, tmp_path / "counts")
        for future in [exe.submit(command, resource_dict=resources) for _ in range(3)]:
            future.result()
    assert (tmp_path / "counts").read_text().split() == ["1", "1", "1"]


def test_command_is_one_process_whatever_its_cores():
    with SubprocessExecutor(max_cores=2, block_allocation=False, resource_dict={"cores": 2}) as exe:
        assert exe.submit(["echo", "once"], text=True).result() == "once\n"


@pytest.mark.parametrize("block_allocation", [False, True])
def test_threads_of_command_are_set(monkeypatch, block_allocation):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    resources = {"cores": 1, "threads_per_core": 2}
    with SubprocessExecutor(max_cores=2, block_allocation=block_allocation, resource_dict=resources) as exe:
        assert exe.submit("echo $OMP_NUM_THREADS", shell=True, text=True).result() == "2\n"


def test_gpus_of_command_are_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    show = "echo $CUDA_VISIBLE_DEVICES; sleep 0.3"
    with SubprocessExecutor(max_cores=2, block_allocation=False, resource_dict={"gpus_per_core": 1}) as exe:
        futures_ = [exe.submit(show, shell=True, text=True) for _ in range(2)]
        assert {future.result() for future in futures_} == {"3\n", "5\n"}


def test_program_of_shell_has_resources(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with ShellExecutor(["sh"], resource_dict={"threads_per_core": 2, "cwd": tmp_path}) as exe:
        assert exe.submit("echo $OMP_NUM_THREADS $PWD", lines_to_read=1).result() == f"2 {tmp_path}\n"


def test_environment_that_command_gets_is_kept():
    with SubprocessExecutor(resource_dict={"threads_per_core": 1}) as exe:
        assert exe.submit("/usr/bin/env", env={"ONLY": "this"}, text=True).result() == "ONLY=this\n"


def test_time_limit_of_command(tmp_path):
    with SubprocessExecutor(max_cores=1, block_allocation=False) as exe:
        future = exe.submit(["sleep", "60"], resource_dict={"run_time_max": 0.3})
        with pytest.raises(TimeoutError):
            future.result()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cores_per_worker": 2}, "give resource_dict"),
        ({"init_function": dict}, "commands take none"),
        ({"resource_dict": {"cores": 0}}, "cores is 0"),
        ({"backend": "torque"}, "torque"),
        ({"no_such": 1}, "no parameter 'no_such'"),
    ],
)
def test_wrong_option_of_commands_is_refused(options, told):
    with pytest.raises((TypeError, ValueError), match=told):
        SubprocessExecutor(**options)


def test_mpi_program_runs_in_reserved_cores():
    program = "from mpi4py.MPI import COMM_WORLD as world; world.rank == 0 and print(world.size)"
    command = [find_launcher(loaded_library()).path, "-n", "2", sys.executable, "-c", program]
    with SubprocessExecutor(max_cores=2, block_allocation=False) as exe:
        assert exe.submit(command, text=True, resource_dict={"cores": 2}).result() == "2\n"

"""`pympipool check` on this machine as it is, and where something is wrong: it says so, ends, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import pympipool
from pympipool.cli.selftest import STEPS
from support.processes import marked_processes, new_mark, still_alive
from support.scripts import script_environment

NAMES = [step.name for step in STEPS]


def words(done) -> str:
    """What it printed, wherever lines were wrapped."""
    return " ".join(done.stdout.split())


def verdicts(done) -> dict[str, str]:
    """The word for each step that was tried, by its title."""
    titles = {step.title: step.name for step in STEPS}
    found = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.strip().partition(" ")
        title = rest.strip().partition(":")[0]
        if title in titles:
            found[titles[title]] = word
    return found


@pytest.mark.mpi
def test_everything_works_here(program):
    pytest.importorskip("numpy", reason="numpy is tried too: pip install numpy")
    done = program("check", timeout=170)
    assert verdicts(done) == {name: "works" for name in NAMES if name != "gpus"} | (
        {"gpus": "works"} if "gpus" in verdicts(done) else {}
    )
    assert "Everything works" in words(done)
    assert done.returncode == 0


def test_steps_can_be_chosen(program):
    done = program("check", "exception", "init", "--cores", "1", "--backend", "mpi")
    assert verdicts(done) == {"exception": "works", "init": "works"}
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seriel"], "did you mean 'serial'?"),
        (["--backend", "slrum"], "did you mean 'slurm'?"),
    ],
)
def test_what_is_mistyped_is_told_the_nearest(program, arguments, said):
    done = program("check", *arguments)
    assert said in done.stderr
    assert done.returncode == 2


def test_a_backend_that_cannot_be_used_is_an_error_that_says_why(program):
    done = program("check", "--backend", "slurm", PATH="/nowhere")
    assert "there is no program 'srun' in PATH" in words(done)
    assert done.returncode == 1


def test_without_mpi4py_all_else_works_and_it_is_told_how_to_get_it(program, other_python, needed_packages):
    parameters = {"python": other_python, "PYTHONPATH": needed_packages}
    done = program("check", "serial", "mpi", **parameters)
    assert verdicts(done) == {"serial": "works", "mpi": "lacks"}
    assert 'pip install "pympipool[mpich]"' in words(done)
    assert done.returncode == 1  # as it was named


def test_an_mpi_that_does_not_work_fails_its_step_alone(program, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise ImportError('libmpi.so.40: cannot open shared object file')"
    )
    path = f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}"
    done = program("check", "serial", "mpi", PYTHONPATH=path)
    assert verdicts(done) == {"serial": "works", "mpi": "FAILS"}
    assert "libmpi.so.40: cannot open" in words(done)
    assert done.returncode == 1


@pytest.mark.mpi
def test_no_mpiexec_in_path_does_not_matter(program):
    done = program("check", "mpi", PATH="/nowhere")
    assert verdicts(done) == {"mpi": "works"}


def test_too_few_open_files_are_told_and_nothing_more_is_tried(program):
    done = program("check", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14)))
    assert verdicts(done) == {"serial": "FAILS"}
    assert "Too many open files" in words(done)
    assert "this process may open 14 files" in words(done)  # with the remedy
    assert done.returncode == 1


def test_a_folder_for_temporary_files_that_cannot_be_written_does_not_matter(program):
    assert verdicts(program("check", "serial", "single", TMPDIR="/proc")) == {"serial": "works", "single": "works"}


def test_a_compiled_part_that_is_missing_is_told(program, tmp_path):
    copy = tmp_path / "pympipool"
    copy.mkdir()
    for beside in Path(pympipool.__file__).parent.iterdir():
        if beside.suffix != ".so":
            (copy / beside.name).symlink_to(beside)
    done = program("check", PYTHONPATH=str(tmp_path))
    assert verdicts(done) == {"serial": "FAILS"}
    assert "the compiled part of pympipool cannot be imported" in words(done)


@pytest.mark.parametrize("interrupts", [signal.SIG_DFL, signal.SIG_IGN], ids=["in a terminal", "in the background"])
def test_a_scheduler_that_never_starts_anything_fails_in_time_and_nothing_is_left(
    program, programs_called, mark, interrupts
):
    programs_called(
        srun="case $1 in --version|--mpi=list) exit;; esac; exec sleep 1000", squeue="exit 0", scancel="exit 0"
    )
    for limit_s in (3, 30):  # a busy machine does not get that far in 3 s
        done = program(
            "check",
            *("--backend", "slurm", "--limit", str(limit_s)),
            before=lambda: signal.signal(signal.SIGINT, interrupts),
        )
        assert verdicts(done) == {"serial": "FAILS"}
        assert f"did not end after {limit_s} s" in words(done)
        if "while starting a worker" in words(done):
            break
    assert "while starting a worker" in words(done)
    assert "queue" in words(done)
    assert done.returncode == 1
    assert [process for process in marked_processes(mark) if "sleep" in process.name()] == []


def test_what_a_worker_prints_is_shown_when_it_fails(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'PYMPIPOOL_KEY' in os.environ: print('no licence for this node', file=__import__('sys').stderr); os._exit(3)"
    )
    done = program("check", PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}")
    assert verdicts(done) == {"serial": "FAILS"}
    assert "no licence for this node" in words(done)


def test_processes_that_are_left_are_told_and_ended(program, tmp_path):
    """A worker that leaves a process behind, in a session of its own: as no worker of pympipool's does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess\n"
        "if 'PYMPIPOOL_KEY' in os.environ: subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    )
    mark = new_mark()
    done = program(
        "check",
        "exception",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}",
        MARK_OF_A_TEST=mark,
    )
    assert verdicts(done) == {"exception": "FAILS"}
    assert "sleep 1000" in words(done)
    assert done.returncode == 1
    assert still_alive(marked_processes(mark)) == []


def test_ctrl_c_ends_it_and_all_that_it_has_started():
    mark = new_mark()
    check = subprocess.Popen(
        [sys.executable, "-m", "pympipool", "check", "time"],
        env=script_environment(mark),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with check:
        deadline = time.monotonic() + 30
        while len(marked_processes(mark)) < 3:  # itself, the step's script, a worker
            assert time.monotonic() < deadline
            time.sleep(0.05)  # there is nothing to wait for
        with contextlib.suppress(psutil.Error):
            os.killpg(check.pid, signal.SIGINT)
        _, complaints = check.communicate(timeout=60)
    assert check.returncode == 130
    assert complaints == ""
    assert still_alive(marked_processes(mark)) == []

"""`pympipool check` on this machine, and where something is wrong: it reports that, ends, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import pympipool
from pympipool.cli.selftest import STEPS, Outcome, supervisor
from support.processes import marked_processes, new_mark, still_alive
from support.scripts import communicate, script_environment
from support.waiting import wait_until

NAMES = [step.name for step in STEPS]


def text_of(done) -> str:
    """Return the printed text without its line breaks."""
    return " ".join(done.stdout.split())


def verdicts(done) -> dict[str, str]:
    """Return the printed verdict of each step that was tried, by name."""
    titles = {step.title: step.name for step in STEPS}
    found = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.strip().partition(" ")
        title = rest.strip().partition(":")[0]
        if title in titles:
            found[titles[title]] = word
    return found


@pytest.mark.mpi
def test_check_passes_here(program):
    pytest.importorskip("numpy", reason="numpy is tried, too: pip install numpy")
    done = program("check", timeout=170)
    assert verdicts(done) == {name: "works" for name in NAMES if name != "gpus"} | (
        {"gpus": "works"} if "gpus" in verdicts(done) else {}
    )
    assert "Everything works" in text_of(done)
    assert done.returncode == 0


def test_unseen_processes_are_not_said_to_be_gone(monkeypatch):
    monkeypatch.setattr(supervisor, "SEES_PROCESSES", False)
    verdict = supervisor.try_step(next(step for step in STEPS if step.name == "exception"), "mpi", 1, 60.0)
    assert verdict.outcome is Outcome.WORKS
    assert verdict.message.endswith("(whether processes are left cannot be seen on this system)")


def test_steps_can_be_chosen(program):
    done = program("check", "exception", "init", "--cores", "1", "--backend", "mpi")
    assert verdicts(done) == {"exception": "works", "init": "works"}
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["seriel"], "did you mean 'serial'?"),
        (["--backend", "slrum"], "did you mean 'slurm'?"),
    ],
)
def test_check_suggests_nearest_name(program, arguments, suggestion):
    done = program("check", *arguments)
    assert suggestion in done.stderr
    assert done.returncode == 2


def test_check_of_unavailable_backend_fails(program):
    done = program("check", "--backend", "slurm", PATH="/nowhere")
    assert "there is no program 'srun' in PATH" in text_of(done)
    assert done.returncode == 1


def test_check_without_mpi4py_names_remedy(program, other_python, needed_packages):
    parameters = {"python": other_python, "PYTHONPATH": needed_packages}
    done = program("check", "serial", "mpi", **parameters)
    assert verdicts(done) == {"serial": "works", "mpi": "skipped"}
    assert "mpi4py is not installed: `pip install mpi4py mpich`" in text_of(done)
    assert "1 could not be tried: mpi4py is not installed." in text_of(done)
    assert done.returncode == 1  # because the user named the step


def test_check_without_numpy_names_remedy(program, other_python, needed_packages):
    done = program("check", "serial", "numpy", python=other_python, PYTHONPATH=needed_packages)
    assert verdicts(done) == {"serial": "works", "numpy": "skipped"}
    assert "numpy is not installed: pip install numpy" in text_of(done)


def test_broken_mpi_fails_only_its_step(program, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise ImportError('libmpi.so.40: cannot open shared object file')"
    )
    path = f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}"
    done = program("check", "serial", "mpi", PYTHONPATH=path)
    assert verdicts(done) == {"serial": "works", "mpi": "FAILS"}
    assert "libmpi.so.40: cannot open" in text_of(done)
    assert done.returncode == 1


@pytest.mark.mpi
def test_check_needs_no_mpiexec_in_path(program):
    done = program("check", "mpi", PATH="/nowhere")
    assert verdicts(done) == {"mpi": "works"}


def test_check_names_shortage_of_open_files(program):
    """The executor would wait for longer than the step may take."""
    limit = ("--limit", "8")
    done = program("check", *limit, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14)))
    assert verdicts(done) == {"serial": "FAILS"}
    assert "the system has too few file descriptors" in text_of(done)
    assert "this process may open 14 files" in text_of(done)  # with the remedy
    assert done.returncode == 1


def test_check_works_with_unwritable_tmpdir(program):
    assert verdicts(program("check", "serial", "single", TMPDIR="/proc")) == {"serial": "works", "single": "works"}


def test_missing_compiled_part_is_reported(program, tmp_path):
    copy = tmp_path / "pympipool"
    shutil.copytree(Path(pympipool.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = program("check", PYTHONPATH=str(tmp_path))
    assert verdicts(done) == {"serial": "FAILS"}
    assert "the compiled part of pympipool cannot be imported" in text_of(done)


@pytest.mark.parametrize("interrupts", [signal.SIG_DFL, signal.SIG_IGN], ids=["in a terminal", "in the background"])
def test_hanging_scheduler_fails_after_timeout(program, programs_called, mark, interrupts):
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
        assert f"did not end after {limit_s} s" in text_of(done)
        if "while starting a worker" in text_of(done):
            break
    assert "while starting a worker" in text_of(done)
    assert "queue" in text_of(done)
    assert done.returncode == 1
    assert [process for process in marked_processes(mark) if "sleep" in process.name()] == []


def test_output_of_failing_worker_is_shown(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'PYMPIPOOL_KEY' in os.environ: print('no licence for this node', file=__import__('sys').stderr); os._exit(3)"
    )
    done = program("check", PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}")
    assert verdicts(done) == {"serial": "FAILS"}
    assert "no licence for this node" in text_of(done)


def test_printing_at_interpreter_start_does_no_harm(program, tmp_path):
    """Also of half a line that does not end."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess, sys\n"
        "if 'pympipool.cli.selftest' in sys.orig_argv:\n"
        "    print('{}', os.environ, 'welcome', end='', flush=True)\n"
        "    if 'init' in sys.orig_argv: os._exit(7)\n"
    )
    path = f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}"
    done = program("check", "exception", "init", "--cores", "1", "--backend", "mpi", PYTHONPATH=path)
    assert verdicts(done) == {"exception": "works", "init": "FAILS"}
    assert "exit code 7" in text_of(done)
    assert "welcome" in text_of(done)
    assert done.stderr == ""


def test_processes_left_behind_are_reported_and_ended(program, tmp_path):
    """A worker leaves a process behind in a session of its own, which no real worker does."""
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
    assert "sleep 1000" in text_of(done)
    assert done.returncode == 1
    assert still_alive(marked_processes(mark)) == []


def test_ctrl_c_ends_check_and_its_processes():
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
        wait_until(lambda: len(marked_processes(mark)) >= 3)  # the check, the script of the step, a worker
        with contextlib.suppress(psutil.Error):
            os.killpg(check.pid, signal.SIGINT)
        _, errors = communicate(check, 60)
    assert check.returncode == 130
    assert errors == ""
    assert still_alive(marked_processes(mark)) == []

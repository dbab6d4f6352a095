"""`pympipool info` on this machine as it is, and where something is wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool.backends.mpi_library import loaded_library
from pympipool.resources import available_cores

SERIOUS = {True: "What is wrong", False: "Worth knowing"}


@pytest.fixture
def facts(program):
    """facts(...): what `pympipool info --json` says; parameters as for `program`."""

    def ask(**parameters):
        done = program("info", "--json", **parameters)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def problem(facts):
    """problem(word, ...): the one problem that has this word in it."""

    def find(word, **parameters):
        (found,) = [one for one in facts(**parameters)["problems"] if word in one["what"]]
        return found

    return find


def test_facts_are_those_of_this_machine(facts):
    found = facts()
    assert found["installation"]["pympipool"] == pympipool.__version__
    assert found["installation"]["executable"] == sys.executable
    assert found["installation"]["compiled"] is None
    assert found["machine"]["cores"]["usable"] == available_cores()
    assert found["machine"]["cores"]["machine"] == os.cpu_count()
    assert found["machine"]["limits"]["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found["machine"]["memory"]["machine"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["machine"]["shared_memory"]["size"] == shutil.disk_usage("/dev/shm").total


def test_the_same_stands_in_the_text(program, facts):
    text, found = program("info").stdout, facts()
    for fact in (found["installation"]["folder"], found["machine"]["host"], found["schedulers"]["chosen"]):
        assert fact in text
    for one in found["problems"]:
        assert one["what"].split()[0] in text[text.index(SERIOUS[one["serious"]]) :]


def test_it_fits_the_terminal(program):
    text = program("info", COLUMNS="60").stdout
    assert [line for line in text.splitlines() if len(line) > 60 and len(line.split()) > 2 and "/" not in line] == []


@pytest.mark.mpi
def test_the_mpi_library_and_its_mpiexec_are_found_whatever_is_in_path(facts):
    found = facts(PATH="/nowhere")["mpi"]
    assert found["version"] == loaded_library().version
    assert Path(found["mpiexec"]).is_file()
    assert found["problem"] is None


def test_without_mpi4py_it_says_how_to_get_it(problem, other_python, needed_packages):
    found = problem("mpi4py", python=other_python, PYTHONPATH=needed_packages)
    assert "not installed" in found["what"]
    assert 'pip install "pympipool[mpich]"' in found["what"]
    assert not found["serious"]  # who has no MPI functions needs none


def test_an_mpi4py_that_cannot_be_imported_is_wrong(problem, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise ImportError('libmpi.so.40: cannot open shared object file')"
    )
    found = problem("mpi4py", PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}")
    assert "libmpi.so.40: cannot open" in found["what"]
    assert found["serious"]


@pytest.mark.mpi
def test_an_mpi_library_without_its_mpiexec_is_wrong(problem, other_python, tmp_path):
    library = Path(loaded_library().path)
    for beside in library.parent.iterdir():  # what the library loads from there
        if beside.resolve() != library.resolve():
            (tmp_path / beside.name).symlink_to(beside)
    copy = Path(shutil.copy(library.resolve(), tmp_path / library.name))
    found = problem(
        "no mpiexec",
        python=other_python,
        PYTHONPATH=os.pathsep.join(sys.path),
        MPI4PY_LIBMPI=str(copy),
        PATH="/nowhere",
    )
    assert str(copy) in found["what"]
    assert found["serious"]


def test_another_mpiexec_in_path_is_worth_knowing(program, programs_called, tmp_path):
    programs_called(mpiexec="echo 'mpiexec (Open MPI) 5.0.11'")
    found = json.loads(program("info", "--json").stdout)
    if found["mpi"]["mpiexec"] is None:
        pytest.skip('no MPI here: pip install "pympipool[mpich]"')
    (said,) = [one["what"] for one in found["problems"] if "in PATH" in one["what"]]
    assert str(tmp_path / "mpiexec") in said
    assert found["mpi"]["mpiexec"] in said


def test_too_few_open_files_are_wrong(problem):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    found = problem("open 40 files", before=few)
    assert found["remedy"].startswith("ulimit -n ")
    assert found["serious"]


def test_a_limit_of_open_files_that_cannot_be_raised_is_asked_for(problem):
    found = problem("open 40 files", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert "ask for" in found["remedy"]


def test_a_folder_for_temporary_files_that_cannot_be_written_is_wrong(problem):
    found = problem("TMPDIR is '/proc'", TMPDIR="/proc")
    assert "export TMPDIR" in found["remedy"]


def test_fewer_cores_than_the_machine_has_are_worth_knowing(facts):
    one = min(os.sched_getaffinity(0))
    if os.cpu_count() == 1:
        pytest.skip("this machine has one core")
    found = facts(before=lambda: os.sched_setaffinity(0, {one}))
    assert found["machine"]["cores"]["usable"] == 1
    assert any("bound to 1 of" in problem["what"] for problem in found["problems"])


def test_threads_that_the_environment_asks_for_are_worth_knowing(problem):
    if available_cores() == 1:
        pytest.skip("on one core there is nothing to share")
    assert "unset OMP_NUM_THREADS" in problem("OMP_NUM_THREADS is 8", OMP_NUM_THREADS="8")["remedy"]


def test_gpus_are_those_that_the_environment_leaves(facts, program):
    found = facts(CUDA_VISIBLE_DEVICES="3,5")["machine"]["gpus"]
    assert found["usable"] == ["3", "5"]
    assert "2: CUDA_VISIBLE_DEVICES=3,5" in " ".join(program("info", CUDA_VISIBLE_DEVICES="3,5").stdout.split())


def test_a_rank_of_a_job_is_told_to_be_no_rank(problem):
    assert "plain python" in problem("PMI_RANK", PMI_RANK="0", PMI_SIZE="2")["remedy"]


def test_a_compiled_part_that_is_missing_is_wrong_and_everything_else_is_told(problem, tmp_path):
    copy = tmp_path / "pympipool"
    shutil.copytree(Path(pympipool.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    found = problem("compiled part", PYTHONPATH=str(tmp_path))
    assert "_dispatch" in found["what"]
    assert "install" in found["remedy"]


# ---- schedulers; the real ones are in tests/slurm and tests/flux_framework ----

ANSWERS = {
    "srun": "echo slurm 22.05.8; printf '\\tnone\\n\\tpmi2\\n\\tpmix\\n'",
    "squeue": "exit 0",
    "scancel": "exit 0",
}


def test_why_auto_passes_a_scheduler_over_is_told(facts, programs_called):
    programs_called(**{**ANSWERS, "squeue": "echo slurm_load_jobs error >&2; exit 1"})
    found = facts()["schedulers"]
    assert found["chosen"] == "mpi"
    assert "slurm_load_jobs error" in found["passed_over"]["slurm"]


def test_a_scheduler_that_hangs_is_passed_over(facts, programs_called):
    programs_called(**{**ANSWERS, "squeue": "exec sleep 1000"})
    assert "does not answer" in facts()["schedulers"]["passed_over"]["slurm"]


def test_a_job_whose_scheduler_does_not_answer_is_wrong(problem, programs_called):
    programs_called(**{**ANSWERS, "squeue": "exit 1"})
    assert problem("job 4711", SLURM_JOB_ID="4711")["serious"]


def test_in_a_step_auto_takes_its_cores_and_nothing_is_wrong(facts, programs_called):
    programs_called(**ANSWERS)
    found = facts(SLURM_JOB_ID="4711", SLURM_STEP_ID="3", SLURM_JOB_CPUS_PER_NODE="8")
    assert found["schedulers"]["chosen"] == "mpi"
    assert "is itself a step" in found["schedulers"]["passed_over"]["slurm"]
    (told,) = [problem for problem in found["problems"] if "step 3 of job 4711" in problem["what"]]
    assert not told["serious"]
    assert facts(SLURM_JOB_ID="4711", SLURM_STEP_ID="4294967290")["schedulers"]["chosen"] == "slurm"  # salloc's shell


def test_outside_of_a_job_it_is_told_that_each_worker_would_be_one(facts, programs_called):
    programs_called(**ANSWERS)
    found = facts()
    assert found["schedulers"]["chosen"] == "slurm"
    assert any("no job of it" in problem["what"] for problem in found["problems"])


@pytest.mark.mpi
def test_a_scheduler_that_cannot_start_the_ranks_of_this_mpi_is_wrong(problem, programs_called):
    programs_called(**{**ANSWERS, "srun": "printf '\\tnone\\n\\tcray_shasta\\n'"})
    found = problem("srun has no --mpi=")
    assert "none, cray_shasta" in found["what"]
    assert "pmi_mode" in found["remedy"]

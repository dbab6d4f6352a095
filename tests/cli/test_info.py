"""`pympipool info` on this machine, and where something is wrong."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool.backends.mpi_library import loaded_library
from pympipool.diagnostics.environment.shared_data import probe_shared_data
from pympipool.resources import available_cores
from support.waiting import LIMIT_S

SERIOUS = {True: "What is wrong", False: "Worth knowing"}


@pytest.fixture
def facts(program):
    """facts(...): the data of `pympipool info --json`; parameters as for `program`."""

    def ask(**parameters):
        done = program("info", "--json", **parameters)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def find_issue(facts):
    """find_issue(word, ...): the one issue whose message contains the word."""

    def find(word, **parameters):
        (found,) = [issue for issue in facts(**parameters)["issues"] if word in issue["message"]]
        return found

    return find


def test_facts_match_this_machine(facts):
    found = facts()
    assert found["installation"]["pympipool"] == pympipool.__version__
    assert found["installation"]["executable"] == sys.executable
    assert found["installation"]["compiled"] is None
    assert found["machine"]["cores"]["usable"] == available_cores()
    assert found["machine"]["cores"]["machine"] == os.cpu_count()
    assert found["machine"]["limits"]["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found["machine"]["memory"]["machine"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["machine"]["shared_memory"]["size"] == shutil.disk_usage("/dev/shm").total


def test_text_has_the_facts(program, facts):
    text, found = program("info").stdout, facts()
    for fact in (found["installation"]["folder"], found["machine"]["host"], found["schedulers"]["chosen"]):
        assert fact in text
    for issue in found["issues"]:
        assert issue["message"].split()[0] in text[text.index(SERIOUS[issue["serious"]]) :]


def test_shared_data_are_shown_with_their_process(program, facts):
    handle = pympipool.share(bytes(1_000_000))
    shared, text = facts()["shared_data"], program("info").stdout  # those of other programs are counted, too
    assert os.getpid() in shared["pids"]
    assert shared["size"] >= handle.nbytes
    assert str(os.getpid()) in text.partition("shared data")[2].partition("\n")[0]
    del handle
    gc.collect()  # handles of other tests
    assert os.getpid() not in probe_shared_data().pids


def test_text_fits_the_terminal(program):
    text = program("info", COLUMNS="60").stdout
    assert [line for line in text.splitlines() if len(line) > 60 and len(line.split()) > 2 and "/" not in line] == []


@pytest.mark.mpi
def test_mpi_library_and_mpiexec_are_found_without_path(facts):
    found = facts(PATH="/nowhere")["mpi"]
    assert found["version"] == loaded_library().version
    assert Path(found["mpiexec"]).is_file()
    assert found["error"] is None


def test_missing_mpi4py_names_remedy(find_issue, other_python, needed_packages):
    found = find_issue("mpi4py", python=other_python, PYTHONPATH=needed_packages)
    assert "not installed" in found["message"]
    assert "pip install mpi4py mpich" in found["message"]
    assert not found["serious"]  # without MPI functions it is not needed


def test_broken_mpi4py_is_serious(find_issue, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise ImportError('libmpi.so.40: cannot open shared object file')"
    )
    found = find_issue("mpi4py", PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(pympipool.__file__).parents[1]}")
    assert "libmpi.so.40: cannot open" in found["message"]
    assert found["serious"]


@pytest.mark.mpi
def test_mpi_library_without_mpiexec_is_serious(find_issue, other_python, tmp_path):
    library = Path(loaded_library().path)
    for beside in library.parent.iterdir():  # files that the library loads from its folder
        if beside.resolve() != library.resolve():
            (tmp_path / beside.name).symlink_to(beside)
    copy = Path(shutil.copy(library.resolve(), tmp_path / library.name))
    found = find_issue(
        "no mpiexec",
        python=other_python,
        PYTHONPATH=os.pathsep.join(sys.path),
        MPI4PY_LIBMPI=str(copy),
        PATH="/nowhere",
    )
    assert str(copy) in found["message"]
    assert found["serious"]


def test_other_mpiexec_in_path_is_reported(program, programs_called, tmp_path):
    programs_called(mpiexec="echo 'mpiexec (Open MPI) 5.0.11'")
    found = json.loads(program("info", "--json").stdout)
    if found["mpi"]["mpiexec"] is None:
        pytest.skip("no MPI here: pip install mpi4py mpich")
    (message,) = [issue["message"] for issue in found["issues"] if "in PATH" in issue["message"]]
    assert str(tmp_path / "mpiexec") in message
    assert found["mpi"]["mpiexec"] in message


def test_two_names_of_one_mpiexec_are_reported_nowhere(program, tmp_path):
    found = json.loads(program("info", "--json").stdout)
    if found["mpi"]["mpiexec"] is None:
        pytest.skip("no MPI here: pip install mpi4py mpich")
    shutil.copy(found["mpi"]["mpiexec"], tmp_path / "mpiexec")
    found = json.loads(program("info", "--json", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}").stdout)
    assert found["mpi"]["mpiexec_in_path"] == str(tmp_path / "mpiexec")
    assert not [issue for issue in found["issues"] if "in PATH" in issue["message"]]


def test_low_hard_limit_of_open_files_is_serious(find_issue):
    found = find_issue("open 40 files", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert "ask for" in found["remedy"]
    assert found["serious"]


def test_soft_limit_of_open_files_is_no_issue(facts):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = facts(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard)))
    assert not [issue for issue in found["issues"] if "files" in issue["message"]]


def test_open_files_are_raised_only_if_possible(program):
    for soft, is_raised in ((90, False), (80, True)):
        done = program("info", before=lambda soft=soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, 90)))
        text = " ".join(done.stdout.split())
        assert f"{soft} open at a time" in text
        assert ("which may be raised to 90" in text) == is_raised


def test_unwritable_tmpdir_is_reported(find_issue):
    found = find_issue("TMPDIR is '/proc'", TMPDIR="/proc")
    assert "export TMPDIR" in found["remedy"]


def test_core_binding_is_reported(facts):
    one = min(os.sched_getaffinity(0))
    if os.cpu_count() == 1:
        pytest.skip("this machine has one core")
    found = facts(before=lambda: os.sched_setaffinity(0, {one}))
    assert found["machine"]["cores"]["usable"] == 1
    assert any("bound to 1 of" in issue["message"] for issue in found["issues"])


def test_thread_variables_are_reported(find_issue):
    if available_cores() == 1:
        pytest.skip("on one core there is nothing to share")
    assert "unset OMP_NUM_THREADS" in find_issue("OMP_NUM_THREADS is 8", OMP_NUM_THREADS="8")["remedy"]


def test_gpus_follow_the_environment(facts, program):
    found = facts(CUDA_VISIBLE_DEVICES="3,5")["machine"]["gpus"]
    assert found["usable"] == ["3", "5"]
    assert "2: CUDA_VISIBLE_DEVICES=3,5" in " ".join(program("info", CUDA_VISIBLE_DEVICES="3,5").stdout.split())


def test_running_as_mpi_rank_is_reported(find_issue):
    assert "plain python" in find_issue("PMI_RANK", PMI_RANK="0", PMI_SIZE="2")["remedy"]


def test_missing_compiled_part_is_an_issue(find_issue, tmp_path):
    copy = tmp_path / "pympipool"
    shutil.copytree(Path(pympipool.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    found = find_issue("compiled part", PYTHONPATH=str(tmp_path))
    assert "pympipool._core" in found["message"]
    assert "install" in found["remedy"]


@pytest.mark.parametrize("command", ["--help", "bench", "cache list -d folder"])
def test_other_commands_name_missing_compiled_part(program, tmp_path, command):
    copy = tmp_path / "pympipool"
    shutil.copytree(Path(pympipool.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = program(*command.split(), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"pympipool: the compiled part of pympipool is missing in {copy}")


def test_script_beside_the_source_learns_why_import_fails(tmp_path):
    copy = tmp_path / "pympipool"
    shutil.copytree(Path(pympipool.__file__).parent, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "script.py").write_text("from pympipool import Executor")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False
    )
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.splitlines()[-1]
    assert f"ImportError: the compiled part of pympipool is missing in {copy}" in last
    assert "in another folder" in last


# ---- schedulers; the real ones are in tests/slurm and tests/flux_framework ----

ANSWERS = {
    "srun": "echo slurm 22.05.8; printf '\\tnone\\n\\tpmi2\\n\\tpmix\\n'",
    "squeue": "exit 0",
    "scancel": "exit 0",
}


def test_reason_for_skipped_scheduler_is_reported(facts, programs_called):
    programs_called(**{**ANSWERS, "squeue": "echo slurm_load_jobs error >&2; exit 1"})
    found = facts()["schedulers"]
    assert found["chosen"] == "mpi"
    assert "slurm_load_jobs error" in found["skipped_backends"]["slurm"]


def test_hanging_scheduler_is_skipped(facts, programs_called):
    programs_called(**{**ANSWERS, "squeue": "exec sleep 1000"})
    assert "does not answer" in facts()["schedulers"]["skipped_backends"]["slurm"]


def test_job_without_answering_scheduler_is_serious(find_issue, programs_called):
    programs_called(**{**ANSWERS, "squeue": "exit 1"})
    assert find_issue("job 4711", SLURM_JOB_ID="4711")["serious"]


def test_auto_takes_cores_of_slurm_step(facts, programs_called):
    programs_called(**ANSWERS)
    found = facts(SLURM_JOB_ID="4711", SLURM_STEP_ID="3", SLURM_JOB_CPUS_PER_NODE="8")
    assert found["schedulers"]["chosen"] == "mpi"
    assert "is itself a step" in found["schedulers"]["skipped_backends"]["slurm"]
    (found_issue,) = [issue for issue in found["issues"] if "step 3 of job 4711" in issue["message"]]
    assert not found_issue["serious"]
    assert facts(SLURM_JOB_ID="4711", SLURM_STEP_ID="4294967290")["schedulers"]["chosen"] == "slurm"  # salloc's shell


def test_slurm_outside_of_job_is_reported(facts, programs_called):
    programs_called(**ANSWERS)
    found = facts()
    assert found["schedulers"]["chosen"] == "slurm"
    assert any("no job of it" in issue["message"] for issue in found["issues"])


@pytest.mark.mpi
def test_missing_mpi_plugin_of_srun_is_serious(find_issue, programs_called):
    programs_called(**{**ANSWERS, "srun": "printf '\\tnone\\n\\tcray_shasta\\n'"})
    found = find_issue("srun has no --mpi=")
    assert "none, cray_shasta" in found["message"]
    assert "pmi_mode" in found["remedy"]

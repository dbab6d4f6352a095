from __future__ import annotations

import subprocess
import sys
import sysconfig

import pytest

from pympipool.backends.program import BOOTSTRAP, program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

LIMIT_S = 60.0


def flags_of(*flags, code="import pympipool.backends.program as p; print(p.program_command()[1:-2])"):
    """Return the flags that a worker gets from an interpreter with these flags."""
    path = [entry for entry in sys.path if entry]
    program = f"import sys; sys.path[:] = {path!r}; {code}"
    answer = subprocess.run(
        [sys.executable, *flags, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return eval(answer.stdout)


def test_command_runs_this_interpreter():
    command = program_command()
    assert command[0] == sys.executable
    assert "from pympipool.worker import main" in command[-1]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-B"],
        ["-E", "-s"],
        ["-OO"],
        ["-b", "-b"],
        ["-W", "error::ResourceWarning"],
        ["-X", "dev"],
        ["-X", "utf8=1", "-X", "faulthandler"],
    ],
)
def test_worker_has_same_interpreter_flags(flags):
    code = (
        "import subprocess, pympipool.backends.program as p;"
        "code = 'import sys; print((tuple(sys.flags), sorted(sys.warnoptions), sorted(sys._xoptions.items())))';"
        "own = (tuple(sys.flags), sorted(sys.warnoptions), sorted(sys._xoptions.items()));"
        "command = [*p.program_command()[:-1], code];"
        "print((own, eval(subprocess.run(command, capture_output=True, text=True).stdout)))"
    )
    own, of_worker = flags_of(*flags, code=code)
    assert own == of_worker


def test_flags_for_a_single_process_are_dropped():
    assert flags_of("-X", "importtime=0") == flags_of()


@pytest.mark.parametrize(
    ("disabled", "setting", "flags"), [(1, None, ["-X", "gil=1"]), (1, "0", []), (0, None, []), (None, None, [])]
)
def test_workers_of_free_threaded_python_have_the_gil(monkeypatch, disabled, setting, flags):
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": disabled}.get)
    monkeypatch.delenv("PYTHON_GIL", raising=False)
    if setting is not None:
        monkeypatch.setenv("PYTHON_GIL", setting)
    command = program_command()
    assert command[command.index("-c") - len(flags) : command.index("-c")] == flags
    assert ("gil=1" in command) == bool(flags)


def test_missing_interpreter_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(WorkerStartError, match=r"sys\.executable is empty"):
        program_command()


@pytest.mark.parametrize("executable", ["/opt/app/app", "/opt/app/simulate.exe"])
def test_frozen_program_is_an_error(monkeypatch, executable):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(WorkerStartError, match=rf"frozen.*{executable}.*set sys\.executable"):
        program_command()


def test_frozen_program_may_name_an_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3.11")
    assert program_command()[0] == "/usr/bin/python3.11"


def test_program_in_place_of_a_worker_refuses(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_KEY", "ab" * 32)
    with pytest.raises(WorkerStartError, match=r"started as a worker.*must be the path of a Python interpreter"):
        program_command()


def test_environment_is_the_masters_updated_by_request(monkeypatch):
    monkeypatch.setenv("FROM_THE_MASTER", "1")
    monkeypatch.setenv("FROM_BOTH", "master")
    environment = worker_environment(LaunchRequest(1, environment={"FROM_BOTH": "request", "FROM_THE_REQUEST": "2"}))
    assert environment["FROM_THE_MASTER"] == "1"
    assert environment["FROM_BOTH"] == "request"
    assert environment["FROM_THE_REQUEST"] == "2"


@pytest.mark.parametrize(
    "name",
    ["PMI_RANK", "PMI_FD", "PMIX_RANK", "HYDI_CONTROL_FD", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_SIZE", "PRTE_LAUNCHED"],
)
def test_rank_variables_of_the_master_are_dropped(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert name not in worker_environment(LaunchRequest(1))


@pytest.mark.parametrize("name", ["OMPI_MCA_btl", "PMIX_MCA_gds", "MPICH_ASYNC_PROGRESS", "SLURM_JOB_ID"])
def test_settings_of_mpi_and_scheduler_are_kept(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert worker_environment(LaunchRequest(1))[name] == "1"


def test_collector_passes_over_what_programs_import(tmp_path):
    (tmp_path / "pympipool").mkdir()
    (tmp_path / "pympipool" / "__init__.py").write_text("")
    code = (
        "kept = []\ndef main():\n    import gc\n    print(any(kept is one for one in gc.get_objects()), gc.isenabled())"
    )
    (tmp_path / "pympipool" / "chosen.py").write_text(code)
    answer = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP.format(module="pympipool.chosen")],
        env={"PYMPIPOOL_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert answer.stdout == "False True\n"


def test_files_in_current_folder_shadow_no_modules(tmp_path, monkeypatch):
    for module in ("os", "socket", "signal", "pickle", "struct", "typing", "pympipool"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module} from the current folder')")
    folder = tmp_path / "12:30"
    (folder / "pympipool").mkdir(parents=True)
    (folder / "pympipool" / "__init__.py").write_text("")
    (folder / "pympipool" / "chosen.py").write_text("def main():\n    import sys\n    print(sys.path)")
    environment = {"PYMPIPOOL_PATH": str(folder)}
    answer = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP.format(module="pympipool.chosen")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert answer.stderr == ""
    assert not {"", str(tmp_path), str(folder)}.intersection(eval(answer.stdout))

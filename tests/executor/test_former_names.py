"""Names, parameters and places of pympipool 0.8 work with a warning, or an ImportError says what to write."""

import importlib
import subprocess
import sys
import warnings

import pytest

import pympipool
from pympipool import Executor
from support.waiting import LIMIT_S


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("pympipool", "PyMPIExecutor", "pympipool.mpi.PyMPIExecutor"),
        ("pympipool", "PyFluxExecutor", "pympipool.flux.PyFluxExecutor"),
        ("pympipool", "PySlurmExecutor", "pympipool.slurm.PySlurmExecutor"),
        ("pympipool.mpi.executor", "PyMPIExecutor", "pympipool.mpi.PyMPIExecutor"),
        ("pympipool.flux.executor", "PyFluxExecutor", "pympipool.flux.PyFluxExecutor"),
        ("pympipool.slurm.executor", "PySlurmExecutor", "pympipool.slurm.PySlurmExecutor"),
        ("pympipool.scheduler.mpi", "PyMPIExecutor", "pympipool.mpi.PyMPIExecutor"),
        ("pympipool.scheduler", "create_executor", "pympipool.Executor"),
        ("pympipool.interactive", "create_executor", "pympipool.Executor"),
        ("pympipool.interactive.dependencies", "ExecutorWithDependencies", "pympipool.Executor"),
        ("pympipool.shared.dependencies", "ExecutorWithDependencies", "pympipool.Executor"),
        ("pympipool.shell.executor", "SubprocessExecutor", "pympipool.SubprocessExecutor"),
        ("pympipool.shell.interactive", "ShellExecutor", "pympipool.ShellExecutor"),
        ("pympipool.interfaces.taskexecutor", "Executor", "pympipool.Executor"),
    ],
)
def test_former_names_stand_for_present_ones(module, name, now):
    imported = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is a name of pympipool 0.8; write {now}"):
        found = getattr(imported, name)
    present, _, attribute = now.rpartition(".")
    assert found is getattr(importlib.import_module(present), attribute)


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("from pympipool import HPCExecutor", "use Executor(max_cores=...)"),
        ("from pympipool import Pool", "use Executor(...).map"),
        ("from pympipool.shared.communication import interface_bootup", "from pympipool import Executor"),
        ("import pympipool.backend.mpiexec", "from pympipool import Executor"),
        ("import pympipool.legacy", "from pympipool import Executor"),
        ("from pympipool.shared.executorbase import cancel_items_in_queue", "shutdown(cancel_futures=True)"),
    ],
)
def test_removed_names_say_what_to_write(statement, remedy):
    done = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert remedy in done.stderr


def test_names_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pympipool.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pympipool.mpi.nothing")
    with pytest.raises(AttributeError, match="did you mean 'Executor'"):
        pympipool.Exekutor  # noqa: B018  the access is tested


def test_arguments_without_names_work():
    with pytest.warns(DeprecationWarning, match=r"by name: Executor\(max_workers=2, max_cores=2, cores_per_worker=1\)"):
        exe = Executor(2, 2, 1, backend="mpi")
    with exe:
        assert exe.max_workers == 2
        assert exe.submit(pow, 2, 5).result(LIMIT_S) == 32
    with pytest.raises(TypeError, match="several values for 'max_cores'"):
        Executor(2, 2, max_cores=2)
    with pytest.raises(TypeError, match="at most 15 arguments"):
        Executor(*range(1, 17))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Executor(1, backend="mpi").shutdown()


def test_other_count_of_workers_warns():
    parameters = {"max_workers": 2, "cores_per_worker": 2, "backend": "mpi"}
    with pytest.warns(FutureWarning, match="is 2 workers on 4 cores; .* Write max_cores=4 instead") as found:
        Executor(**parameters).shutdown()
    assert found[0].filename == __file__
    for unambiguous in ({"max_cores": 4}, {"cores_per_worker": 1}, {"max_workers": 1}):
        Executor(**{**parameters, **unambiguous}).shutdown()
    importlib.import_module("pympipool.mpi").PyMPIExecutor(2, 2).shutdown()  # it counted workers


def test_step_executors_start_a_process_for_each_call():
    module = importlib.import_module("pympipool.mpi.executor")
    with pytest.warns(DeprecationWarning, match="write Executor"):
        make = module.PyMPIStepExecutor
    with make(2, 1) as exe:
        assert (exe.info["max_cores"], exe.info["block_allocation"]) == (2, False)
    with pytest.raises(TypeError, match="at most 5 arguments"):
        make(*range(6))


def test_backend_local_is_this_machine():
    with pytest.warns(DeprecationWarning, match="backend='mpi'"), Executor(max_workers=1, backend="local") as exe:
        assert exe.info["backend"] == "mpi"


def test_caller_is_registered_for_pickling_by_value(tmp_path, monkeypatch):
    source = "from pympipool.shared.executorbase import cloudpickle_register\ncloudpickle_register(ind=1)\n"
    (tmp_path / "a_study.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(DeprecationWarning, match="register_pickle_by_value"):
        study = importlib.import_module("a_study")
    cloudpickle = importlib.import_module("cloudpickle")
    assert "a_study" in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.unregister_pickle_by_value(study)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("n_jobs", "max_workers"),
        ("processes", "max_workers"),
        ("cores", "cores_per_worker"),
        ("threads_per_worker", "threads_per_core"),
    ],
)
def test_parameters_of_other_classes_are_known(name, meant):
    with pytest.raises(TypeError, match=f"has no parameter '{name}'; here it is called '{meant}'"):
        Executor(**{name: 2})

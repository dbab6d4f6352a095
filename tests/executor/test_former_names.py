"""Names, parameters and places of pympipool 0.8 work with a warning, or an ImportError says what to write."""

import importlib
import subprocess
import sys
import warnings

import pytest

import pympipool
from pympipool import Executor
from support.scripts import run_script
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
    assert not hasattr(pympipool, "Exekutor")


def test_misspelled_import_suggests_nearest_name():
    with pytest.raises(ImportError, match="cannot import name 'Exekutor' from 'pympipool'; did you mean 'Executor'"):
        from pympipool import Exekutor  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'pympipool' "):
        from pympipool import nothing  # noqa: F401


def test_half_imported_module_is_not_replaced_by_suggestion(monkeypatch):
    module = object()
    monkeypatch.setitem(sys.modules, "pympipool.shere", module)  # it resembles share
    from pympipool import shere

    assert shere is module


def test_internal_names_of_former_modules_are_explained():
    module = importlib.import_module("pympipool.shared.executorbase")
    with pytest.raises(ImportError, match=r"ExecutorBase: .* it was internal"):
        module.ExecutorBase  # noqa: B018  the access is tested
    assert not hasattr(module, "__wrapped__")


PROGRAM = """
import pympipool
from pympipool import Executor, ExecutorWithDependencies, ShellExecutor, SubprocessExecutor, create_executor
from pympipool.scheduler import create_executor
from pympipool.scheduler.mpi import PyMPIExecutor, PyMPIStepExecutor
from pympipool.shared.dependencies import ExecutorWithDependencies
from pympipool.shared.executorbase import cloudpickle_register
from pympipool.shell.executor import SubprocessExecutor
from pympipool.shell.interactive import ShellExecutor

cloudpickle_register(ind=1)

def total(*args):
    return sum(*args)

def shifted(i, j, k):
    return i + j + k

def presets():
    return {"j": 4, "k": 3, "l": 2}

def ranks(i):
    from mpi4py import MPI
    return i, MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank()

with Executor(max_cores=1, backend="mpi", hostname_localhost=True) as exe:
    print(exe.submit(sum, [1, 1], resource_dict={"cores": 1}).result())

with Executor(max_cores=2, backend="mpi") as exe:
    calls = [exe.submit(total, [2, n]) for n in (1, 2, 3, 4)]
    print([call.result() for call in calls], list(exe.map(total, [[2, 1], [2, 2]])))

with Executor(
    max_cores=2, cores_per_worker=1, threads_per_core=1, gpus_per_worker=0, oversubscribe=False, cwd=".",
    executor=None, hostname_localhost=False, backend="mpi", block_allocation=False, init_function=None,
    command_line_argument_lst=[], disable_dependencies=False, refresh_rate=0.01,
) as exe:
    resource_dict = {
        "cores": 1, "threads_per_core": 1, "gpus_per_core": 0, "oversubscribe": False, "cwd": ".", "executor": None,
        "hostname_localhost": False, "command_line_argument_lst": [],
    }
    first = exe.submit(shifted, 1, j=2, k=0, resource_dict=resource_dict)
    print(exe.submit(shifted, 1, j=first, k=0, resource_dict={"cores": 1}).result())

with Executor(max_cores=1, init_function=presets, backend="mpi", block_allocation=True) as exe:
    print(exe.submit(shifted, 2, j=5).result(), exe.info["cores"], exe.info["cwd"], exe.info["max_workers"])

with PyMPIExecutor(max_workers=1, cores_per_worker=2, hostname_localhost=True) as exe:
    info = exe.info
    print(exe.submit(ranks, 3).result(), info["cores"], info["hostname_localhost"], info["oversubscribe"])

with PyMPIStepExecutor(max_cores=2) as exe:
    print(exe.submit(ranks, 4, resource_dict={"cores": 2}).result(), exe.info["max_cores"])

with create_executor(max_cores=2, cores_per_worker=2, backend="mpi") as exe:
    print(exe.submit(ranks, 5).result())

with ExecutorWithDependencies(max_cores=1, backend="mpi", refresh_rate=0.1) as exe:
    print(exe.submit(total, [exe.submit(total, [1, 2]), 3]).result())

with SubprocessExecutor(max_workers=2) as exe:
    print(exe.submit(["echo", "test"], universal_newlines=True).result(), end="")

with ShellExecutor(["cat"], universal_newlines=True) as exe:
    print(exe.submit(string_input="4", lines_to_read=1, stop_read_pattern=None).result(), end="")
"""
"""Uses what the documentation of pympipool 0.8.3 shows, on one machine, and each import path that it had."""

OUTPUT = """
2
[3, 4, 5, 6] [3, 4]
4
10 1 None 1
[(3, 2, 0), (3, 2, 1)] 2 True False
[(4, 2, 0), (4, 2, 1)] 2
[(5, 2, 0), (5, 2, 1)]
6
test
4
"""


@pytest.mark.mpi
def test_program_of_0_8_runs_unchanged(tmp_path):
    assert run_script(PROGRAM, tmp_path) == OUTPUT.lstrip()


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
    with pytest.warns(FutureWarning, match="is 2 workers on 4 cores together. .* write max_cores=4 instead") as found:
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
        ("queue", "partition"),
    ],
)
def test_parameters_of_other_classes_are_known(name, meant):
    with pytest.raises(TypeError, match=f"has no parameter '{name}'; here it is called '{meant}'"):
        Executor(**{name: 2})

"""Parameters and keys of executorlib: they work, or the error says what there is instead."""

import os

import pytest

from pympipool import Executor
from pympipool.resources import Resources

THREADS = "OMP_NUM_THREADS"


def test_resource_dict_sets_defaults_of_calls(tmp_path, monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    resource_dict = {"threads_per_core": 2, "cwd": str(tmp_path)}
    with Executor(max_cores=2, resource_dict=resource_dict, backend="mpi") as exe:
        assert exe.info["threads_per_core"] == 2
        assert exe.max_workers == 1
        assert exe.submit(os.getcwd).result() == str(tmp_path)
        assert exe.submit(os.getenv, THREADS).result() == "2"
        assert exe.submit(os.getenv, THREADS, resource_dict={"threads_per_core": 1}).result() == "1"
    assert resource_dict == {"threads_per_core": 2, "cwd": str(tmp_path)}


@pytest.mark.mpi
@pytest.mark.parametrize("block_allocation", [True, False])
def test_cores_of_resource_dict_are_ranks(block_allocation):
    with Executor(max_cores=2, resource_dict={"cores": 2}, block_allocation=block_allocation, backend="mpi") as exe:
        assert exe.info["cores_per_worker"] == 2
        assert exe.submit(abs, -1).result() == [1, 1]


def test_gpus_of_resource_dict_are_per_core(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with Executor(max_cores=2, resource_dict={"cores": 2, "gpus_per_core": 1}, backend="mpi") as exe:
        assert exe.info["gpus_per_worker"] == 2


@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({"resource_dict": 5}, TypeError, "resource_dict is 5; it must be a dict"),
        ({"resource_dict": {"core": 1}}, ValueError, "unknown key 'core'; did you mean 'cores'"),
        ({"resource_dict": {"cores": 0}}, ValueError, "cores_per_worker is 0"),
        ({"resource_dict": {"cores": 2}, "cores_per_worker": 4}, ValueError, "give it in one of the two places"),
        ({"oversubscribe": True, "openmpi_oversubscribe": True}, ValueError, "which are the same"),
        ({"resource_dict": {"cache_directory": "cache"}}, ValueError, r"a parameter of Executor\(\)"),
        ({"resource_dict": {"cache_key": "a"}}, ValueError, r"give it to submit\(\)"),
        ({"export_workflow_filename": "w.json"}, ValueError, "plot_dependency_graph_filename"),
        ({"log_obj_size": True}, ValueError, r"pympipool\.trace\(\)"),
        ({"wait": False}, ValueError, r"shutdown\(wait=False\)"),
        ({"num_nodes": 2}, ValueError, "num_nodes is 2; backend 'mpi' takes none, only"),
        ({"resource_dict": {"priority": 3}}, ValueError, "priority is 3; backend 'mpi' takes none, only"),
        ({"flux_executor_nesting": True}, ValueError, "executor_nesting is True; backend 'mpi' takes none"),
        ({"pysqa_config_directory": "c"}, ValueError, "srun or flux starts workers"),
    ],
)
def test_other_values_raise_with_a_remedy(parameters, kind, words):
    with pytest.raises(kind, match=words):
        Executor(max_cores=4, backend="mpi", **parameters)


def test_defaults_of_executorlib_are_accepted():
    neutral = {
        "cache_directory": None,
        "resource_dict": {
            "cores": 1,
            "threads_per_core": 1,
            "gpus_per_core": 0,
            "cwd": None,
            "cache_key": None,
            "exclusive": None,
        },
        "hostname_localhost": None,
        "export_workflow_filename": None,
        "log_obj_size": False,
        "wait": True,
        "restart_limit": 0,
        "openmpi_oversubscribe": False,
        "pmi_mode": None,
        "pysqa_config_directory": None,
        "flux_executor": None,
        "flux_executor_nesting": False,
        "flux_log_files": False,
    }
    with Executor(max_workers=1, backend="mpi", **neutral) as exe:
        assert exe.submit(pow, 2, 3, resource_dict={"openmpi_oversubscribe": True, "priority": None}).result() == 8


def test_names_of_executorlib_set_the_same_resources():
    resources = Resources.from_dict({"openmpi_oversubscribe": True, "slurm_cmd_args": ["--mem=0"]})
    assert resources == Resources(oversubscribe=True, command_line_argument_lst=["--mem=0"])


def test_count_of_executorlib_is_warned_of():
    with pytest.warns(FutureWarning, match="is 2 workers on 4 cores"):
        Executor(max_workers=2, resource_dict={"cores": 2}, backend="mpi").shutdown()

"""`Resources`: each value is checked where it is given, and the error says what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import pickle

import numpy as np
import pytest

from pympipool.resources import Resources
from pympipool.resources.request import DURATION_MARGIN_S, THREAD_VARIABLES


def test_defaults_are_those_of_the_specification():
    assert dataclasses.asdict(Resources()) == {
        "cores": 1,
        "threads_per_core": 1,
        "gpus_per_core": 0,
        "oversubscribe": False,
        "cwd": None,
        "executor": None,
        "hostname_localhost": False,
        "command_line_argument_lst": (),
        "pmi_mode": None,
        "run_time_max": None,
        "restart_limit": 0,
        "retries": 0,
        "retry_on": (Exception,),
        "retry_delay": 0.0,
        "connect_timeout": 60.0,
        "preload": None,
        "cache": True,
        "cache_key": None,
        "cache_exceptions": False,
        "submission_template": None,
        "error_log_file": None,
        "mp_context": None,
        "result_of": "all",
        "num_nodes": None,
        "exclusive": False,
        "priority": None,
        "partition": None,
        "account": None,
        "time_limit": None,
        "flux_log_files": False,
        "executor_nesting": False,
        "step": False,
    }


def test_every_parameter_is_documented_once():
    for one in dataclasses.fields(Resources):
        assert inspect.getdoc(Resources).count(f"\n    {one.name}: ") == 1


def test_call_inherits_resources_of_its_executor():
    default = Resources(cores=2, threads_per_core=3, run_time_max=5)
    assert Resources.from_dict({"cores": 4}, default) == Resources(cores=4, threads_per_core=3, run_time_max=5)
    assert Resources.from_dict({}, default) is default
    assert Resources.from_dict(None, default) is default
    assert Resources.from_dict({"cores": 1}) == Resources()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("core", "cores"), ("gpus_per_worker", "gpus_per_core"), ("threads", "threads_per_core"), ("workdir", None),
     ("oversubscribed", "oversubscribe"), (3, None)],
)  # fmt: skip
def test_unknown_key_error_suggests_and_lists_valid_keys(key, nearest):
    with pytest.raises(ValueError, match="unknown key") as caught:
        Resources.from_dict({"cores": 1, key: 2})
    text = str(caught.value)
    assert repr(key) in text
    if nearest:
        assert text.endswith(f"did you mean {nearest!r}? help(pympipool.resources.Resources) lists all")
    else:
        assert "did you mean" not in text
        assert all(one.name in text for one in dataclasses.fields(Resources))


@pytest.mark.parametrize("value", [[("cores", 1)], "cores", 3, []])
def test_resource_dict_must_be_a_dict(value):
    with pytest.raises(TypeError, match=r"resource_dict is .* must be a dict"):
        Resources.from_dict(value)


WRONG_TYPES = {
    "cores": [True, 1.0, "1", None, [1], np.float64(1), np.bool_(True)],
    "threads_per_core": [True, 2.5, None],
    "gpus_per_core": [False, 0.5, None],
    "oversubscribe": [0, 1, None, "yes"],
    "cwd": [3, b"/tmp", ["/"]],
    "hostname_localhost": [0, "no"],
    "command_line_argument_lst": ["-p debug", None, [1], {"-p"}],
    "run_time_max": [True, "3", [1], float("nan")],
    "restart_limit": [True, None, 1.0],
    "num_nodes": [True, 1.0, "2"],
    "exclusive": [1, "node"],
    "priority": [True, "high"],
    "partition": [1, ["debug"]],
    "account": [1],
    "time_limit": [True, "1:00"],
}
WRONG_VALUES = {
    "cores": [0, -1],
    "threads_per_core": [0, -3],
    "gpus_per_core": [-1],
    "run_time_max": [0, -1.5, float("inf")],
    "restart_limit": [-1],
    "num_nodes": [0],
    "priority": [0, -1],
    "time_limit": [0, float("inf")],
    "cwd": ["/no/such/directory", "", __file__, pathlib.Path("/no/such")],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, some in WRONG_TYPES.items() for value in some])
def test_wrong_type_error_names_parameter_and_value(name, value):
    for attempt in (lambda: Resources(**{name: value}), lambda: Resources.from_dict({name: value})):
        with pytest.raises(TypeError, match=f"^{name} is .*must be") as caught:
            attempt()
        assert repr(value) in str(caught.value)
    with pytest.raises(TypeError, match=r"^alias is .*must be"):
        Resources.check(name, value, "alias")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, some in WRONG_VALUES.items() for value in some])
def test_wrong_value_error_names_parameter_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        Resources(**{name: value})
    assert str(value) in str(caught.value)


def test_values_are_normalized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    kept = Resources(
        cores=np.int64(2), oversubscribe=np.bool_(True), cwd=pathlib.Path("work"), run_time_max=np.float32(2),
        command_line_argument_lst=["-p", "debug"], hostname_localhost=None,
    )  # fmt: skip
    assert kept == Resources(2, 1, 0, True, str(tmp_path / "work"), None, False, ("-p", "debug"), 2.0)
    assert [type(value) for value in (kept.cores, kept.oversubscribe, kept.run_time_max)] == [int, bool, float]
    assert pickle.loads(pickle.dumps(kept)) == kept
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.cores = 3


OF_SOME_BACKENDS = [
    ("mpi", "executor", object(), "only 'flux' does"),
    ("slurm", "executor", object(), "it is for a flux.job.FluxExecutor"),
    ("mpi", "command_line_argument_lst", ["--mem=0"], "only 'slurm' and 'ssh' do: it is for SLURM's srun, and for ssh"),
    ("flux", "command_line_argument_lst", ["--mem=0"], "it is for SLURM's srun"),
    ("mpi", "pmi_mode", "pmix", "only 'slurm' and 'flux' do"),
    ("flux", "oversubscribe", True, "flux gives each core to one rank at a time"),
    ("mpi", "num_nodes", 1, "there is no choice of nodes"),
    ("mpi", "exclusive", True, "max_workers=1"),
    ("mpi", "priority", 16, "calls start in the order in which they are submitted"),
    ("mpi", "partition", "debug", "only 'slurm' and 'flux' do: leave it out"),
    ("mpi", "account", "physics", "leave it out"),
    ("mpi", "time_limit", 60.0, "use run_time_max"),
    ("mpi", "flux_log_files", True, "what workers print arrives in the script"),
    ("slurm", "executor_nesting", True, "flux start"),
    *((backend, "num_nodes", 1, "there is no choice of nodes") for backend in ("ssh", "pbs", "lsf", "gridengine")),
    ("pbs", "command_line_argument_lst", ["-v"], "only 'slurm' and 'ssh' do"),
]


@pytest.mark.parametrize(("backend", "name", "value", "words"), OF_SOME_BACKENDS)
def test_parameter_that_backend_lacks_raises(backend, name, value, words):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        Resources(**{name: value}).check_backend(backend)
    text = str(caught.value)
    assert f"{name} is {value!r}; backend {backend!r} takes none" in text
    assert words in text


@pytest.mark.parametrize("backend", ["mpi", "slurm", "flux"])
def test_every_backend_takes_the_defaults(backend):
    Resources().check_backend(backend)


def test_each_node_needs_a_rank():
    with pytest.raises(ValueError, match="num_nodes is 3 with 2 cores; each node needs at least one rank"):
        Resources(cores=2, num_nodes=3).check_backend("slurm")


def test_duration_leaves_time_for_the_whole_call():
    assert Resources().call_duration_s is None
    assert Resources(run_time_max=10, connect_timeout=20).call_duration_s == 30 + DURATION_MARGIN_S
    assert Resources(run_time_max=1000, time_limit=60).call_duration_s == 60


def test_thread_variables_keep_values_of_the_user(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    wanted = {
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    }  # fmt: skip
    assert Resources(threads_per_core=3).threads_environment() == dict.fromkeys(wanted, "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert Resources().threads_environment() == dict.fromkeys(wanted - {"OMP_NUM_THREADS"}, "1")
    assert Resources().threads_environment({"MKL_NUM_THREADS": "2"}).keys() == wanted - {"MKL_NUM_THREADS"}

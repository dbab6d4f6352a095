"""`Resources`: each value is checked where it is given, and the error says what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import pickle

import numpy as np
import pytest

from pympipool.resources import Resources
from pympipool.resources.request import THREAD_VARIABLES


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
        "error_log_file": None,
        "mp_context": None,
        "result_of": "all",
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
    assert all(one.name in text for one in dataclasses.fields(Resources))
    assert ("did you mean" in text) == (nearest is not None)
    if nearest:
        assert f"did you mean {nearest!r}?" in text


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
}
WRONG_VALUES = {
    "cores": [0, -1],
    "threads_per_core": [0, -3],
    "gpus_per_core": [-1],
    "run_time_max": [0, -1.5, float("inf")],
    "restart_limit": [-1],
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

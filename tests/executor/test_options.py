"""Every parameter of `Executor` and every key of `resource_dict`: allowed values, and the errors about others.

A wrong value raises at once; the message names the parameter, its value and what is allowed; nothing was started.
"""

import copy
import functools
import inspect
import json
import os
import pickle
import re
import threading
from concurrent import futures
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pympipool import Executor, _options
from pympipool.flux import PyFluxExecutor
from pympipool.mpi import PyMPIExecutor
from pympipool.resources import Resources, available_cores
from pympipool.slurm import PySlurmExecutor
from support.calls import add, pid
from support.processes import child_pids

MANY = 10_000
"""A number larger than the cores or GPUs of any machine that runs these tests."""


def init():
    return {"y": 5}


@pytest.fixture
def nothing_starts(mark):
    """Assert that the test leaves no process, no thread and no open descriptor."""
    threads = set(threading.enumerate())
    descriptors = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    children = child_pids()
    yield
    assert set(threading.enumerate()) - threads == set()
    assert child_pids() - children == set()
    if descriptors:
        assert set(os.listdir("/proc/self/fd")) - descriptors == set()


@pytest.fixture(scope="module", params=[False, True], ids=["one_process_per_call", "block_allocation"])
def one_worker(request):
    with Executor(max_workers=1, block_allocation=request.param) as exe:
        yield exe


def assert_message(error, *words):
    """Assert that the message contains all of these words."""
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


# ---- wrong values ----

NO_INTEGER = [True, 1.5, "2", None, [1]]
NO_FLAG = [0, 1, "yes", None]
NO_SECONDS = [True, "1", [1], float("nan")]
NO_LIST_OF_TEXTS = ["-p", [1], None, {"a"}]

WRONG_TYPES = {
    "max_workers": [True, 1.5, "2", [1]],
    "max_cores": [True, 1.5, "2", [1]],
    "cores_per_worker": NO_INTEGER,
    "threads_per_core": NO_INTEGER,
    "gpus_per_worker": NO_INTEGER,
    "oversubscribe": NO_FLAG,
    "cwd": [1, b"/tmp", ["/tmp"]],
    "cache_directory": [1, b"cache", ["cache"]],
    "hostname_localhost": [0, "yes"],
    "executor": [object(), "flux"],
    "pmi_mode": [2, ["pmix"]],
    "result_of": [0, None, ["root"]],
    "backend": [None, 1, ["mpi"]],
    "hosts": [1, [None], [b"a"]],
    "block_allocation": NO_FLAG,
    "init_function": ["init", {"y": 5}, 1],
    "command_line_argument_lst": NO_LIST_OF_TEXTS,
    "disable_dependencies": NO_FLAG,
    "refresh_rate": [*NO_SECONDS, None],
    "run_time_max": NO_SECONDS,
    "restart_limit": NO_INTEGER,
    "retries": NO_INTEGER,
    "retry_on": ["OSError", 1, OSError("an instance"), [OSError, "ValueError"], int],
    "retry_delay": [*NO_SECONDS, None],
    "connect_timeout": [*NO_SECONDS, None],
}

WRONG_VALUES = {
    "max_workers": [(0, "greater than 0"), (-1, "greater than 0")],
    "max_cores": [(0, "greater than 0"), (-1, "greater than 0")],
    "cores_per_worker": [(0, "at least 1"), (-2, "at least 1"), (MANY, "at most")],
    "threads_per_core": [(0, "at least 1"), (-1, "at least 1")],
    "gpus_per_worker": [(-1, "at least 0"), (MANY, "may use")],
    "cwd": [("no/such/folder", "does not exist"), (__file__, "is not a directory"), ("", "does not exist")],
    "cache_directory": [("", "name a directory")],
    "backend": [
        ("mpj", "did you mean 'mpi'"),
        ("", "'auto', 'flux', 'slurm', 'pbs', 'lsf', 'gridengine', 'ssh', 'mpi'"),
    ],
    "hosts": [([], "at least one"), (["a", "a"], "twice"), (["a;b"], "no name"), ("a", "no host file")],
    "command_line_argument_lst": [(["--exclusive"], "SLURM")],
    "result_of": [("rank 0", "'all' or 'root'")],
    "pmi_mode": [("", "word like 'pmix'"), ("pmix", "backend 'mpi'")],
    "refresh_rate": [(0, "positive"), (-0.1, "positive"), (float("inf"), "finite")],
    "run_time_max": [(0, "positive"), (-1, "positive"), (float("inf"), "finite")],
    "restart_limit": [(-1, "at least 0")],
    "retries": [(-1, "at least 0")],
    "retry_delay": [(-1, "positive"), (float("inf"), "finite")],
    "connect_timeout": [(0, "positive"), (-1, "positive"), (float("inf"), "finite")],
}


def cases(table):
    return [
        pytest.param(name, value, id=f"{name}={'an object' if type(value) is object else value!r}")
        for name, values in table.items()
        for value in values
    ]


@pytest.mark.parametrize("block_allocation", [False, True])
@pytest.mark.parametrize(("name", "value"), cases(WRONG_TYPES))
def test_wrong_type_raises_before_anything_starts(nothing_starts, name, value, block_allocation):
    with pytest.raises(TypeError) as error:
        Executor(**{"block_allocation": block_allocation, name: value})
    assert_message(error, f"{name} is {value!r}", "must be")


@pytest.mark.parametrize("block_allocation", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        pytest.param(name, value, allowed, id=f"{name}={'an object' if type(value) is object else value!r}")
        for name, values in WRONG_VALUES.items()
        for value, allowed in values
    ],
)
def test_value_out_of_range_raises_before_anything_starts(nothing_starts, name, value, allowed, block_allocation):
    with pytest.raises(ValueError, match=name) as error:
        Executor(**{"block_allocation": block_allocation, name: value})
    assert_message(error, repr(value), allowed)


def test_unknown_parameter_raises_before_anything_starts(nothing_starts):
    with pytest.raises(TypeError, match="cores_per_wroker"):
        Executor(cores_per_wroker=1)


# ---- wrong combinations ----

COMBINATIONS = {
    "workers and cores that contradict each other": (
        {"max_workers": 2, "max_cores": 3},
        ("max_workers=2", "max_cores is 3", "give one of the two"),
    ),
    "workers of several cores and cores that contradict each other": (
        {"max_workers": 2, "max_cores": 2, "cores_per_worker": 2},
        ("max_workers=2", "cores_per_worker=2", "4 cores", "max_cores is 2"),
    ),
    "a worker larger than all cores": (
        {"max_cores": 1, "cores_per_worker": 2},
        ("cores_per_worker is 2", "at most 1", "max_cores"),
    ),
    "an init_function without block allocation": (
        {"init_function": init, "block_allocation": False},
        ("init_function", "init", "block_allocation=True"),
    ),
    "GPUs that cannot be shared evenly": (
        {"max_cores": 2, "cores_per_worker": 2, "gpus_per_worker": 1},
        ("gpus_per_worker is 1", "cores_per_worker=2", "multiple"),
    ),
    "a list of arguments for srun without SLURM": (
        {"backend": "mpi", "command_line_argument_lst": ["-p", "debug"]},
        ("command_line_argument_lst is ['-p', 'debug']", "SLURM", "'mpi'"),
    ),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_wrong_combination_raises_before_anything_starts(nothing_starts, name):
    parameters, words = COMBINATIONS[name]
    with pytest.raises(ValueError, match=words[0].split("=")[0].split(" ")[0]) as error:
        Executor(**parameters)
    assert_message(error, *words)


def test_too_few_gpus_for_all_workers_raises(nothing_starts, monkeypatch):
    """All workers of a block run at the same time, so there must be enough GPUs for all of them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="gpus_per_worker") as error:
        Executor(max_workers=3, gpus_per_worker=1, block_allocation=True)
    assert_message(error, "gpus_per_worker is 1", "max_workers", "3", "may use 2")


def test_unpicklable_init_function_raises(nothing_starts):
    lock = threading.Lock()
    with pytest.raises(Exception, match=r"init_function .* cannot be pickled"):
        Executor(max_workers=1, block_allocation=True, init_function=lambda: {"lock": lock})


# ---- resource_dict ----

WRONG_RESOURCES = {
    "cores": [(0, ValueError, "at least 1"), (True, TypeError, "integer"), (3, ValueError, "at most 2")],
    "threads_per_core": [(0, ValueError, "at least 1"), ("2", TypeError, "integer")],
    "gpus_per_core": [(-1, ValueError, "at least 0"), (0.5, TypeError, "integer"), (MANY, ValueError, "may use")],
    "oversubscribe": [(1, TypeError, "True or False")],
    "cwd": [("no/such/folder", ValueError, "does not exist"), (1, TypeError, "path")],
    "executor": [("flux", ValueError, "flux.job.FluxExecutor")],
    "hostname_localhost": [("no", TypeError, "True or False")],
    "command_line_argument_lst": [(["-p"], ValueError, "SLURM"), ("-p", TypeError, "list of str")],
    "run_time_max": [(0, ValueError, "positive"), ("1", TypeError, "number of seconds")],
    "restart_limit": [(-1, ValueError, "at least 0"), (None, TypeError, "integer")],
}


@pytest.fixture(scope="module")
def two_cores():
    with Executor(max_cores=2) as exe:
        yield exe


@pytest.mark.parametrize(
    ("key", "value", "kind", "allowed"),
    [
        pytest.param(key, *wrong, id=f"{key}={wrong[0]!r}")
        for key, wrongs in WRONG_RESOURCES.items()
        for wrong in wrongs
    ],
)
def test_wrong_resource_of_a_call_raises_in_submit(two_cores, nothing_starts, key, value, kind, allowed):
    with pytest.raises(kind, match=key) as error:
        two_cores.submit(add, 1, resource_dict={key: value})
    assert_message(error, f"{key} is {value!r}", allowed)
    assert len(two_cores) == 0


@pytest.mark.parametrize(
    ("key", "meant"), [("core", "cores"), ("gpus_per_worker", "gpus_per_core"), ("zzz", "Allowed")]
)
def test_unknown_resource_of_a_call_raises_in_submit(two_cores, nothing_starts, key, meant):
    with pytest.raises(ValueError, match=f"unknown key '{key}'") as error:
        two_cores.submit(add, 1, resource_dict={key: 1})
    assert_message(
        error, meant, "threads_per_core" if key == "zzz" else "help(pympipool.resources.Resources) lists all"
    )


@pytest.mark.parametrize("no_dict", [5, "cores", ["cores"], []])
def test_resource_dict_must_be_a_dict(one_worker, no_dict):
    with pytest.raises(TypeError, match=r"resource_dict is .* must be a dict"):
        one_worker.submit(add, 1, resource_dict=no_dict)
    assert len(one_worker) == 0


def test_resource_dict_with_block_allocation_raises():
    with Executor(max_workers=1, block_allocation=True) as exe:
        with pytest.raises(ValueError, match="resource_dict") as error:
            exe.submit(add, 1, resource_dict={"cores": 1})
        assert_message(error, "{'cores': 1}", "Executor(block_allocation=True, cores_per_worker=1)")
        with pytest.raises(
            ValueError, match=r"cwd='/tmp', command_line_argument_lst=\['-x'\], gpus_per_worker=0\), or leave"
        ):
            exe.submit(
                add, 1, resource_dict={"gpus_per_core": 0, "cwd": "/tmp", "slurm_cmd_args": ["-x"], "retries": 1}
            )
        assert len(exe) == 0
        assert exe.submit(add, 1, 2, resource_dict={"cache_directory": None}).result() == 3  # asks for nothing
    two_ranks = Executor(max_workers=1, block_allocation=True, cores_per_worker=2)
    with two_ranks, pytest.raises(ValueError, match=r"gpus_per_worker=2\)"):
        two_ranks.submit(add, 1, resource_dict={"gpus_per_core": 1})


def test_more_cores_are_allowed_as_the_message_says():
    many = available_cores() + 1
    with Executor(backend="mpi") as exe, pytest.raises(ValueError, match="cores that this process may use") as error:
        exe.submit(add, 1, resource_dict={"threads_per_core": many})
    assert_message(error, f"it must be at most {many - 1},", f"give Executor() max_cores={many} for more")
    with Executor(backend="mpi", max_cores=many) as exe:
        assert exe.submit(add, 1, resource_dict={"threads_per_core": many}).result() == 1
        with pytest.raises(ValueError, match=f"at most {many}, the executor's max_cores"):
            exe.submit(add, 1, resource_dict={"threads_per_core": many + 1})


def test_empty_resource_dict_changes_nothing(one_worker):
    assert one_worker.submit(add, 1, resource_dict={}).result() == 1
    assert one_worker.submit(add, 1, resource_dict=None).result() == 1


def takes_it(x, resource_dict):
    return resource_dict


def takes_it_by_name(*, resource_dict=None):
    return resource_dict


class TakesIt:
    def __init__(self, resource_dict=None):
        self.resource_dict = resource_dict

    def method(self, resource_dict):
        return resource_dict

    def __call__(self, resource_dict):
        return resource_dict


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


CONFLICTS = {
    "a function": takes_it,
    "a keyword only": takes_it_by_name,
    "a lambda": lambda resource_dict: resource_dict,
    "a method": TakesIt().method,
    "a class": TakesIt,
    "an instance that can be called": TakesIt(),
    "a decorated function": wrapped(takes_it),
    "a partial function": functools.partial(takes_it, 1),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_function_with_parameter_resource_dict_raises(one_worker, name):
    for _ in range(2):  # the check must not be skipped for a known function
        with pytest.raises(ValueError, match=r"parameter called resource_dict.*rename"):
            one_worker.submit(CONFLICTS[name], 1)
    assert len(one_worker) == 0
    assert one_worker.submit(add, 1).result() == 1


def test_partial_function_may_bind_resource_dict(one_worker):
    assert one_worker.submit(functools.partial(takes_it, resource_dict="its own"), 1).result() == "its own"


# ---- one declaration of each option ----

OLDER_EXECUTORS = [PyMPIExecutor, PySlurmExecutor, PyFluxExecutor]


def test_signature_docstring_and_table_agree():
    parameters = list(inspect.signature(Executor).parameters)
    assert set(parameters) == _options.OPTION_NAMES
    arguments = inspect.getdoc(Executor).split("Args:\n")[1].split("\nRaises:")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == parameters


def test_executor_and_resources_have_equal_defaults():
    defaults = {name: parameter.default for name, parameter in inspect.signature(Executor).parameters.items()}
    shared = {field.name: field.default for field in fields(Resources) if field.name in defaults}
    assert shared == {name: defaults[name] for name in shared}


def test_info_reports_the_options_marked_for_it():
    marked = {
        field.name
        for table in (_options.Options, Resources)
        for field in fields(table)
        if field.metadata.get("in_info")
    }
    with Executor(max_workers=1) as exe:
        assert set(exe.info) == marked | {"backend", "skipped_backends", "workers"}


@pytest.mark.parametrize("older", OLDER_EXECUTORS)
def test_older_executors_have_the_same_defaults(older):
    defaults = inspect.signature(Executor).parameters
    for name, parameter in inspect.signature(older).parameters.items():
        assert parameter.default == (1 if name == "max_workers" else defaults[name].default)


@pytest.mark.parametrize("older", OLDER_EXECUTORS)
def test_older_executors_forward_all_their_options(older, monkeypatch):
    forwarded = {}
    monkeypatch.setattr(Executor, "__init__", lambda self, **options: forwarded.update(options))
    options = {name: object() for name in inspect.signature(older).parameters}
    older(**options)
    backend = older.__module__.rpartition(".")[2]
    assert forwarded == {**options, "backend": backend, "block_allocation": True}


def test_former_key_of_info_warns_and_works():
    with Executor(max_workers=1, backend="mpi") as exe:
        info = exe.info
    assert info["skipped_backends"] == {}
    with pytest.warns(DeprecationWarning, match="skipped_backends"):
        assert info["passed_over"] == {}
    with pytest.warns(DeprecationWarning, match="skipped_backends"):
        assert info.get("passed_over") == {}
    assert "passed_over" in info
    with pytest.warns(DeprecationWarning, match="cores_per_worker"):
        assert info["cores"] == 1
    with pytest.warns(DeprecationWarning, match="gpus_per_worker"):
        assert info["gpus_per_core"] == 0
    with pytest.raises(KeyError, match=r"init_function: a key of pympipool 0\.8"):
        info["init_function"]
    assert "passed_ever" not in info
    with pytest.raises(KeyError, match="passed_ever"):
        info["passed_ever"]
    for other in (copy.copy(info), info.copy(), pickle.loads(pickle.dumps(info))):
        assert (type(other), other) == (type(info), info)
    assert json.loads(json.dumps(info)) == info
    assert repr(info) == repr(dict(info))


# ---- values that are allowed ----


@pytest.mark.parametrize("count", [2, np.int64(2), np.uint8(2)])
def test_numpy_integers_are_accepted(count):
    with Executor(max_workers=count, cores_per_worker=np.int32(1)) as exe:
        assert exe.info["max_workers"] == 2


@pytest.mark.parametrize("block_allocation", [False, True])
def test_defaults_use_all_cores_of_this_machine(block_allocation):
    with Executor(block_allocation=block_allocation) as exe:
        assert exe.info["max_workers"] == exe.info["max_cores"] == available_cores()
        assert isinstance(exe, futures.Executor)


@pytest.mark.parametrize(
    ("parameters", "workers", "cores"),
    [
        ({"max_workers": 3}, 3, 3),
        ({"max_workers": 2, "cores_per_worker": 2}, 2, 4),
        ({"max_cores": 4}, 4, 4),
        ({"max_cores": 4, "cores_per_worker": 2}, 2, 4),
        ({"max_cores": 5, "cores_per_worker": 2}, 2, 5),
        ({"max_cores": 4, "max_workers": 2, "cores_per_worker": 2}, 2, 4),
    ],
)
@pytest.mark.filterwarnings("ignore:max_workers=2 with cores_per_worker=2:FutureWarning")
def test_cores_are_workers_times_cores_per_worker(parameters, workers, cores):
    with Executor(**parameters) as exe:
        assert (exe.info["max_workers"], exe.info["max_cores"]) == (workers, cores)


@pytest.mark.parametrize("workers", [1, 3])
def test_block_has_max_workers_workers(workers):
    with Executor(workers, block_allocation=True) as exe:
        barrier = [exe.submit(pid) for _ in range(20 * workers)]
        futures.wait(barrier)
        assert len({future.result() for future in barrier}) <= workers
    with Executor(max_cores=workers, block_allocation=True) as exe:
        assert exe.info["max_workers"] == workers


@pytest.mark.parametrize("backend", ["auto", "mpi"])
def test_auto_backend_selects_this_machine(backend):
    with Executor(max_cores=1, backend=backend) as exe:
        assert exe.info["backend"] == "mpi"
        assert exe.submit(sum, [1, 1]).result() == 2


@pytest.mark.parametrize("make", [str, Path])
@pytest.mark.parametrize("block_allocation", [False, True])
def test_calls_run_in_cwd(tmp_path, block_allocation, make):
    with Executor(max_workers=1, cwd=make(tmp_path), block_allocation=block_allocation) as exe:
        assert exe.info["cwd"] == str(tmp_path)
        assert exe.submit(os.getcwd).result() == str(tmp_path)


@pytest.mark.parametrize("block_allocation", [False, True])
def test_relative_cwd_is_resolved_in_the_master(tmp_path, monkeypatch, block_allocation):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    with Executor(max_workers=1, cwd="below", block_allocation=block_allocation) as exe:
        monkeypatch.chdir("/")
        assert exe.submit(os.getcwd).result() == str(tmp_path / "below")


@pytest.mark.parametrize("flag", [True, False, None])
@pytest.mark.parametrize("block_allocation", [False, True])
def test_hostname_localhost_has_no_effect_on_one_machine(flag, block_allocation):
    with Executor(max_workers=1, hostname_localhost=flag, block_allocation=block_allocation) as exe:
        assert exe.submit(add, 1, 1).result() == 2


@pytest.mark.parametrize("rate", [1e-6, 0.01, 1, 3600, np.float64(0.5)])
def test_refresh_rate_has_no_effect(rate):
    with Executor(max_workers=1, refresh_rate=rate, block_allocation=True) as exe:
        future = add(1)
        for _ in range(3):
            future = exe.submit(add, future, 1)
        assert future.result(timeout=60) == 4


def test_init_function_may_be_any_callable():
    for function in (lambda: {"y": 5}, TakesNothing(), TakesNothing):
        with Executor(max_workers=1, block_allocation=True, init_function=function) as exe:
            assert exe.submit(add, 1).result() == 6


class TakesNothing(dict):
    """A dict whose class and whose instances can be called and return a dict."""

    def __init__(self):
        super().__init__(y=5)

    def __call__(self):
        return self


def test_info_repeats_the_options(tmp_path):
    parameters = {
        "max_workers": 2,
        "cores_per_worker": 1,
        "threads_per_core": 3,
        "gpus_per_worker": 0,
        "oversubscribe": True,
        "cwd": str(tmp_path),
        "run_time_max": 30.0,
        "restart_limit": 1,
        "block_allocation": True,
    }
    with Executor(**parameters) as exe:
        assert {name: exe.info[name] for name in parameters} == parameters


@pytest.mark.parametrize("block_allocation", [False, True])
def test_future_argument_raises_with_disable_dependencies(block_allocation):
    with Executor(max_workers=1, disable_dependencies=True, block_allocation=block_allocation) as exe:
        first = exe.submit(add, 1)
        for args in [(first,), ([first],), ({"x": (first,)},)]:
            with pytest.raises(TypeError, match="disable_dependencies=True"):
                exe.submit(add, *args)
        assert first.result() == 1
        assert len(exe) == 0


# ---- names ----


@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_worker", "max_workers"), ("core_per_worker", "cores_per_worker"), ("blockallocation", "block_allocation")],
)
def test_unknown_parameter_suggests_the_most_similar(nothing_starts, name, meant):
    with pytest.raises(TypeError) as error:
        Executor(**{name: 1})
    assert_message(error, f"Executor() has no parameter '{name}'; did you mean '{meant}'? help(Executor) lists all")
    assert len(str(error.value)) < 120


def test_unknown_parameter_lists_all_parameters(nothing_starts):
    with pytest.raises(TypeError) as error:
        Executor(colour="red")
    assert_message(error, "Executor() has no parameter 'colour'.", "max_workers, max_cores, resource_dict")
    assert "did you mean" not in str(error.value)


def test_older_executors_suggest_their_own_parameters(nothing_starts):
    with pytest.raises(TypeError) as error:
        PyMPIExecutor(max_worker=1)
    assert_message(error, "PyMPIExecutor() has no parameter 'max_worker'; did you mean 'max_workers'?")


def test_signature_shows_the_parameters():
    assert list(inspect.signature(Executor).parameters)[:2] == ["max_workers", "max_cores"]


def test_misspelled_public_name_suggests_the_most_similar():
    import pympipool

    with pytest.raises(AttributeError) as error:
        pympipool.Executr  # noqa: B018  that is what raises
    assert_message(error, "has no attribute 'Executr'; did you mean 'Executor'?")
    assert not hasattr(pympipool, "__wrapped__")


@pytest.mark.parametrize("block_allocation", [False, True])
@pytest.mark.parametrize("name", ["run_time_max", "connect_timeout"])
@pytest.mark.parametrize("seconds", [30 * 86_400.0, 1e300], ids=["a month", "for ever"])
def test_time_limit_may_exceed_the_system_maximum(name, seconds, block_allocation):
    with Executor(max_workers=1, block_allocation=block_allocation, **{name: seconds}) as exe:
        assert exe.submit(pow, 2, 5).result() == 32

"""Resources: what is asked for is checked where it is said, and nothing is given away twice."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
import pickle
import random
import subprocess
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool.resources import Devices, ResourceAllocator, Resources, available_cores, available_devices, discovery
from pympipool.resources import allocator as ledgers
from pympipool.resources.allocator import PASSES_PER_CORE
from pympipool.resources.request import THREAD_VARIABLES

# ---- what is needed ----


def test_the_defaults_are_those_of_the_specification():
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
        "connect_timeout": 60.0,
        "error_log_file": None,
    }


def test_every_parameter_is_documented_once():
    for one in dataclasses.fields(Resources):
        assert inspect.getdoc(Resources).count(f"\n    {one.name}: ") == 1


def test_a_call_takes_from_the_executor_what_it_does_not_say_itself():
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
def test_an_unknown_key_is_named_with_the_nearest_and_all_that_are_valid(key, nearest):
    with pytest.raises(ValueError, match="unknown key") as caught:
        Resources.from_dict({"cores": 1, key: 2})
    text = str(caught.value)
    assert repr(key) in text
    assert all(one.name in text for one in dataclasses.fields(Resources))
    assert ("did you mean" in text) == (nearest is not None)
    if nearest:
        assert f"did you mean {nearest!r}?" in text


@pytest.mark.parametrize("value", [[("cores", 1)], "cores", 3, []])
def test_a_resource_dict_that_is_none_says_so(value):
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
def test_a_wrong_type_is_told_with_parameter_value_and_what_is_allowed(name, value):
    for attempt in (lambda: Resources(**{name: value}), lambda: Resources.from_dict({name: value})):
        with pytest.raises(TypeError, match=f"^{name} is .*must be") as caught:
            attempt()
        assert repr(value) in str(caught.value)
    with pytest.raises(TypeError, match=r"^said_so is .*must be"):
        Resources.check(name, value, "said_so")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, some in WRONG_VALUES.items() for value in some])
def test_a_wrong_value_is_told_with_parameter_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        Resources(**{name: value})
    assert str(value) in str(caught.value)


def test_values_are_kept_in_one_form(tmp_path, monkeypatch):
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


def test_threads_are_set_for_all_libraries_except_where_the_user_has_set_them(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    wanted = {
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    }  # fmt: skip
    assert Resources(threads_per_core=3).threads_environment() == dict.fromkeys(wanted, "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert Resources().threads_environment() == dict.fromkeys(wanted - {"OMP_NUM_THREADS"}, "1")
    assert Resources().threads_environment({"MKL_NUM_THREADS": "2"}).keys() == wanted - {"MKL_NUM_THREADS"}


# ---- what there is ----


def test_the_cores_are_those_the_process_is_bound_to():
    assert 1 <= available_cores() <= os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        bound = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(bound)})
        try:
            assert available_cores() == 1
        finally:
            os.sched_setaffinity(0, bound)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "max 100000", "a": "max 100000"}, None),
        ({"a/b": "150000 100000", "a": "max 100000"}, 1.5),
        ({"a/b": "max 100000", "a": "300000 100000"}, 3.0),
        ({"a/b": "800000 100000", "a": "300000 100000", "": "50000 100000"}, 0.5),
        ({"a/b": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_cgroup_and_of_those_above_it_counts(tmp_path, limits, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu:/old\n0::/a/b\n")
    for group, text in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text + "\n")
    assert discovery._cgroup_quota(tmp_path) == expected


def test_no_cgroup_is_no_quota(tmp_path):
    assert discovery._cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1.5, 2), (3.0, 3), (99.0, 8), (None, 8)])
def test_part_of_a_core_counts_as_one(monkeypatch, quota, cores):
    monkeypatch.setattr(discovery.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(discovery, "_cgroup_quota", lambda _: quota)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, Devices("CUDA_VISIBLE_DEVICES", ("0", "3"))),
        ({"CUDA_VISIBLE_DEVICES": " 1 , GPU-8932f937 ,MIG-GPU-1/2/0"},
         Devices("CUDA_VISIBLE_DEVICES", ("1", "GPU-8932f937", "MIG-GPU-1/2/0"))),
        ({"CUDA_VISIBLE_DEVICES": ""}, Devices("CUDA_VISIBLE_DEVICES", ())),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, Devices("CUDA_VISIBLE_DEVICES", ())),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, Devices("CUDA_VISIBLE_DEVICES", ("0",))),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, Devices("CUDA_VISIBLE_DEVICES", ())),
        ({"ROCR_VISIBLE_DEVICES": "2,1"}, Devices("ROCR_VISIBLE_DEVICES", ("2", "1"))),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "0"}, Devices("HIP_VISIBLE_DEVICES", ("0",))),
        ({"ZE_AFFINITY_MASK": "0.0,0.1"}, Devices("ZE_AFFINITY_MASK", ("0.0", "0.1"))),
    ],
)  # fmt: skip
def test_the_users_variables_say_which_devices_there_are(environment, expected, tmp_path):
    assert available_devices(environment, tmp_path) == expected


def test_without_variables_the_drivers_are_asked(tmp_path):
    assert available_devices({}, tmp_path).names == ()
    for node, simds in enumerate([0, 304, 304]):
        folder = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 8\nsimd_count {simds}\nmem_banks_count 1\n")
    assert available_devices({}, tmp_path) == Devices("ROCR_VISIBLE_DEVICES", ("0", "1"))
    for bus in ("0000:17:00.0", "0000:65:00.0", "0000:ca:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
    assert available_devices({}, tmp_path) == Devices("CUDA_VISIBLE_DEVICES", ("0", "1", "2"))


def test_where_the_driver_shows_no_files_nvidia_smi_is_asked(monkeypatch):
    listed = "GPU 0: NVIDIA A (UUID: GPU-1)\n  MIG 1g.5gb (UUID: MIG-1)\nGPU 1: NVIDIA A (UUID: GPU-2)\n"
    answers = iter(
        [subprocess.CompletedProcess([], 0, listed, ""), FileNotFoundError(), subprocess.TimeoutExpired("", 1)]
    )

    def run(*_, **__):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(discovery, "run", run)
    monkeypatch.setattr(discovery.Path, "iterdir", lambda _: (_ for _ in ()).throw(FileNotFoundError()))
    assert [discovery._count_nvidia(pathlib.Path("/")) for _ in range(3)] == [2, 0, 0]


# ---- who gets it ----

TWO_GPUS = Devices("CUDA_VISIBLE_DEVICES", ("0", "GPU-b"))


def test_cores_are_given_once():
    ledger = ResourceAllocator(cores=3, devices=Devices())
    two, one = ledger.take(Resources(cores=2)), ledger.take(Resources())
    assert ledger.take(Resources()) is None
    ledger.give_back(one)
    assert ledger.take(Resources(cores=2)) is None
    assert ledger.free_cores == 1
    ledger.give_back(two)
    ledger.give_back(two)  # once more does no harm
    assert ledger.free_cores == 3


def test_more_than_there_is_is_an_error_that_says_how_much_there_is():
    ledger = ResourceAllocator(cores=3, devices=TWO_GPUS)
    for attempt in (ledger.take, ledger.check, lambda asked: ledger.enqueue("x", asked)):
        with pytest.raises(ValueError, match=r"^cores is 4; it must be at most 3"):
            attempt(Resources(cores=4))
        with pytest.raises(ValueError, match=r"^gpus_per_core is 3 .* may use 2 "):
            attempt(Resources(gpus_per_core=3))
        with pytest.raises(ValueError, match=r"^gpus_per_core is 1 with 3 cores"):
            attempt(Resources(cores=3, gpus_per_core=1))
    assert len(ledger) == 0
    assert ledger.free_cores == 3


def test_each_worker_sees_its_own_devices_and_each_rank_its_part():
    ledger = ResourceAllocator(cores=8, devices=Devices("CUDA_VISIBLE_DEVICES", tuple("abcde")))
    one, two = ledger.take(Resources(gpus_per_core=1)), ledger.take(Resources(cores=2, gpus_per_core=2))
    assert one.environment() == {"CUDA_VISIBLE_DEVICES": "a"}
    assert two.environment() == {"CUDA_VISIBLE_DEVICES": "b,c,d,e"}
    assert [two.environment(rank)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)] == ["b,c", "d,e"]
    assert ledger.take(Resources(gpus_per_core=1)) is None
    ledger.give_back(two)
    ledger.give_back(one)
    assert ledger.take(Resources(gpus_per_core=2)).devices == ("a", "b"), "in their order"


def test_a_worker_that_asks_for_no_device_keeps_the_users_environment():
    ledger = ResourceAllocator(cores=1, devices=TWO_GPUS)
    assert ledger.take(Resources()).environment() == {}


def test_devices_are_looked_for_only_when_somebody_asks(monkeypatch):
    monkeypatch.setattr(ledgers, "available_devices", lambda: pytest.fail("looked for"))
    ledger = ResourceAllocator(cores=1)
    ledger.give_back(ledger.take(Resources()))
    monkeypatch.setattr(ledgers, "available_devices", lambda: TWO_GPUS)
    assert ledger.take(Resources(gpus_per_core=2)).devices == TWO_GPUS.names


def drain(ledger: ResourceAllocator) -> list:
    """The tickets that may start now, in order."""
    return list(iter(ledger.next, None))


def test_calls_start_in_the_order_in_which_they_came():
    ledger = ResourceAllocator(cores=2, devices=Devices())
    for ticket in range(5):
        ledger.enqueue(ticket, Resources(cores=1 + ticket % 2))
    order = []
    while len(ledger):
        started = drain(ledger)
        order += [ticket for ticket, _ in started]
        for _, grant in started:
            ledger.give_back(grant)
    assert order == [0, 2, 1, 3, 4], "one passes while there is room, else each waits for its turn"
    assert ledger.free_cores == 2


def test_smaller_calls_pass_a_larger_one_but_not_for_ever():
    ledger = ResourceAllocator(cores=2, devices=Devices())
    running = ledger.take(Resources())
    ledger.enqueue("large", Resources(cores=2))
    for number in range(1000):
        ledger.enqueue(number, Resources())
    passed = 0
    while (started := ledger.next()) is not None:
        ticket, grant = started
        assert ticket == passed, "the small ones among themselves are in order"
        passed += 1
        ledger.give_back(grant)
    assert passed == 2 * PASSES_PER_CORE
    ledger.give_back(running)
    ticket, grant = ledger.next()
    assert ticket == "large"
    ledger.give_back(grant)
    assert ledger.next()[0] == passed


def test_one_that_waits_for_a_device_holds_up_none_that_leave_it_its_core():
    ledger = ResourceAllocator(cores=3, devices=Devices("CUDA_VISIBLE_DEVICES", ("0",)))
    busy = ledger.take(Resources(gpus_per_core=1))
    ledger.enqueue("waits for the device", Resources(gpus_per_core=1))
    for number in range(1000):
        ledger.enqueue(number, Resources())
    for number in range(500):
        ticket, grant = ledger.next()
        assert ticket == number
        ledger.give_back(grant)
    ledger.give_back(busy)
    assert ledger.next()[0] == "waits for the device"


def test_the_count_of_passes_begins_anew_for_the_next_that_waits_longest():
    ledger = ResourceAllocator(cores=1, devices=TWO_GPUS)
    ledger.take(Resources())
    assert ledger.next() is None
    ledger.enqueue("a", Resources())
    assert ledger.withdraw("a")
    assert not ledger.withdraw("a")
    assert len(ledger) == 0
    assert ledger._lines == {}


sizes = st.tuples(st.integers(1, 4), st.integers(0, 2)).filter(lambda size: size[0] * size[1] <= 3)


@given(st.lists(sizes, max_size=60), st.randoms(use_true_random=False))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_everything_starts_in_bounded_time_and_nothing_is_given_twice(asked, chance):
    devices = Devices("CUDA_VISIBLE_DEVICES", ("0", "1", "2"))
    ledger = ResourceAllocator(cores=4, devices=devices)
    running: list = []
    arrived: list[int] = []
    started_at: dict[int, int] = {}
    starts = 0
    todo = list(enumerate(asked))
    while todo or running or len(ledger):
        if todo and chance.random() < 0.5:
            number, (cores, gpus) = todo.pop(0)
            ledger.enqueue(number, Resources(cores=cores, gpus_per_core=gpus))
            arrived.append(number)
        elif running and chance.random() < 0.5:
            ledger.give_back(running.pop(chance.randrange(len(running))))
        for ticket, grant in drain(ledger):
            started_at[ticket] = starts
            starts += 1
            running.append(grant)
        assert sum(grant.resources.cores for grant in running) + ledger.free_cores == 4
        in_use = [name for grant in running for name in grant.devices]
        assert len(set(in_use)) == len(in_use)
        if not running:
            assert len(ledger) == 0, "with everything free, nobody waits"
    assert sorted(started_at) == list(range(len(asked)))
    same: dict = {}
    for number in range(len(asked)):
        assert same.get(asked[number], -1) < started_at[number], "of one size, in order"
        same[asked[number]] = started_at[number]


def test_many_threads_take_and_give_without_losing_a_core():
    ledger = ResourceAllocator(cores=4, devices=TWO_GPUS)
    most = []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(2000):
            grant = ledger.take(Resources(cores=chance.randint(1, 2), gpus_per_core=chance.randint(0, 1)))
            if grant is not None:
                most.append(ledger.free_cores)
                ledger.give_back(grant)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.free_cores == 4
    assert min(most) >= 0
    assert ledger.take(Resources(cores=2, gpus_per_core=1)).devices == TWO_GPUS.names

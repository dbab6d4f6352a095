"""Threads and GPUs on one machine: workers get them by environment variables, which are set before any import."""

import ctypes
import os

import pytest

from pympipool import Executor
from support import process_calls as calls
from support.calls import hold
from support.scripts import run_script
from support.waiting import LIMIT_S

THREAD_VARIABLES = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
]

DEVICE_VARIABLES = ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """Remove the variables that the shell of the tests may set, as if the user had set none."""
    for name in [*THREAD_VARIABLES, *DEVICE_VARIABLES]:
        monkeypatch.delenv(name, raising=False)


# ---- threads ----


@pytest.mark.parametrize("threads", [1, 3])
def test_thread_count_of_libraries_is_set(make_executor, threads):
    told = make_executor(1, threads_per_core=threads).submit(calls.variables, THREAD_VARIABLES).result()
    assert told == dict.fromkeys(THREAD_VARIABLES, str(threads))


def test_thread_count_is_set_before_imports(make_executor):
    """The function imports numpy, whose linear algebra library reads the variable once, when it is loaded."""
    counts = [make_executor(1, threads_per_core=n).submit(calls.threads_of_numpy).result() for n in (1, 2)]
    assert counts == [1, min(2, os.cpu_count())]


def test_variables_set_by_the_user_take_precedence(make_executor, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    told = make_executor(1, threads_per_core=2).submit(calls.variables, THREAD_VARIABLES).result()
    assert told == {**dict.fromkeys(THREAD_VARIABLES, "2"), "OMP_NUM_THREADS": "7"}


@pytest.mark.parametrize(
    ("parameters", "workers"),
    [
        ({"max_cores": 4, "threads_per_core": 2}, 2),
        ({"max_cores": 7, "threads_per_core": 2}, 3),
        ({"max_cores": 12, "threads_per_core": 2, "cores_per_worker": 3}, 2),
        ({"max_workers": 2, "max_cores": 8, "threads_per_core": 4}, 2),
    ],
)
def test_threads_count_as_cores(parameters, workers):
    with Executor(**parameters, backend="mpi") as exe:
        assert (exe.max_workers, exe.info["max_cores"]) == (workers, parameters["max_cores"])


def test_max_workers_counts_threads_of_cores(make_executor):
    exe = make_executor(max_workers=3, threads_per_core=4)
    assert exe.info["max_cores"] == 12
    exe.max_workers = 2
    assert exe.info["max_cores"] == 8


def test_calls_wait_for_cores_of_threads(gate):
    """On two cores, a call of two threads waits until the call before it has ended."""
    with Executor(max_cores=2) as exe:
        held = exe.submit(hold, gate.path)
        gate.wait_until_begun(1)
        wide = exe.submit(calls.variable, "OMP_NUM_THREADS", resource_dict={"threads_per_core": 2})
        narrow = exe.submit(os.getpid)  # overtakes it on the core that is free
        narrow.result(LIMIT_S)
        assert not wide.running()
        gate.open(1)
        held.result(LIMIT_S)
        assert wide.result(LIMIT_S) == "2"


def test_too_many_threads_are_refused():
    with Executor(max_cores=2) as exe, pytest.raises(ValueError, match=r"threads_per_core=3, 3 cores together; .* 2"):
        exe.submit(os.getpid, resource_dict={"threads_per_core": 3})
    with pytest.raises(
        ValueError, match=r"cores_per_worker is 2 with threads_per_core=2, 4 cores together; .* at most 3"
    ):
        Executor(max_cores=3, cores_per_worker=2, threads_per_core=2)
    with pytest.raises(ValueError, match="max_workers=2 with cores_per_worker=1 and threads_per_core=2 is 4 cores"):
        Executor(max_workers=2, max_cores=2, threads_per_core=2)


def test_each_call_can_set_its_thread_count():
    with Executor(max_cores=5, threads_per_core=2) as exe:
        told = [
            exe.submit(calls.variable, "OMP_NUM_THREADS", resource_dict=resources).result()
            for resources in ({}, {"threads_per_core": 5}, {"cores": 1})
        ]
    assert told == ["2", "5", "2"]


def test_environment_of_user_is_not_changed(make_executor):
    before = dict(os.environ)
    make_executor(1, threads_per_core=2).submit(os.getpid).result()
    assert dict(os.environ) == before


@pytest.mark.mpi
def test_thread_count_is_set_on_all_ranks(make_executor):
    exe = make_executor(1, cores_per_worker=2, threads_per_core=3)
    assert exe.submit(calls.variable, "OMP_NUM_THREADS").result() == ["3", "3"]


# ---- GPUs ----


def hold_all(exe, gate, count, **parameters):
    """Run `count` calls at the same time, and return the devices that they see."""
    held = [exe.submit(calls.hold_and_see, gate.path, *DEVICE_VARIABLES, **parameters) for _ in range(count)]
    gate.wait_until_begun(count)
    gate.open(count)
    return [call.result() for call in held]


@pytest.mark.parametrize("variable", DEVICE_VARIABLES)
def test_each_worker_has_its_own_devices(make_executor, gate, monkeypatch, variable):
    monkeypatch.setenv(variable, "0,1,2,3")
    seen = hold_all(make_executor(2, gpus_per_worker=2), gate, 2)
    assert sorted(seen, key=lambda one: one[variable]) == [{variable: "0,1"}, {variable: "2,3"}]


def test_device_names_of_user_are_kept(make_executor, gate, monkeypatch):
    names = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-GPU-5c89852c/1/0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    seen = hold_all(make_executor(2, gpus_per_worker=1), gate, 2)
    assert sorted(one["CUDA_VISIBLE_DEVICES"] for one in seen) == names


def test_without_gpus_worker_sees_devices_of_user(make_executor, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert make_executor(1).submit(calls.variable, "CUDA_VISIBLE_DEVICES").result() == "5,7"


def test_devices_are_released_after_their_call(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with Executor(max_cores=2) as exe:
        seen = [
            exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES", resource_dict={"gpus_per_core": 2}) for _ in range(6)
        ]
        assert [call.result() for call in seen] == ["3,4"] * 6


def test_replacement_worker_gets_devices_of_killed_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with Executor(max_workers=2, gpus_per_worker=1, block_allocation=True) as exe:
        assert exe.submit(calls.end_self, "SIGKILL").exception()
        seen = {exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES").result() for _ in range(20)}
    assert seen <= {"3", "4"}


def test_calls_without_devices_overtake_waiting_ones(gate, monkeypatch):
    """With two cores and one device, calls that need it run one after the other, and other calls run meanwhile."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    needs_one = {"resource_dict": {"gpus_per_core": 1}}
    with Executor(max_cores=2) as exe:
        first = exe.submit(hold, gate.path, **needs_one)
        gate.wait_until_begun()
        second = exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES", **needs_one)
        third = exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES")
        assert third.result() == "3"  # the devices of the user
        assert not second.done()
        gate.open()
        assert second.result() == "3"
        assert first.result()


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_hidden_devices_are_not_available(monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with pytest.raises(ValueError, match=r"gpus_per_worker is 1.* may use 0"):
        Executor(max_workers=1, gpus_per_worker=1)


def test_too_many_devices_raise_at_submission(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with Executor(max_cores=2) as exe:
        with pytest.raises(ValueError, match=r"gpus_per_core is 2.* may use 1"):
            exe.submit(os.getpid, resource_dict={"gpus_per_core": 2})
        with pytest.raises(ValueError, match=r"gpus_per_core is 1 with 2 cores, 2 GPUs"):
            exe.submit(os.getpid, resource_dict={"gpus_per_core": 1, "cores": 2})
        assert exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES", resource_dict={"gpus_per_core": 1}).result() == "0"


@pytest.mark.mpi
def test_the_ranks_of_a_worker_share_its_devices(make_executor, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    exe = make_executor(1, cores_per_worker=2, gpus_per_worker=2)
    seen = exe.submit(calls.variable, "CUDA_VISIBLE_DEVICES").result()
    assert len(seen) == 2
    assert {name for names in seen for name in names.split(",")} == {"0", "1"}


REAL_DEVICES = """
import ctypes
from pympipool import Executor

def uuid_of_only_device():
    cuda = ctypes.CDLL("libcuda.so.1")
    assert cuda.cuInit(0) == 0
    count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    assert count.value == 1
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDeviceGetUuid(ctypes.byref(uuid), device) == 0
    return bytes(uuid).hex()

with Executor(max_workers=1, gpus_per_worker=1MODE) as exe:
    print(exe.submit(uuid_of_only_device).result())
"""


def has_gpu():
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="no NVIDIA device here")
@pytest.mark.parametrize("mode", ["", ", block_allocation=True"])
def test_a_worker_sees_one_real_device(tmp_path, mode):
    assert len(run_script(REAL_DEVICES.replace("MODE", mode), tmp_path).strip()) == 32

"""The cores and devices that a process may use."""

from __future__ import annotations

import os
import subprocess

import pytest

from pympipool.resources import Devices, available_cores, available_devices, discovery


def test_cores_are_those_bound_to_the_process():
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
def test_quota_of_parent_cgroups_counts(tmp_path, limits, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu:/old\n0::/a/b\n")
    for group, text in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text + "\n")
    assert discovery._cgroup_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": ("-1", "100000")}, None),
        ({"a": ("150000", "100000")}, 1.5),
        ({"": ("200000", "100000"), "a": ("-1", "100000")}, 2.0),  # as a container sees its own cgroup
        ({"": ("200000", "100000"), "a": ("50000", "100000")}, 0.5),
    ],
)
def test_quota_of_cgroup_version_1_counts(tmp_path, limits, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n")
    for group, (quota, period) in limits.items():
        folder = tmp_path / "sys/fs/cgroup/cpu" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert discovery._cgroup_quota(tmp_path) == expected


def test_without_cgroup_there_is_no_quota(tmp_path):
    assert discovery._cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1.5, 2), (3.0, 3), (99.0, 8), (None, 8)])
def test_fraction_of_a_core_counts_as_one(monkeypatch, quota, cores):
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
def test_variables_of_the_user_list_the_devices(environment, expected, tmp_path):
    assert available_devices(environment, tmp_path) == expected


def test_drivers_are_asked_without_variables(tmp_path):
    assert available_devices({}, tmp_path).names == ()
    for node, simds in enumerate([0, 304, 304]):
        folder = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 8\nsimd_count {simds}\nmem_banks_count 1\n")
    assert available_devices({}, tmp_path) == Devices("ROCR_VISIBLE_DEVICES", ("0", "1"))
    for bus in ("0000:17:00.0", "0000:65:00.0", "0000:ca:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
    assert available_devices({}, tmp_path) == Devices("CUDA_VISIBLE_DEVICES", ("0", "1", "2"))


def test_nvidia_smi_is_asked_without_driver_files(monkeypatch):
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
    monkeypatch.setattr(discovery.os, "listdir", lambda _: (_ for _ in ()).throw(FileNotFoundError()))
    assert [discovery._count_nvidia("/") for _ in range(3)] == [2, 0, 0]

"""The cores and devices that this process may use."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pympipool._util.cgroups import StrPath, cgroup_folders, read_text
from pympipool._util.devices import assigned_devices
from pympipool._util.platform import usable_cores
from pympipool._util.subprocesses import run


def available_cores() -> int:
    """Return the number of cores that this process may use: those it is bound to, within the quota of its cgroup."""
    bound = bound_cores()
    quota = _cgroup_quota("/")
    return max(1, min(bound, bound if quota is None else math.ceil(quota)))


def bound_cores() -> int:
    """Return the number of cores that this process is bound to; all cores where the system has no such binding."""
    return usable_cores()


def _cgroup_quota(root: StrPath) -> float | None:
    """Return the least quota of cores of this process's cgroups; None if there is no quota.

    In version 2 of the cgroup interface "cpu.max" holds the quota (or "max") and the period in µs, see the kernel's
    admin-guide/cgroup-v2. In version 1 each has a file, and -1 is no quota (scheduler/sched-bwc).
    """
    quotas = []
    for folder, version in cgroup_folders("cpu", root):
        files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            quota, period = (number for file in files for number in read_text(folder, file).split())
            cores = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
        if cores > 0:
            quotas.append(cores)
    return min(quotas, default=None)


@dataclass(frozen=True)
class Devices:
    """The GPUs that this process may use.

    Attributes:
        variable: The environment variable that decides which of them a process sees.
        names: The names of the GPUs as that variable lists them: numbers, or unique ids.
    """

    variable: str = "CUDA_VISIBLE_DEVICES"
    names: tuple[str, ...] = ()

    def environment(self, names: Sequence[str]) -> dict[str, str]:
        """Return the variable with which a process sees just these GPUs."""
        return {self.variable: ",".join(names)}


def available_devices(environment: Mapping[str, str] | None = None, root: StrPath = "/") -> Devices:
    """Return the GPUs that this process may use.

    They come from the first of `DEVICE_VARIABLES` that is set. Without one they are NVIDIA's GPUs as the driver lists
    them, else AMD's. Intel's GPUs are not searched for: set ZE_AFFINITY_MASK.

    Args:
        environment: The environment to read. Default: that of this process.
        root: The root of the file system.
    """
    variables = os.environ if environment is None else environment
    assigned = assigned_devices(variables)
    if assigned is not None:
        return Devices(*assigned)
    count = _count_nvidia(root)
    if count:
        return Devices("CUDA_VISIBLE_DEVICES", tuple(map(str, range(count))))
    return Devices("ROCR_VISIBLE_DEVICES", tuple(map(str, range(_count_amd(root)))))


def _count_nvidia(root: StrPath) -> int:
    try:
        return len(os.listdir(os.path.join(root, "proc/driver/nvidia/gpus")))
    except OSError:
        pass
    if os.fspath(root) != "/":
        return 0
    try:  # in the Windows Subsystem for Linux the driver has no such folder
        listed = run(["nvidia-smi", "-L"], timeout=10)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _count_amd(root: StrPath) -> int:
    """Count the nodes of AMD's compute driver that have shaders. CPUs are nodes too, but have no shaders."""
    count = 0
    nodes = os.path.join(root, "sys/class/kfd/kfd/topology/nodes")
    for node in os.listdir(nodes) if os.path.isdir(nodes) else ():
        try:
            lines = read_text(nodes, node, "properties").splitlines()
        except OSError:  # a device that this process may not use
            continue
        count += any(line.startswith("simd_count ") and line != "simd_count 0" for line in lines)
    return count

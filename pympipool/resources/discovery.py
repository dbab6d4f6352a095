"""What this process may use: cores and devices."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pympipool._util.subprocesses import run


def available_cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its cgroup's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/"))
    return max(1, min(bound, bound if quota is None else math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """The least quota of cores of this process's cgroups; None when there is none.

    Version 2 of the cgroup interface: "cpu.max" holds quota (or "max") and period in us, see the kernel's
    admin-guide/cgroup-v2. Containers see their own cgroup as the root.
    """
    quotas = []
    for group in _cgroups(root):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # none here, or "max"
            continue
    return min(quotas, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folder of this process's cgroup, and those above it."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, path = line.split(":", 2)
        if number == "0":
            group = top / path.lstrip("/")
            yield group
            yield from (folder for folder in group.parents if folder == top or top in folder.parents)


@dataclass(frozen=True)
class Devices:
    """The GPUs that this process may use.

    Attributes:
        variable: The environment variable that says which of them a process sees.
        names: Their names as that variable has them: numbers, or unique ids.
    """

    variable: str = "CUDA_VISIBLE_DEVICES"
    names: tuple[str, ...] = ()

    def environment(self, names: Sequence[str]) -> dict[str, str]:
        """What makes a process see just these."""
        return {self.variable: ",".join(names)}


DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Of NVIDIA's CUDA, AMD's ROCm (HIP numbers the devices that ROCR leaves, so it comes first) and Intel's oneAPI."""


def available_devices(environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> Devices:
    """The GPUs that this process may use.

    Those that the first of `DEVICE_VARIABLES` names that is set, else NVIDIA's as their driver lists them, else AMD's.
    Intel's are not searched for: set ZE_AFFINITY_MASK.

    Args:
        environment: By default this process's.
        root: Of the file system.
    """
    variables = os.environ if environment is None else environment
    for variable in DEVICE_VARIABLES:
        if variable in variables:
            return Devices(variable, _visible(variables[variable]))
    count = _count_nvidia(root)
    if count:
        return Devices("CUDA_VISIBLE_DEVICES", tuple(map(str, range(count))))
    return Devices("ROCR_VISIBLE_DEVICES", tuple(map(str, range(_count_amd(root)))))


def _visible(value: str) -> tuple[str, ...]:
    """The devices that a variable names: a list that ends where the first invalid one stands, -1 by custom."""
    names = []
    for name in value.split(","):
        name = name.strip()  # noqa: PLW2901
        if not name or name.startswith("-") or name == "NoDevFiles":  # what SLURM sets where there are none
            break
        names.append(name)
    return tuple(names)


def _count_nvidia(root: Path) -> int:
    try:
        return len(list((root / "proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        pass
    if root != Path("/"):
        return 0
    try:  # under Windows' Linux the driver shows no files
        listed = run(["nvidia-smi", "-L"], timeout=10)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _count_amd(root: Path) -> int:
    """Counts the nodes of AMD's compute driver that have shaders; processors are nodes too."""
    count = 0
    for properties in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        try:
            lines = properties.read_text().splitlines()
        except OSError:  # a device that this process may not use
            continue
        count += any(line.startswith("simd_count ") and line != "simd_count 0" for line in lines)
    return count

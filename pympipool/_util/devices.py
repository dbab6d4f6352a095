"""The environment variables that decide which GPUs a process sees."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""The variables of NVIDIA's CUDA, AMD's ROCm and Intel's oneAPI. HIP numbers the devices that ROCR leaves visible, so
the variable of HIP comes first."""

IN_USE = "devices of this host are still in use"
"""Why an agent cannot fork a worker, while one that the master has given up has not ended yet."""


def assigned_devices(environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the first of `DEVICE_VARIABLES` that is set, and the devices that it lists; None if none is set.

    The list ends before the first invalid name, which is -1 by convention.

    Examples:
        >>> assigned_devices({"CUDA_VISIBLE_DEVICES": "0,2"})
        ('CUDA_VISIBLE_DEVICES', ('0', '2'))
    """
    for variable in DEVICE_VARIABLES:
        if variable in environment:
            return variable, _visible(environment[variable])
    return None


def _visible(value: str) -> tuple[str, ...]:
    names = []
    for name in value.split(","):
        name = name.strip()  # noqa: PLW2901
        if not name or name.startswith("-") or name == "NoDevFiles":  # SLURM sets this where there are no devices
            break
        names.append(name)
    return tuple(names)

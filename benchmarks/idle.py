"""The processor time of this process and all its children, while they have nothing to do."""

from __future__ import annotations

import time


def cores_used(seconds: float) -> float:
    """Processor time per second of idleness.

    Raises:
        ModuleNotFoundError: psutil is not installed.
    """
    try:
        import psutil
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("psutil counts the processor time: pip install psutil") from error
    time.sleep(0.2)  # what was asked for before is done
    master = psutil.Process()
    family = [master, *master.children(recursive=True)]

    def used_s() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in family))

    before_s, start = used_s(), time.perf_counter()
    time.sleep(seconds)
    return (used_s() - before_s) / (time.perf_counter() - start)

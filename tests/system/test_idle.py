"""An idle executor costs nothing."""

import psutil
import pytest

from executor.calls import pid
from pympipool import Executor

IDLE_S = 5.0


def cpu_seconds(processes):
    """Processor time that the processes have used so far."""
    times = [process.cpu_times() for process in processes]
    return sum(time.user + time.system for time in times)


def family():
    """This process and all its descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def use_while_idle():
    """Processor time of this process and all that it has started, while the executor is idle, in cores."""
    import time

    processes = family()
    before = cpu_seconds(processes)
    time.sleep(IDLE_S)  # not to wait for something: the time is what is measured
    return (cpu_seconds(processes) - before) / IDLE_S


@pytest.mark.mpi
def test_two_idle_workers_of_two_ranks_use_less_than_two_percent_of_a_core():
    with Executor(max_workers=2, cores_per_worker=2, block_allocation=True) as exe:
        calls = [exe.submit(pid) for _ in range(20)]
        ranks = {process for call in calls for process in call.result()}
        assert use_while_idle() < 0.02
        assert ranks >= set(exe.submit(pid).result())


def test_idle_serial_workers_use_less_than_two_percent_of_a_core(make_executor):
    exe = make_executor(max_workers=2)
    for call in [exe.submit(pid) for _ in range(20)]:
        call.result()
    assert use_while_idle() < 0.02
    assert exe.submit(pid).result()


def test_waiting_for_a_long_call_uses_less_than_five_percent_of_a_core(make_executor):
    import time

    exe = make_executor(max_workers=2)
    exe.submit(pid).result()
    processes = family()
    before = cpu_seconds(processes)
    exe.submit(time.sleep, 2.0).result()
    assert (cpu_seconds(processes) - before) / 2.0 < 0.05

"""An idle executor costs nothing."""

import contextlib
import time

import psutil
import pytest

from executor.calls import pid
from pympipool import Executor

IDLE_S = 5.0


def family():
    """This process and all its descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


class Use:
    """The processor time that this process and its descendants use inside a `with` block, in cores."""

    def __enter__(self):
        self.before = {process: self._seconds(process) for process in family()}
        self.start_s = time.monotonic()
        self.before[psutil.Process()] = self._seconds(psutil.Process())  # without what looking costs
        return self

    def __exit__(self, *_):
        own_s = self._seconds(psutil.Process())
        elapsed_s = time.monotonic() - self.start_s
        me, *others = family()
        used_s = own_s - self.before[me] + sum(self._seconds(other) - self.before.get(other, 0) for other in others)
        self.cores = used_s / elapsed_s

    @staticmethod
    def _seconds(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            return times.user + times.system
        return 0


@pytest.mark.mpi
def test_two_idle_workers_of_two_ranks_use_less_than_two_percent_of_a_core():
    with Executor(max_workers=2, cores_per_worker=2, block_allocation=True) as exe:
        calls = [exe.submit(pid) for _ in range(20)]
        ranks = {process for call in calls for process in call.result()}
        with Use() as use:
            time.sleep(IDLE_S)  # not to wait for something: what happens in this time is measured
        assert {process.pid for process in family()} >= ranks
        assert use.cores < 0.02


def test_idle_serial_workers_use_less_than_two_percent_of_a_core(make_executor):
    exe = make_executor(max_workers=2)
    for call in [exe.submit(pid) for _ in range(20)]:
        call.result()
    with Use() as use:
        time.sleep(IDLE_S / 2)
    assert use.cores < 0.02


def test_waiting_for_a_long_call_uses_less_than_five_percent_of_a_core(make_block_executor):
    exe = make_block_executor(max_workers=2)
    exe.submit(pid).result()
    with Use() as use:
        exe.submit(time.sleep, 1.5).result()
    assert use.cores < 0.05

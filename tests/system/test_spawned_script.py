"""Executors in processes that multiprocessing has started afresh: there the script's functions belong to `__mp_main__`."""

import pytest

from support.scripts import run_script

SCRIPT = """
import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pympipool import Executor

SCALE = 3

@dataclasses.dataclass
class Step:
    length: int

    def scaled(self, factor):
        return Step(self.length * factor * SCALE)

class NotConverged(Exception):
    pass

def scale(x):
    return x * SCALE

def fail():
    raise NotConverged("after 3 steps")

def keep(step):
    os.environ["KEPT"] = str(step.length)

def use(block_allocation):
    with Executor(max_workers=1, block_allocation=block_allocation, initializer=keep, initargs=(Step(4),)) as exe:
        assert exe.submit(os.getenv, "KEPT").result() == "4"
        assert exe.submit(scale, 2).result() == 6
        assert list(exe.map(lambda x: scale(x) + 1, range(3))) == [1, 4, 7]
        step = exe.submit(Step(2).scaled, 5).result()
        assert type(step) is Step and step == Step(30), step
        assert [type(one) for one in exe.map(Step, range(3))] == [Step] * 3
        assert type(exe.submit(fail).exception()) is NotConverged
    return "good"

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        assert list(processes.map(use, [True, False])) == ["good", "good"]
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_functions_of_the_script_travel_from_there(method, tmp_path):
    run_script(SCRIPT.replace("{method!r}", repr(method)), tmp_path)

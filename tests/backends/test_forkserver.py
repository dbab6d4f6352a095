"""The process that workers are forked from, and those who order them and are gone when it comes to that."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.spawner import LaunchRequest

pytestmark = pytest.mark.timeout(60)

EXIT_CODE = 1
"""Of a worker that has no orders."""


@pytest.fixture
def spawner():
    spawner = ForkserverSpawner()
    yield spawner
    spawner.close()


def order(number):
    return LaunchRequest(number, ranks=1, environment={"PYMPIPOOL_PATH": os.pathsep.join(sys.path)})


def test_who_orders_a_worker_and_is_gone_before_it_is_forked_does_not_end_it(spawner, capfd):
    before = set(psutil.Process().children())
    first = spawner.start(order(1))
    (template,) = set(psutil.Process().children()) - before
    assert first.wait(30) == EXIT_CODE
    first.close()
    template.suspend()
    spawner.start(order(2)).close()
    template.resume()
    third = spawner.start(order(3))
    assert third.wait(30) == EXIT_CODE
    third.close()
    assert set(psutil.Process().children()) - before == {template}
    assert "Traceback" not in capfd.readouterr().err

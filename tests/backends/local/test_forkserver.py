"""The forkserver, and requests whose sender has gone before the fork."""

from __future__ import annotations

import psutil
import pytest

from pympipool._util.import_path import package_folder
from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.spawner import LaunchRequest

pytestmark = pytest.mark.timeout(60)

EXIT_CODE = 1
"""Exit code of a worker that gets no configuration."""


@pytest.fixture
def spawner():
    spawner = ForkserverSpawner()
    yield spawner
    spawner.close()


def request(number):
    return LaunchRequest(number, ranks=1, environment={"PYMPIPOOL_PATH": package_folder()})


def test_closed_pipes_do_not_end_the_forkserver(spawner, capfd):
    before = set(psutil.Process().children())
    first = spawner.start(request(1))
    (forkserver,) = set(psutil.Process().children()) - before
    assert first.wait(30) == EXIT_CODE
    first.close()
    forkserver.suspend()
    spawner.start(request(2)).close()
    forkserver.resume()
    third = spawner.start(request(3))
    assert third.wait(30) == EXIT_CODE
    third.close()
    assert set(psutil.Process().children()) - before == {forkserver}
    assert "Traceback" not in capfd.readouterr().err

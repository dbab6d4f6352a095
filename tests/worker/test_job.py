"""The process beside a worker that is more than a fork."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil

from support.processes import still_alive
from support.waiting import wait_until


def test_command_ends_with_its_killed_runner():
    job = json.dumps([["sleep", "600"], None, None])
    code = f"from pympipool.worker.job import run; run({job!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as runner:
        children = psutil.Process(runner.pid).children
        wait_until(lambda: [child.name() for child in children()] == ["sleep"])
        commands = children()
        runner.kill()
    assert still_alive(commands) == []

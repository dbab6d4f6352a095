from __future__ import annotations

from pathlib import Path

import pytest

from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.spawner import LaunchRequest
from support.tiny_master import TinyMaster


def test_a_worker_serves_calls():
    with TinyMaster(LocalSpawner()).ready() as master:
        master.send(lambda x: x + 1, 2)
        assert master.result() == 3


def test_several_ranks_are_refused():
    with pytest.raises(ValueError, match=r"1 rank, not 2; .*MpiexecSpawner"):
        LocalSpawner().start(LaunchRequest(1, ranks=2))


def test_command_line_holds_no_key():
    with TinyMaster(LocalSpawner()).ready() as master:
        command_line = Path(f"/proc/{master.process.pid}/cmdline").read_text()
        assert "pympipool.worker" in command_line
        assert master.listener.key not in command_line

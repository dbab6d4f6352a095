"""A project whose scripts submit detached calls: functions that note that they run, and wait for a gate."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.processes import marked_processes, new_mark, still_alive
from support.scripts import communicate, script_environment
from support.waiting import wait_until

FUNCTIONS = '''
import os, sys, time
from pathlib import Path
from pympipool import Executor, get_item_from_future

class State:
    def __init__(self, x):
        self.x = x

def note(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")

def square(x):
    note(x)
    return x * x

def held(x):
    """Return x when the gate is open."""
    print("holding", x, flush=True)  # before the note, for which tests wait
    note(x)
    while not Path("gate").exists():
        time.sleep(0.02)
    return x

def total(*parts):
    note("total")
    return sum(parts)

def both(x):
    return {"x": x, "y": [x, x + 1]}

def make_state(x):
    return State(x)

def x_of(state):
    return state.x

def fails(x):
    note(x)
    print("about to fail")
    raise ValueError(f"no {x}")

def exits(code):
    note(code)
    os._exit(code)

def forks_back(x):
    """Return in two processes, the child first."""
    note(x)
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    return "parent"

def executor(**options):
    default = {"backend": "local", "max_workers": 4, "cache_directory": "cache", "detached": True}
    return Executor(**{**default, **eval(os.environ.get("OPTIONS", "{}")), **options})

if __name__ == "__main__":
    exec(sys.argv[1])
'''


def _heed_signals() -> None:
    """Undo what `nohup` and background jobs of a shell do to all programs that they start."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class Project:
    """A folder with a script, and the processes that it has started."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.mark = new_mark()
        self._variables = variables
        (folder / "script.py").write_text(FUNCTIONS)

    def environment(self) -> dict[str, str]:
        return script_environment(self.mark, **self._variables)

    def start(self, code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "script.py", code],
            preexec_fn=_heed_signals,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, timeout_s: float = 120) -> str:
        """Run the script to its end, and return what it has printed."""
        with self.start(code) as process:
            stdout, stderr = communicate(process, timeout_s)
        assert process.returncode == 0, stderr
        return stdout

    def ran(self) -> list[str]:
        path = self.folder / "ran"
        return sorted(path.read_text().split()) if path.exists() else []

    def wait_for_runs(self, count: int, timeout_s: float = 60) -> None:
        deadline_s = time.monotonic() + timeout_s
        while len(self.ran()) < count:
            assert time.monotonic() < deadline_s, f"{self.ran()} have begun"
            time.sleep(0.02)

    def suspend(self, process: psutil.Process) -> None:
        """Stop a process at a moment at which it is not writing records: scripts would wait for that."""
        records = sqlite3.connect(self.folder / "cache" / "detached" / "jobs.sqlite", timeout=60, isolation_level=None)
        with contextlib.closing(records):
            records.execute("BEGIN IMMEDIATE")
            process.suspend()
            wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
            records.execute("ROLLBACK")

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def processes(self, module: str) -> list[psutil.Process]:
        """Return the processes that run a module of pympipool.detached."""
        found = []
        for process in marked_processes(self.mark):
            with contextlib.suppress(psutil.Error):
                if f"pympipool.detached.{module} " in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("cache/detached/*/logs/*.log"))

    def submissions(self) -> list[Path]:
        return [path for path in self.folder.glob("cache/detached/*") if path.is_dir()]


@pytest.fixture
def project(tmp_path):
    """A project; after the test none of its processes is left."""
    made = Project(tmp_path)
    yield made
    made.open_gate()
    assert still_alive(marked_processes(made.mark)) == []

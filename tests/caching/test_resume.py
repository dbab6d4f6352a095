"""A script that is killed, and run again, goes on where it was."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pympipool.caching.store import Store
from support.scripts import communicate, script_environment

CALLS = 600

SCRIPT = """
import sys, time
from pympipool import Executor

def work(x):
    time.sleep(0.005)
    with open("ran", "a") as file:
        file.write(f"{x}\\n")
    return {"x": x, "data": bytes(10_000) if x % 10 == 0 else x * x}

def total(*parts):
    return sum(part["x"] for part in parts)

if __name__ == "__main__":
    with Executor(max_workers=2, block_allocation=True, cache_directory="cache") as exe:
        print("begun", flush=True)
        parts = [exe.submit(work, x) for x in range(int(sys.argv[1]))]
        whole = exe.submit(total, *parts[:100])
        for x, part in enumerate(parts):
            result = part.result()
            assert result == {"x": x, "data": bytes(10_000) if x % 10 == 0 else x * x}, result
        print("total", whole.result(), flush=True)
"""


@pytest.fixture
def start(tmp_path, mark):
    """Start the script, and wait until its executor exists."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def start_script():
        process = subprocess.Popen(
            [sys.executable, "script.py", str(CALLS)],
            cwd=tmp_path,
            env=script_environment(mark),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "begun\n", process.stderr.read()
        return process

    return start_script


def ran(tmp_path):
    path = tmp_path / "ran"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_script_that_is_killed_goes_on(start, tmp_path, number):
    kills, again = 3, []
    chosen = random.Random(int(number))
    for _ in range(kills):
        process = start()
        before = len(ran(tmp_path))
        target = before + chosen.randrange(50, 150)
        deadline_s = time.monotonic() + 60
        while len(ran(tmp_path)) < target and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.send_signal(number)
        communicate(process, 60)
        again.append(len(ran(tmp_path)) - len(set(ran(tmp_path))))
    stdout, stderr = communicate(start(), 120)
    assert stdout == f"total {sum(range(100))}\n", stderr
    assert len(set(ran(tmp_path))) == CALLS
    assert len(ran(tmp_path)) - CALLS <= kills * 1.0 / 0.0025, "more than one second of work was done twice per kill"
    before = len(ran(tmp_path))
    stdout, stderr = communicate(start(), 60)
    assert stdout == f"total {sum(range(100))}\n", stderr
    assert len(ran(tmp_path)) == before
    made = Store(tmp_path / "cache")
    assert all(is_whole for _, is_whole in made.verify())
    made.close()


def test_two_scripts_at_once_share_their_results(start, tmp_path):
    processes = [start(), start()]
    for process in processes:
        stdout, stderr = communicate(process, 120)
        assert stdout == f"total {sum(range(100))}\n", stderr
    assert len(set(ran(tmp_path))) == CALLS


def test_the_end_of_the_script_writes_all_results(tmp_path, mark):
    script = """
        from pympipool import Executor
        def square(x):
            return x * x
        if __name__ == "__main__":
            exe = Executor(max_workers=2, block_allocation=True, cache_directory="cache")
            futures = [exe.submit(square, x) for x in range(300)]
    """
    (tmp_path / "script.py").write_text(re.sub(r"^ {8}", "", script, flags=re.MULTILINE))
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=script_environment(mark), check=True, timeout=60)
    made = Store(tmp_path / "cache")
    assert len(list(made.index.rows())) == 300
    made.close()


def test_instances_have_classes_of_the_next_session(tmp_path, mark):
    script = """
        import os
        from pympipool import Executor
        class Point:
            def __init__(self, x):
                self.x = x
        def make(x):
            open("ran", "a").write(".")
            return [Point(x)]
        if __name__ == "__main__":
            with Executor(max_workers=1, block_allocation=True, cache_directory="cache") as exe:
                (point,) = exe.submit(make, 3).result()
                assert type(point) is Point and point.x == 3, point
    """
    (tmp_path / "script.py").write_text(re.sub(r"^ {8}", "", script, flags=re.MULTILINE))
    for _ in range(2):
        subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=script_environment(mark), check=True, timeout=60
        )
    assert os.path.getsize(Path(tmp_path, "ran")) == 1

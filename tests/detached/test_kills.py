"""Scripts, jobs and supervisors are killed at random moments: every result is right, nothing waits for ever, nothing is left."""

import contextlib
import random
import time

import psutil
import pytest

from support.scripts import communicate

pytestmark = pytest.mark.slow

SWEEP = """
import random
def slow_square(x):
    time.sleep(0.03)
    return bytes(100_000) + str(x * x).encode() if x % 5 == 0 else x * x
exe = executor(max_workers=2)
parts = exe.map(slow_square, range(24), chunksize=3)
single = [exe.submit(slow_square, x) for x in range(30, 34)]
whole = exe.submit(total, *single[1:])
for x, part in zip(range(24), parts):
    assert part == (bytes(100_000) + str(x * x).encode() if x % 5 == 0 else x * x), part
print("total", whole.result())
exe.shutdown()
"""

WHOLE = f"total {sum(x * x for x in range(31, 34))}\n"


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_leave_every_result_right(project, seed):
    chosen = random.Random(seed)
    (project.folder / "sweep.py").write_text("")
    for _ in range(5):
        with project.start(SWEEP) as script:
            time.sleep(chosen.uniform(0.2, 3.0))  # the moment is to be any
            victims = {"script": [psutil.Process(script.pid)], "run": project.processes("run")}
            victims["supervisor"] = project.processes("supervisor")
            kind = chosen.choice(list(victims))
            for victim in victims[kind][:1]:
                with contextlib.suppress(psutil.Error):
                    victim.kill()
            stdout, stderr = communicate(script, 120)  # never for ever
        assert stdout in ("", WHOLE)
        assert "AssertionError" not in stderr, stderr
    for _ in range(6):  # a failure is told to one script, and the next one submits the call again
        with project.start(SWEEP) as script:
            stdout, stderr = communicate(script, 120)
        if script.returncode == 0:
            break
        assert "JobError" in stderr, stderr
    assert stdout == WHOLE, stderr
    assert project.run(SWEEP) == WHOLE
    assert project.submissions() == []

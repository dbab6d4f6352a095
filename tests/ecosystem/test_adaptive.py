"""adaptive: its runners. They need `ntasks`, the number of points to compute at a time."""

from __future__ import annotations

import asyncio

from ecosystem.calls import resonance
from ecosystem.needs import package

adaptive = package("adaptive")

POINTS = 60


def is_known_well(learner):
    return learner.npoints >= POINTS


def test_a_blocking_runner_learns_a_function(executor):
    learner = adaptive.Learner1D(resonance, bounds=(-1, 1))
    adaptive.BlockingRunner(learner, executor=executor, ntasks=executor.max_workers, goal=is_known_well)
    assert learner.data == {x: resonance(x) for x in learner.data}
    assert is_known_well(learner)


def test_a_runner_learns_in_an_event_loop(executor):
    learner = adaptive.Learner1D(resonance, bounds=(-1, 1))

    async def main():
        runner = adaptive.AsyncRunner(
            learner,
            executor=executor,
            ntasks=2,
            ioloop=asyncio.get_running_loop(),
            shutdown_executor=False,
            goal=is_known_well,
        )
        await runner.task

    asyncio.run(main())
    assert learner.data == {x: resonance(x) for x in learner.data}
    assert executor.submit(abs, -1).result() == 1  # the runner has not closed it

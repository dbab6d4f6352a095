"""Run one call through your own FluxExecutor."""

import flux.job

from pympipool import Executor

with flux.job.FluxExecutor() as flux_exe, Executor(max_cores=1, executor=flux_exe) as exe:
    future = exe.submit(sum, [1, 1])
    print(future.result())

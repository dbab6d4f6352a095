"""Call one function once: SLURM starts a worker for the call, inside the job that this script runs in."""

from pympipool import Executor

with Executor(max_cores=1, backend="slurm") as exe:
    future = exe.submit(sum, [1, 1])
    print(future.result())

"""Set resources for all calls on the executor, and override them for one call in `submit`."""

import os

from pympipool import Executor


def calc(*values):
    return sum(values), int(os.environ["SLURM_CPUS_PER_TASK"]), os.path.basename(os.getcwd())


with Executor(
    max_cores=4,  # cores of the job
    threads_per_core=1,  # cores of each rank, for threads of numerical libraries
    backend="slurm",
) as exe:
    os.makedirs("results", exist_ok=True)
    print(exe.submit(calc, 1, 2).result()[:2])
    print(exe.submit(calc, 1, 2, resource_dict={"threads_per_core": 2, "cwd": "results"}).result())

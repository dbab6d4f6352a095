"""Resources of all calls, and of one: what is said when it is submitted counts for that call, over what the executor says."""

import os

from pympipool import Executor


def calc(*values):
    return sum(values), int(os.environ["SLURM_CPUS_PER_TASK"]), os.path.basename(os.getcwd())


with Executor(
    max_cores=4,  # of the job's
    threads_per_core=1,  # of each call: what numerical libraries may use
    backend="slurm",
) as exe:
    os.makedirs("results", exist_ok=True)
    print(exe.submit(calc, 1, 2).result()[:2])
    print(exe.submit(calc, 1, 2, resource_dict={"threads_per_core": 2, "cwd": "results"}).result())

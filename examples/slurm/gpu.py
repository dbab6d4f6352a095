"""Start two workers on two nodes, each with a GPU of its own."""

import os
import socket
import time

from pympipool import Executor


def get_available_gpus(_):
    time.sleep(0.1)  # a placeholder for work; calls of microseconds would all run on one worker
    return os.environ["CUDA_VISIBLE_DEVICES"], socket.gethostname()


with Executor(
    max_workers=2,
    gpus_per_worker=1,
    backend="slurm",
    block_allocation=True,
    command_line_argument_lst=["--mem=0"],  # further options of srun
) as exe:
    while len(exe.info["workers"]) < 2:  # until SLURM has started both
        exe.submit(int).result()
    print(sorted({host for _, host in exe.map(get_available_gpus, range(20))}))

"""Start two workers with a GPU each, and print which GPUs they see on which host."""

import os
import socket

import flux.job

from pympipool import Executor


def my_gpus():
    return os.environ["CUDA_VISIBLE_DEVICES"], socket.gethostname()


with (
    flux.job.FluxExecutor() as flux_exe,
    Executor(max_workers=2, gpus_per_worker=1, executor=flux_exe) as exe,
):
    futures = [exe.submit(my_gpus) for _ in range(2)]
    print([future.result() for future in futures])

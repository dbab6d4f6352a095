"""Backends: which spawners start the workers, and how each spawner starts and ends the processes of one worker.

    registry.py       the backends by name, and the choice that "auto" makes
    base.py           what every backend promises: `Backend`; what the backends of schedulers share: `SchedulerBackend`
    spawner.py        what every spawner promises: a LaunchRequest in, a WorkerProcess out
    program.py        the command line and the environment of a worker's program
    child_process.py  a worker whose process is a child of the master: its output, its end, how it is killed
    relay_process.py  the process through which workers on other hosts reach the master
    mpi_library.py    which MPI library mpi4py loads, and the mpiexec that belongs to it
    shm_cleanup.py    removes the files that killed MPI ranks leave in /dev/shm
    local/            backend "mpi": this machine
    agent/            workers that agents fork: one process on each host, started once
    slurm/            backend "slurm": agents, or one srun for each worker
    hosts/            backends "ssh", "pbs", "lsf", "gridengine": agents on hosts that are known by name
    flux/             backend "flux": one flux job for each worker

A spawner never sees a call or a link. The pool knows a backend only through `Backend`, `Spawner` and `WorkerProcess`.

To add a backend:

1. Add a folder here, with a `Spawner` (`spawner.py`) and a `Backend` (`backend.py`) that makes it. Where a scheduler
   starts the workers, derive the backend from `SchedulerBackend`.
2. Add a line to `BACKENDS` in `registry.py`. If "auto" should take the backend where it is available, add one to
   `AUTO_ORDER` too.
"""

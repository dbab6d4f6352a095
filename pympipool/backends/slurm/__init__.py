"""Backend "slurm": one `srun` for the agents of a job, or one for each worker.

The files of this folder:

    backend.py       checks parameters, finds the cores of the job, makes the spawners
    availability.py  asks SLURM's controller if SLURM can be used here, and caches the answer
    duration.py      the time that SLURM is asked for
    srun.py          the command line and the environment of an srun
    host_list.py     names of hosts, from a list as SLURM abbreviates it
    agents.py        starts agents on all hosts of the job, and tells which workers they can fork
    task_epilog      shell script that SLURM runs after the end of each rank: removes files of MPI from /dev/shm
    job_watch.py     asks the controller for jobs whose workers have not connected; cancels what killed sruns leave
    spawner.py       starts srun for a worker, and ends the step
"""

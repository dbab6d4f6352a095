"""Backend "slurm": one `srun` for each worker.

The files of this folder:

    backend.py       checks parameters, finds the cores of the job, makes the spawners
    availability.py  asks SLURM's controller if SLURM can be used here, and caches the answer
    srun.py          the command line and the environment of an srun
    spawner.py       starts srun for a worker, and ends the step
"""

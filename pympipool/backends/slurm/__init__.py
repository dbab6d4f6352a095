"""Backend "slurm": one `srun` for each worker."""

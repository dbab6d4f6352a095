"""Backend "mpi": workers on this machine, as processes or as MPI jobs."""

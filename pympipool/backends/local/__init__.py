"""Backend "mpi": workers on this machine, as processes or as MPI jobs.

The files of this folder:

    backend.py       chooses the spawner
    direct.py        a worker of one process: a fresh interpreter
    forkserver.py    a worker of one process: a fork of a warm process, the forkserver
    hybrid.py        many workers of one process: the first few direct, all further ones forked
    mpiexec.py       a worker of several ranks: an MPI job
    process_windows.py  a worker of one process on Windows; jobs_windows.py: what ends it with all that it has started
    job_processes.py finds the processes of an MPI job
    hydra_output.py  takes MPICH's report of a bad end out of the ranks' output, and the exit codes out of the report
"""

"""Start and end the processes of one worker; a spawner never sees a call or a link.

    base.py      what every spawner promises: WorkerOrder in, WorkerProcess out
    program.py   the command line and environment of a worker's program
    child.py     a worker whose process is our child: what it prints, its end, its killing
    local.py     one process on this host
    mpiexec.py   the ranks of an MPI job on this host
    mpi.py       which MPI library mpi4py loads, and the mpiexec that belongs to it
"""

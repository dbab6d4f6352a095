"""Start and end the processes of one worker; a spawner never sees a call or a link.

A new kind of worker means one new file here, with a `Spawner`.

    base.py      what every spawner promises: LaunchRequest in, WorkerProcess out
    program.py   the command line and environment of a worker's program
    child.py     a worker whose process is our child: what it prints, its end, its killing
    local.py     one process on this host
    template.py  one process on this host, forked instead of started
    mpiexec.py   the ranks of an MPI job on this host
    leftovers.py what killed ranks leave in /dev/shm
    hydra.py     what MPICH's mpiexec prints about a bad end
    slurm.py     one srun for each worker, on any host
    relay.py     the process through which workers on other hosts reach the master
    mpi.py       which MPI library mpi4py loads, and the mpiexec that belongs to it
"""

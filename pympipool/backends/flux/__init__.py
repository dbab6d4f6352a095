"""Backend "flux": one flux job starts the agents of all hosts, which start the workers; or one flux job for each worker.

The files of this folder:

    backend.py       checks parameters, finds the cores of the instance, makes the spawners
    availability.py  asks the flux broker if flux can be used here, and how large the instance is
    agents.py        starts agents on the hosts of the user's own instance
    jobspec.py       the description of a worker's job
    duration.py      the time that a worker's job is limited to
    spawner.py       submits the job of a worker, and stands for it as a `WorkerProcess`
    connection.py    the thread that talks to the flux instance
    job_reaper.py    a process that cancels waiting jobs when the master is killed
"""

"""Hosts without SLURM or flux: workstations by ssh, and the hosts of jobs of PBS, LSF and Grid Engine.

    discovery    what the user or the scheduler names ──> Host(name, slots)
                 given by hosts=   resources/hosts.py
                 jobs              pbs.py, lsf.py, grid_engine.py: a file for each scheduler
    start        shells.py         how one program is started on one host: ssh, mpiexec, qrsh, or directly on this one
                 remote_program.py what it reads: its source, the environment, the key
    questions    questions.py      asks hosts what they have, before an executor uses them
    joining      join_file.py      the same settings in a file, for hosts that come later: `pympipool join`
    agents       launcher.py       starts the agent of each host
                 backend.py        checks parameters, makes the spawners

A new scheduler is one more file with a `Scheduler`, and its name in `schedulers.py`.
"""

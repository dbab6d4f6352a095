"""Calls that outlive the script: each is a job of a scheduler, or of a supervisor on this machine.

    engine.py        submit and map: the key of a call, its pickle, its future
    futures.py       the future of a call
    watcher.py       the thread that submits, and ends futures
    watches.py       looks for results, and asks the scheduler
    submitting.py    what no job computes yet is submitted, once
    outcomes.py      results become those of the cache; failures have the scheduler's words
    calls.py         pickles of calls, with references to the results of others
    records.py       which job computes which call: SQLite, for scripts
    spool.py         the folder of a submission, for scripts and jobs
    schedulers.py    what is asked of a scheduler
      slurm.py         sbatch, squeue, scancel; templates.py: the script of a job
      flux.py          job by job; flux_jobs.py: what is asked of an instance
      local.py         this machine, with a program of its own: supervisor.py
    run.py           the program of a task; rank.py: of a rank of an MPI call

Scripts and jobs share nothing but files in the cache directory.
"""

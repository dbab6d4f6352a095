"""The worker program: serves the calls of one master until the master sends no more, or is gone.

    main()                 configuration from the environment -> connection to the master -> watchdog
      serial.py            one process: the loop that receives calls and sends results
      mpi.py               N ranks: start, and the loop of ranks that all share memory with the master
        rank_runner.py     runs a call on one rank
        shared_calls.py    ranks on several hosts: rank 0 shares each call with the others and collects their results
        rank_comm.py       messages between these ranks
        spin_wait.py       how a rank waits for the others without wasting a core
      setup.py             before the first call: settings, init_function, reports of failure
      script_context.py    what a worker takes over from the script: arguments, path, multiprocessing
      script_names.py      `__main__`: the script's classes and functions, when a call looks them up
      call_runner.py       runs calls, and keeps the functions that calls refer to
        batches.py         many calls of one function that travel as one
        call_forks.py      ends what calls fork, when it comes back
        injection.py       arguments that come from init_function
        error_log.py       failed calls, logged for the user
      forkserver.py        a warm process that forks workers
        forked.py          what makes a fork of it a worker, and its exit
      agent.py             on another host: a forkserver, and what connects it with the master
        preloading.py      forks of it that have imported what calls import
        imports.py         which modules calls import, and which of them are safe to fork with
      job.py               on another host: an MPI job, as the child of a fork of its forkserver
      shell_process.py     in the worker of a ShellExecutor: its external program
      probes.py            what `pympipool bench` and `pympipool check` run in workers

Nothing here imports the executor. The program ends in one of three ways: normally, after END or its only call; with exit
code 1 when it cannot start, after telling the master why; killed by its watchdog when the master hangs up.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Run the program, in the environment that a spawner made for it.

    Raises:
        SystemExit: The program could not start; the master has been told why.
        ValueError: The environment is not that of a worker.
        OSError: The master is gone.
    """
    from pympipool._core import ring
    from pympipool._util import signals
    from pympipool._util.cmodules import signal
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import connect

    signals.reset()
    if job := os.environ.pop("PYMPIPOOL_JOB", ""):
        from pympipool.transport.bootstrap import agent_sockets
        from pympipool.worker.job import run

        run(job, agent_sockets(os.environ.get("PYMPIPOOL_AGENT", "")))
    signal.signal(signal.SIGINT, ignore_signal)
    config = WorkerConfig.from_environ(os.environ)
    control = connect(config)
    ring.start_watchdog(control.watched_master())
    try:
        if config.ranks == 1:
            control.send_hello(config, 0)  # before the import, so that the master can answer meanwhile
            from pympipool.worker import serial

            serial.run(config, control)
        else:
            from pympipool.worker import mpi

            mpi.run(config, control)
    finally:
        control.release()


def ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Leave Ctrl-C to the master. Unlike SIG_IGN, a handler is not inherited by programs that calls start."""

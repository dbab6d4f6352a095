"""The worker's program: serves the calls of one master until he sends no more, or is gone.

    main()         orders from the environment -> connection to the master -> watchdog
      serial.py    one process: the loop that receives calls and sends results
      mpi.py       N ranks: rank 0 shares each call with the others and collects what they return
        ranks.py       how the ranks of one worker share messages
        patience.py    how a rank waits for the others without wasting a core
      prepare.py   before the first call: settings, init_function, reports of failure
      calls.py     the functions that calls refer to, and how one is run
      preset.py    parameters that come from init_function
      errorlog.py  calls that fail, written down for the user
      programs.py  an external program that a ShellExecutor's calls talk with

Nothing here knows the executor. The program ends in one of these ways: after END or its only call, normally; when it
cannot start, with exit code 1 after telling the master why; and killed by its watchdog when the master hangs up.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Runs the program, in the environment that a spawner made for it.

    Raises:
        SystemExit: It could not start; the master has been told why.
        ValueError: The environment is not that of a worker.
        OSError: The master is gone.
    """
    from pympipool._core import ring
    from pympipool._util.cmodules import signal
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import connect

    signal.signal(signal.SIGINT, _leave_it_to_the_master)
    orders = WorkerConfig.from_environ(os.environ)
    control = connect(orders)
    # A descriptor of its own, so that the connection lasts until the process has ended. Python closes the other one before
    # it has done with exit functions and MPI: the master would hang up in answer, and the watchdog end what is still going on.
    ring.start_watchdog(os.dup(control.fileno()))
    if orders.ranks == 1:
        control.send_hello(orders, 0)  # first, so that he can answer while we import
        from pympipool.worker import serial

        serial.run(orders, control)
    else:
        from pympipool.worker import mpi

        mpi.run(orders, control)


def _leave_it_to_the_master(_number: int, _frame: FrameType | None) -> None:
    """Does nothing at SIGINT. Unlike SIG_IGN it is not inherited by programs that calls start."""

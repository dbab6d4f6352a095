"""A worker of one process: the loop between the two rings of its link.

    FUNCTION -> kept under its number
    CALL     -> unpickle, run, pickle -> RESULT or ERROR
    END      -> the program ends

The loop is what every call pays for, so it does nothing but this.
"""

from __future__ import annotations

import sys

from pympipool._core.ring import CALL, ERROR, FUNCTION, RESULT
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import dump
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.setup import apply_settings, describe, make_calls, take_output, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import Control, Link


def run(orders: WorkerConfig, control: Control) -> None:
    """Serves calls, from the settings to the end.

    Raises:
        SystemExit: The worker cannot start; the master has been told why.
    """
    where = describe(orders.worker)
    settings, descriptors = control.receive_setup()
    try:
        descriptors = take_output(settings, descriptors)
        channel = control.open_channel(descriptors)
        apply_settings(settings, orders.cwd)
        calls = make_calls(settings, channel.stamps, orders.error_log_file, where)
    except BaseException as error:
        tell(control.send_start_failed, error, where)
        sys.exit(1)
    control.send_ready(0)
    serve(channel, calls, where, one_call=settings["one_call"])


def serve(channel: Link, calls: CallRunner, where: str, *, one_call: bool) -> None:
    """Serves until END, or until the only call has been answered. Keeps nothing of a call that has ended."""
    receive, send, run_call = channel.receive, channel.answer, calls.run
    while True:
        kind, call, tag, parts = receive()  # type: ignore[misc]  # without a timeout it is never None
        if kind == CALL:
            try:
                answer = dump(run_call(tag, parts), "the result")
                kind = RESULT
            except BaseException as error:  # SystemExit too, as in concurrent.futures
                answer = dump_exception(error, where)
                kind = ERROR
            send(kind, call, answer)
            if one_call:
                return
            del parts, answer  # before waiting for the next one
        elif kind == FUNCTION:
            calls.remember(tag, parts)
        else:
            return

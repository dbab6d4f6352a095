"""A worker of one process: the loop between the two rings of its link.

    FUNCTION -> kept under its number, as bytes
    CALL     -> unpickle, run, pickle -> RESULT or ERROR; of small ones SmallCalls does all this
    END      -> the program ends

Every call pays for this loop, so it does nothing else.
"""

from __future__ import annotations

import sys

from pympipool._core.channel import Channel
from pympipool._core.ring import CACHED, CALL, ERROR, FUNCTION, RESULT
from pympipool._core.worker_calls import SmallCalls
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import dump
from pympipool.serialization.plain import SCALARS
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.left_results import LeftResults
from pympipool.worker.setup import (
    apply_settings,
    describe,
    last_call_announcement,
    make_call_runner,
    report_start_failed,
    take_descriptors,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pympipool._core.worker_calls import Answer
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import Control, Link


def run(config: WorkerConfig, control: Control) -> None:
    """Receive the settings, then serve calls until the end.

    Raises:
        SystemExit: The worker cannot start; the master has been told why.
    """
    location = describe(config.worker)
    settings, descriptors = control.receive_setup()
    try:
        descriptors = take_descriptors(settings, descriptors)
        channel = control.open_channel(descriptors)
        apply_settings(settings, control, (config.worker,), config.cwd)
        runner = make_call_runner(settings, channel.stamps, config.error_log_file, location)
        runner.on_loaded = channel.restart_clock
    except BaseException as error:
        report_start_failed(control, error, location)
        sys.exit(1)
    control.send_ready(0)
    left_results = None if settings["left_results"] is None else LeftResults(*settings["left_results"])
    serve(channel, runner, location, settings["max_calls"], last_call_announcement(settings, control), left_results)


def serve(
    channel: Link,
    runner: CallRunner,
    location: str,
    calls_left: int,
    announce_last: Callable[[], None] | None,
    left_results: LeftResults | None = None,
) -> None:
    """Serve until END, or until the last call has been answered. Keep no reference to a call that has ended.

    Args:
        calls_left: The number of calls until the last; 0: there is no limit.
        announce_last: Called before the last call.
        left_results: Leaves large results of cached calls in files.
    """

    def returned(result: Any) -> Answer:
        try:
            return RESULT, 0, dump(result, "the result")
        except BaseException as error:
            return raised(0, error)

    def raised(_call: int, error: BaseException) -> Answer:
        return ERROR, 0, dump_exception(error, location)

    source: SmallCalls | Link = channel
    if isinstance(channel, Channel):
        channel.forks = runner.forks
        if calls_left == 0:
            source = SmallCalls(channel, runner, SCALARS, returned, raised)
    receive, send, run_call, forks = source.receive, channel.answer, runner.run, runner.forks
    while True:
        forks.end_fork()
        kind, call, tag, parts = receive()  # type: ignore[misc]  # without a timeout it is never None
        if kind == CALL:
            calls_left -= 1
            if calls_left == 0 and announce_last is not None:
                announce_last()
            try:
                answer = dump(run_call(tag, parts), "the result")
                if call & CACHED and left_results is not None:
                    answer = left_results.leave(answer)
                kind = RESULT
            except BaseException as error:  # SystemExit too, as in concurrent.futures
                answer = dump_exception(error, location)
                kind = ERROR
            forks.end_fork()  # of a finalizer
            send(kind, call, answer)
            if calls_left == 0:
                return
            del parts, answer  # release them before waiting for the next message
        elif kind == FUNCTION:
            runner.remember(tag, parts)
        else:
            return

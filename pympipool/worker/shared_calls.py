"""Calls of a worker whose ranks may be on several hosts: rank 0 has the link, and shares each call with the others by MPI."""

from __future__ import annotations

from time import monotonic_ns

from pympipool._core.channel import Channel
from pympipool._core.ring import CALL, END, ERROR, FUNCTION, RESULT, TRACED
from pympipool.serialization.exceptions import STATE_LOST_NOTE, join_exceptions
from pympipool.serialization.payload import dump
from pympipool.serialization.plain import Pickled
from pympipool.worker.rank_comm import Message, OtherRank, RootRank
from pympipool.worker.rank_runner import FINALIZE_TIMEOUT_S, RANKS_DIVERGED_REASON, RETURNED, exit_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pympipool.transport.control_client import Link
    from pympipool.worker.rank_runner import RankRunner


def serve_root(
    channel: Link,
    ranks: RootRank,
    runner: RankRunner,
    *,
    calls_left: int,
    announce_last: Callable[[], None] | None = None,
    has_state: bool = False,
) -> None:
    """Serve on rank 0: share each message of the channel, and answer a call with the combined answers of all ranks.

    Serves until END, until the last call has been answered, or until ranks have diverged. Keeps no reference to a call that
    has ended.

    Args:
        calls_left: The number of calls until the last; 0: there is no limit.
        announce_last: Called before the last call.
        has_state: The worker had an initializer or an init_function.
    """
    forks = runner.calls.forks
    if isinstance(channel, Channel):
        channel.forks = forks
    while True:
        message = Message(*channel.receive())  # type: ignore[misc]  # without a timeout it is never None
        ranks.share(message)
        if message.kind == CALL:
            calls_left -= 1
            is_last = calls_left == 0
            if is_last and announce_last is not None:
                announce_last()
            answers = [run(runner, message), *ranks.collect()]
            if message.call & TRACED:
                record_times(channel, answers)
            diverged = ranks_diverged(answers)
            note = STATE_LOST_NOTE if diverged and has_state and not is_last else ""
            channel.answer(*combine_answers(answers, note, root_only=runner.root_only))
            has_state = True
            if diverged:
                runner.announce_exit(RANKS_DIVERGED_REASON)
                if not is_last:
                    ranks.share(Message(END, 0, 0, [b""]))
                exit_within(FINALIZE_TIMEOUT_S)
            if diverged or is_last:
                return
            del answers
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message  # release it before waiting for the next one
        forks.end_fork()  # of a finalizer


def serve_other(ranks: OtherRank, runner: RankRunner, *, calls_left: int) -> None:
    """Serve on every other rank: run the calls that rank 0 shares."""
    while True:
        message = ranks.receive()
        if message.kind == CALL:
            ranks.answer(run(runner, message))
            calls_left -= 1
            if calls_left == 0:
                return
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message
        runner.drop_released()
        runner.calls.forks.end_fork()  # of a finalizer


def run(runner: RankRunner, message: Message) -> Message:
    """Run a call and return the answer of this rank."""
    runner.start_ns = monotonic_ns()
    kind, parts = runner.run(message.call, message.tag, message.parts)
    runner.calls.forks.end_fork()  # of a finalizer, or made while the result was pickled
    return Message(kind, message.call, monotonic_ns() - runner.start_ns, parts, runner.start_ns)


def record_times(channel: Link, answers: Sequence[Message]) -> None:
    """Record when each rank began and ended a traced call, by its own clock."""
    for answer in answers:
        channel.stamps.extend((answer.start_ns, answer.start_ns + answer.tag))


def combine_answers(
    answers: Sequence[Message], note: str = "", *, root_only: bool = False
) -> tuple[int, int, list[Any], int]:
    """Combine the answers of all ranks: the results in rank order, or the exception of the lowest rank that raised.

    The results are not unpickled here but in the master.

    Args:
        note: A note for the exception.
        root_only: The result is that of rank 0 alone.
    """
    run_time_ns = max(answer.tag for answer in answers)
    raised = [answer.parts for answer in answers if answer.kind == ERROR]
    if raised:
        parts = join_exceptions(raised, note)
    else:
        parts = answers[0].parts if root_only else dump([Pickled(answer.parts) for answer in answers])
    return ERROR if raised else RESULT, answers[0].call, parts, run_time_ns


def ranks_diverged(answers: Sequence[Message]) -> bool:
    """Return True if a call may have left messages between the ranks that no rank has received.

    A rank that raises does not receive what other ranks send it, for example in a broadcast. The next call that communicates
    would receive that in place of its own data: wrong results, without an error. Only if the call has ended at the same place
    on all ranks, they have sent and received the same messages. The texts of the exceptions may differ: they often contain
    the number of the rank. A result that cannot be pickled is an error, but the function has returned.
    """
    places = {bytes(answer.parts[1]) if answer.kind == ERROR else RETURNED for answer in answers}
    return len(places) > 1

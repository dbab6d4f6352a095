"""A worker of several ranks: every rank runs every call, and the results come back as a list in rank order.

    all ranks on the master's host: `serve`        ranks may be on other hosts: `serve_root`, `serve_other`
    master --- CALL ---> rank 0 ... N-1            master --- CALL ---> rank 0 -- share --> rank 1 ... N-1
                         run                                            run                 run
    master <-- RESULT -- rank 0 ... N-1            master <-- RESULT -- rank 0 <- answer -- rank 1 ... N-1

Each rank has its own control connection, for its watchdog and to report that its call raised. A rank reports that at once,
because the other ranks may wait for it in a collective forever. If they do, the master kills the worker. If they do not, all
ranks answer as usual, and the call fails with the exception of the lowest rank. The worker serves on if the call ended at
the same place on all ranks. Otherwise it exits and is replaced: see `ranks_diverged`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from time import monotonic_ns

from pympipool._core.ring import CALL, END, ERROR, FUNCTION, RESULT, TRACED, Channel
from pympipool._util.cmodules import signal
from pympipool.serialization.exceptions import STATE_LOST_NOTE, dump_exception, join_exceptions
from pympipool.serialization.payload import dump
from pympipool.serialization.plain import Pickled
from pympipool.serialization.tracebacks import describe_place
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.rank_comm import Message, OtherRank, RootRank
from pympipool.worker.setup import (
    apply_settings,
    describe,
    has_start_functions,
    last_call_announcement,
    make_call_runner,
    report_error,
    report_start_failed,
    take_descriptors,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from mpi4py import MPI

    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import Control, Link

_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "FLUX_TASK_RANK")
"""Environment variables in which launchers give a process its rank: MPICH and its relatives, PMIx, Open MPI, flux."""

FINALIZE_TIMEOUT_S = 2
"""Time that ranks that have diverged have to exit. MPI_Finalize may wait forever for a message that another rank received."""

RANKS_DIVERGED_REASON = (
    "a call raised on some of its ranks only, or at different places, which may have left messages between them for the"
    " next call"
)

_RETURNED = b""
"""The place at which a call ended on a rank if its function returned there."""

_MPICH_SEGMENT = "/dev/shm/mpich_shm_"


def run(config: WorkerConfig, control: Control) -> None:
    """Receive the settings, then serve calls until the end.

    If this rank cannot start, tell the master why and end the process with exit code 1.
    """
    rank = launched_rank(os.environ)
    if rank is None:
        from mpi4py import MPI

        rank = MPI.COMM_WORLD.Get_rank()
    location = describe(config.worker, rank)
    control.send_hello(config, rank)
    settings, descriptors = control.receive_setup()
    try:
        descriptors = take_descriptors(settings, descriptors)
        serve = _prepare(config, control, rank, location, settings, descriptors)
    except BaseException as error:
        report_start_failed(control, error, location)
        _exit_without_finalize()
    control.send_ready(rank)
    try:
        serve(calls_left=settings["max_calls"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _exit_without_finalize()


def _prepare(
    config: WorkerConfig,
    control: Control,
    rank: int,
    location: str,
    settings: dict[str, Any],
    descriptors: Sequence[int],
) -> Callable[..., None]:
    """Do everything that can fail before the first call. Return the function that serves calls."""
    apply_settings(settings, control, (config.worker, rank + 1), config.cwd)
    channel = control.open_channel(descriptors, rank) if rank == 0 or descriptors else None
    if isinstance(channel, Channel) and channel.rank_count > 1:
        join_world(config, rank)
        return functools.partial(
            serve,
            channel,
            _make_runner(config, settings, control, rank, location),
            announce_last=last_call_announcement(settings, control) if rank == 0 else None,
            has_state=has_start_functions(settings),
        )
    if channel is not None:
        root = RootRank(join_world(config, rank))
        runner = _make_runner(config, settings, control, rank, location)
        return functools.partial(
            serve_root,
            channel,
            root,
            runner,
            announce_last=last_call_announcement(settings, control),
            has_state=has_start_functions(settings),
        )
    other = OtherRank(join_world(config, rank))
    return functools.partial(serve_other, other, _make_runner(config, settings, control, rank, location))


def _make_runner(
    config: WorkerConfig, settings: dict[str, Any], control: Control, rank: int, location: str
) -> RankRunner:
    calls = make_call_runner(settings, None, config.error_log_file, location)
    return RankRunner(calls, control, rank, location, root_only=config.root_only)


_MPIEXEC_REMEDY = (
    "Launcher and library belong to different MPIs. Make the mpiexec of that library the first in PATH, or install an MPI"
    ' with its own: pip install "pympipool[mpich]" in a fresh environment'
)

_SCHEDULER_REMEDY = (
    "The way in which SLURM or flux lets ranks find each other is not that of the library: set pmi_mode to one that both"
    " know (`srun --mpi=list` says SLURM's; flux has 'simple', and 'pmix' with its plugin flux-pmix)"
)


def launched_rank(environ: Mapping[str, str]) -> int | None:
    """Return the rank that the launcher gave this process, known before MPI is initialized; None if it gave none."""
    for name in _RANK_VARIABLES:
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None


def join_world(config: WorkerConfig, rank: int) -> MPI.Intracomm:
    """Initialize MPI, check that the ranks have found each other, and return the communicator of all ranks.

    Raises:
        WorkerStartError: mpi4py is missing, or belongs to another MPI than the launcher.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        from pympipool.errors import WorkerStartError

        raise WorkerStartError(
            f"a worker of {config.ranks} ranks cannot load mpi4py: {error}. Install it together with an MPI:"
            ' pip install "pympipool[mpich]"'
        ) from error
    world = MPI.COMM_WORLD
    _unlink_segments(world)
    if world.Get_size() != config.ranks or world.Get_rank() != rank:
        from pympipool.errors import WorkerStartError

        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise WorkerStartError(
            f"{config.launcher or 'the launcher'} was to start {config.ranks} ranks; this is rank {rank} of them, but"
            f" rank {world.Get_rank()} of {world.Get_size()} in the eyes of the MPI library that mpi4py has loaded:"
            f" {library}. {_MPIEXEC_REMEDY if config.launcher else _SCHEDULER_REMEDY}"
        )
    return world


def _unlink_segments(world: MPI.Intracomm) -> None:
    """Unlink the shared memory of MPICH's ranks.

    MPICH unlinks it in MPI_Finalize: if a rank is killed, megabytes of shared memory would stay behind. MPICH needs the
    name only until all ranks have mapped the memory, and they have mapped it once MPI is initialized on all of them.
    """
    if sys.platform != "linux":
        return
    world.Barrier()
    with open("/proc/self/maps") as maps:
        segments = {line.split(maxsplit=5)[-1].strip() for line in maps if _MPICH_SEGMENT in line}
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):  # another rank was faster
            os.unlink(segment)


class RankRunner:
    """Runs calls on this rank, and reports those that raise to the master.

    Args:
        calls: Runs the calls.
        control: The control connection of this rank.
        rank: The number of this rank.
        location: Worker, rank, host and process id, for tracebacks.
        root_only: The result of a call is that of rank 0. Other ranks answer with None when a call has returned.
    """

    def __init__(
        self, calls: CallRunner, control: Control, rank: int, location: str, *, root_only: bool = False
    ) -> None:
        self.calls = calls
        self.rank = rank
        self.root_only = root_only
        self._control = control
        self._location = location

    def run(self, message: Message) -> Message:
        """Run a call and return the answer. Empties the parts of the message.

        An error has one part more than the exception: the place at which the call ended on this rank.
        """
        start_ns = monotonic_ns()
        kind = ERROR
        try:
            result = self.calls.run(message.tag, message.parts)
        except BaseException as error:  # SystemExit too, as in concurrent.futures
            send = functools.partial(self._control.send_rank_error, self.rank, message.call)
            answer = [*report_error(send, error, self._location), describe_place(error)]
        else:
            try:
                answer = dump(None if self.root_only and self.rank > 0 else result, "the result")
                kind = RESULT
            except BaseException as error:  # no other rank waits for this one: the function has returned
                answer = [*dump_exception(error, self._location), _RETURNED]
        return Message(kind, message.call, monotonic_ns() - start_ns, answer, start_ns)

    def announce_exit(self, reason: str) -> None:
        """Tell the master that this worker exits without having been told to."""
        self._control.send_exiting(reason)


def serve(
    channel: Channel,
    runner: RankRunner,
    *,
    calls_left: int,
    announce_last: Callable[[], None] | None = None,
    has_state: bool = False,
) -> None:
    """Serve on a rank of a worker all of whose ranks use the link: each receives every call, and answers it itself.

    Serves until END, until the last call has been answered, or until ranks have diverged. Keeps no reference to a call that
    has ended.

    Args:
        calls_left: The number of calls until the last; 0: there is no limit.
        announce_last: Called before the last call.
        has_state: The worker had an initializer or an init_function.
    """
    while True:
        received = channel.receive()
        if received is None:
            end_diverged(runner)
            return
        message = Message(*received)
        if message.kind == CALL:
            calls_left -= 1
            is_last = calls_left == 0
            if is_last and announce_last is not None:
                announce_last()
            answer = runner.run(message)
            outcome = 0
            if answer.kind == ERROR:
                outcome = outcome_of(answer.parts[1])
                answer.parts.append(STATE_LOST_NOTE.encode() if has_state and not is_last else b"")
            elif runner.root_only and runner.rank > 0:
                answer = answer._replace(parts=[b""])
            if message.call & TRACED:
                channel.stamps.extend((answer.start_ns, answer.start_ns + answer.tag))
            channel.answer(answer.kind, answer.call, answer.parts, answer.tag, outcome, is_last)
            if is_last:
                if not channel.ranks_agree():
                    end_diverged(runner)
                return
            has_state = True
            del answer
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message, received  # release it before waiting for the next one


def outcome_of(place: bytes) -> int:
    """Return a number for the place at which a call ended on a rank: 0 if its function returned."""
    if place == _RETURNED:
        return 0
    from _blake2 import blake2b

    return int.from_bytes(blake2b(place, digest_size=6).digest(), "little") or 1


def end_diverged(runner: RankRunner) -> None:
    """Tell the master that the worker exits because its ranks have diverged, and give it limited time to do so."""
    if runner.rank == 0:
        runner.announce_exit(RANKS_DIVERGED_REASON)
        _exit_within(FINALIZE_TIMEOUT_S)


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
    while True:
        message = Message(*channel.receive())  # type: ignore[misc]  # without a timeout it is never None
        ranks.share(message)
        if message.kind == CALL:
            calls_left -= 1
            is_last = calls_left == 0
            if is_last and announce_last is not None:
                announce_last()
            answers = [runner.run(message), *ranks.collect()]
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
                _exit_within(FINALIZE_TIMEOUT_S)
            if diverged or is_last:
                return
            del answers
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message  # release it before waiting for the next one


def serve_other(ranks: OtherRank, runner: RankRunner, *, calls_left: int) -> None:
    """Serve on every other rank: run the calls that rank 0 shares."""
    while True:
        message = ranks.receive()
        if message.kind == CALL:
            ranks.answer(runner.run(message))
            calls_left -= 1
            if calls_left == 0:
                return
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message


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
    places = {bytes(answer.parts[1]) if answer.kind == ERROR else _RETURNED for answer in answers}
    return len(places) > 1


def _exit_within(limit_s: int) -> None:
    """Kill this process after limit_s, and with it the worker, if it has not exited before: MPI_Finalize may not return."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit_s)


def _exit_without_finalize() -> NoReturn:
    """End a rank that cannot go on. A normal exit would wait for the other ranks in MPI_Finalize, forever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.Get_size() == 1:
        sys.exit(1)  # there are no other ranks
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have closed or replaced the stream
            stream.flush()
    os._exit(1)

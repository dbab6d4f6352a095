"""A worker of several ranks: every rank runs every call, and the results come back as a list in rank order.

    master --- CALL ---> rank 0 -- share --> rank 1 ... N-1
                         run                 run
    master <-- RESULT -- rank 0 <- answer -- rank 1 ... N-1

Each rank has a control connection of its own: the watchdog needs it, and so does a rank whose call raises. It says so
there at once, because the other ranks may wait for it in a collective for ever; then the master ends the worker. If
they do not, all answer as usual, and the call fails with the exception of the lowest rank. The worker goes on if all
ranks have raised alike; else it ends, to be replaced: see `ranks_diverged`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from time import monotonic_ns

from pympipool._core.ring import CALL, END, ERROR, FUNCTION, RESULT, TRACED
from pympipool._util.cmodules import signal
from pympipool.serialization.exceptions import are_alike, join_exceptions
from pympipool.serialization.payload import Pickled, dump
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.rank_comm import Message, OtherRank, RootRank
from pympipool.worker.setup import apply_settings, describe, make_calls, take_output, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from mpi4py import MPI

    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import Control, Link

_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "FLUX_TASK_RANK")
"""Where launchers tell a process its rank: MPICH and its relatives, PMIx, Open MPI, flux."""

FINALIZE_TIMEOUT_S = 2
"""How long ranks that are out of step may take to end: MPI_Finalize may wait for ever for what another rank has received."""

WHY_OUT_OF_STEP = "a call raised on some of its ranks only, which may have left messages between them for the next call"

_MPICH_SEGMENT = "/dev/shm/mpich_shm_"


def run(orders: WorkerConfig, control: Control) -> None:
    """Serves calls, from the settings to the end.

    Ends the process with exit code 1 where it cannot start, when the master has been told why.
    """
    rank = launched_rank(os.environ)
    if rank is None:
        from mpi4py import MPI

        rank = MPI.COMM_WORLD.Get_rank()
    where = describe(orders.worker, rank)
    control.send_hello(orders, rank)
    settings, descriptors = control.receive_setup()
    try:
        descriptors = take_output(settings, descriptors)
        serve = _prepare(orders, control, rank, where, settings, descriptors)
    except BaseException as error:
        tell(control.send_start_failed, error, where)
        _end_without_the_others()
    control.send_ready(rank)
    try:
        serve(one_call=settings["one_call"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _end_without_the_others()


def _prepare(
    orders: WorkerConfig,
    control: Control,
    rank: int,
    where: str,
    settings: dict[str, Any],
    descriptors: Sequence[int],
) -> Callable[..., None]:
    """All that can fail before the first call; what serves calls then."""
    apply_settings(settings, orders.cwd)
    if rank == 0:
        channel = control.open_channel(descriptors)
        root = RootRank(join_world(orders, rank))
        return functools.partial(serve_root, channel, root, _runner(orders, settings, control, rank, where))
    other = OtherRank(join_world(orders, rank))
    return functools.partial(serve_other, other, _runner(orders, settings, control, rank, where))


def _runner(orders: WorkerConfig, settings: dict[str, Any], control: Control, rank: int, where: str) -> Runner:
    return Runner(make_calls(settings, None, orders.error_log_file, where), control, rank, where)


_CURE_OF_MPIEXEC = (
    "Launcher and library belong to different MPIs. Make the mpiexec of that library the first in PATH, or install an MPI"
    ' with its own: pip install "pympipool[mpich]" in a fresh environment'
)

_CURE_OF_SCHEDULER = (
    "The way in which SLURM or flux lets ranks find each other is not that of the library: set pmi_mode to one that both"
    " know (`srun --mpi=list` says SLURM's; flux has 'simple', and 'pmix' with its plugin flux-pmix)"
)


def launched_rank(environ: Mapping[str, str]) -> int | None:
    """Our rank as the launcher tells it, so that it is known before MPI is initialised; None when it tells nothing."""
    for name in _RANK_VARIABLES:
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None


def join_world(orders: WorkerConfig, rank: int) -> MPI.Intracomm:
    """Initialises MPI and checks that the ranks have found each other.

    Raises:
        WorkerStartError: mpi4py is missing, or it belongs to another MPI than the launcher.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        from pympipool.errors import WorkerStartError

        raise WorkerStartError(
            f"a worker of {orders.ranks} ranks cannot load mpi4py: {error}. Install it together with an MPI:"
            ' pip install "pympipool[mpich]"'
        ) from error
    world = MPI.COMM_WORLD
    _unlink_segments(world)
    if world.Get_size() != orders.ranks or world.Get_rank() != rank:
        from pympipool.errors import WorkerStartError

        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise WorkerStartError(
            f"{orders.launcher or 'the launcher'} was to start {orders.ranks} ranks; this is rank {rank} of them, but"
            f" rank {world.Get_rank()} of {world.Get_size()} in the eyes of the MPI library that mpi4py has loaded:"
            f" {library}. {_CURE_OF_MPIEXEC if orders.launcher else _CURE_OF_SCHEDULER}"
        )
    return world


def _unlink_segments(world: MPI.Intracomm) -> None:
    """Removes the name of the memory that MPICH's ranks share.

    MPICH removes it when it is finalised: after a rank that was killed it would stay, and its megabytes with it. It
    needs the name no more when all ranks have mapped it, and they have when MPI is initialised everywhere.
    """
    if sys.platform != "linux":
        return
    world.Barrier()
    with open("/proc/self/maps") as maps:
        segments = {line.split(maxsplit=5)[-1].strip() for line in maps if _MPICH_SEGMENT in line}
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):  # another rank was quicker
            os.unlink(segment)


class Runner:
    """Runs calls on this rank.

    Args:
        calls: The functions and the preset.
        control: Where to tell that a call raised.
        rank: Our rank.
        where: Who we are, for tracebacks.
    """

    def __init__(self, calls: CallRunner, control: Control, rank: int, where: str) -> None:
        self.calls = calls
        self._control = control
        self._rank = rank
        self._where = where

    def run(self, message: Message) -> Message:
        """The answer to a call; empties the message's parts."""
        begun_ns = monotonic_ns()
        try:
            answer = dump(self.calls.run(message.tag, message.parts), "the result")
            kind = RESULT
        except BaseException as error:  # SystemExit too, as in concurrent.futures
            answer = tell(
                functools.partial(self._control.send_rank_error, self._rank, message.call), error, self._where
            )
            kind = ERROR
        return Message(kind, message.call, monotonic_ns() - begun_ns, answer, begun_ns)

    def leave(self, why: str) -> None:
        """Tells the master that this worker ends by itself."""
        self._control.send_exiting(why)


def serve_root(channel: Link, ranks: RootRank, runner: Runner, *, one_call: bool) -> None:
    """Rank 0: shares what comes over the channel, and answers with the answers of all. Keeps nothing of a call.

    Serves until END, until the only call has been answered, or until ranks are out of step.
    """
    while True:
        message = Message(*channel.receive())  # type: ignore[misc]  # without a timeout it is never None
        ranks.share(message)
        if message.kind == CALL:
            answers = [runner.run(message), *ranks.collect()]
            if message.call & TRACED:
                tell_times(channel, answers)
            channel.answer(*join(answers))
            ends = ranks_diverged(answers)
            if ends:
                runner.leave(WHY_OUT_OF_STEP)
                if not one_call:
                    ranks.share(Message(END, 0, 0, [b""]))
                _end_within(FINALIZE_TIMEOUT_S)
            if ends or one_call:
                return
            del answers
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message  # before waiting for the next one


def serve_other(ranks: OtherRank, runner: Runner, *, one_call: bool) -> None:
    """Every other rank: runs what rank 0 shares."""
    while True:
        message = ranks.receive()
        if message.kind == CALL:
            ranks.answer(runner.run(message))
            if one_call:
                return
        elif message.kind == FUNCTION:
            runner.calls.remember(message.tag, message.parts)
        else:
            return
        del message


def tell_times(channel: Link, answers: Sequence[Message]) -> None:
    """Puts down when each rank began and ended a traced call, by its own clock."""
    for answer in answers:
        channel.stamps.extend((answer.begun_ns, answer.begun_ns + answer.tag))


def join(answers: Sequence[Message]) -> tuple[int, int, list[Any], int]:
    """The answer of the worker, from those of its ranks: the results in rank order, or what the lowest rank raised.

    The results stay as they were pickled, and are unpickled in the master.
    """
    run_time_ns = max(answer.tag for answer in answers)
    raised = [answer.parts for answer in answers if answer.kind == ERROR]
    parts = join_exceptions(raised) if raised else dump([Pickled(answer.parts) for answer in answers])
    return ERROR if raised else RESULT, answers[0].call, parts, run_time_ns


def ranks_diverged(answers: Sequence[Message]) -> bool:
    """Whether a call may have left messages between the ranks that nobody received.

    A rank that raises misses what the others send it, in a broadcast for example. The next call that communicates would
    receive it in place of its own data: wrong results, without an error. Only if all ranks have raised the same at
    the same place, they have come equally far.
    """
    raised = [answer.parts for answer in answers if answer.kind == ERROR]
    return bool(raised) and (len(raised) < len(answers) or not are_alike(raised))


def _end_within(limit_s: int) -> None:
    """Ends this process, and so the worker, if it has not ended by itself by then, be it stuck in MPI_Finalize."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit_s)


def _end_without_the_others() -> NoReturn:
    """Ends a rank that cannot go on. An ordinary end would wait for the others in MPI_Finalize, for ever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.Get_size() == 1:
        sys.exit(1)  # there are no others
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code has closed it, or put something else in its place
            stream.flush()
    os._exit(1)

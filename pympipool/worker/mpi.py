"""A worker of several ranks: every rank runs every call, and the results come back as a list in rank order.

    all ranks on the master's host: `serve`        a rank is on another host: shared_calls.py
    master --- CALL ---> rank 0 ... N-1            master --- CALL ---> rank 0 -- share --> rank 1 ... N-1
                         run                                            run                 run
    master <-- RESULT -- rank 0 ... N-1            master <-- RESULT -- rank 0 <- answer -- rank 1 ... N-1

Each rank has its own control connection, for its watchdog and to report that its call raised. A rank reports that at once,
because the other ranks may wait for it in a collective forever. If they do, the master kills the worker. If they do not, all
ranks answer as usual, and the call fails with the exception of the lowest rank. The worker serves on if the call ended at
the same place on all ranks. Otherwise it exits and is replaced: see `ranks_diverged` in shared_calls.py.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
from time import monotonic_ns

from pympipool._core.channel import Channel
from pympipool._core.ring import CALL, FUNCTION, RESULT, TRACED
from pympipool._core.worker_calls import SmallCalls
from pympipool._util.platform import HAS_PROC, MPI_PACKAGE
from pympipool.serialization.exceptions import STATE_LOST_NOTE
from pympipool.serialization.plain import SCALARS
from pympipool.worker.rank_runner import RankRunner, end_diverged, outcome_of
from pympipool.worker.setup import (
    apply_settings,
    describe,
    has_start_functions,
    last_call_announcement,
    make_call_runner,
    report_start_failed,
    take_descriptors,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn, Protocol

    from mpi4py import MPI

    from pympipool._core.worker_calls import Answer
    from pympipool.transport.bootstrap import WorkerConfig
    from pympipool.transport.control_client import Control, Link

    class LaunchedRanks(Protocol):
        """What was asked for: so many ranks, of a launcher ("" if it is a scheduler)."""

        @property
        def ranks(self) -> int: ...
        @property
        def launcher(self) -> str: ...
        @property
        def connect_timeout_s(self) -> float: ...


_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "FLUX_TASK_RANK")
"""Environment variables in which launchers give a process its rank: MPICH and its relatives, PMIx, Open MPI, flux."""

_MPICH_SEGMENT = "/dev/shm/mpich_shm_"

MPI_INIT_TIMEOUTS = 5
"""How many times as long as the ranks may take to connect they may take to find each other by MPI afterwards."""


def run(config: WorkerConfig, control: Control) -> None:
    """Receive the settings, then serve calls until the end.

    If this rank cannot start, tell the master why and end the process with exit code 1.
    """
    world = None
    rank = launched_rank(os.environ)
    if rank is None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        rank = world.Get_rank()
    location = describe(config.worker, rank)
    control.send_hello(config, rank)
    try:
        if world is not None:  # settings come when all ranks have connected, each with another number
            check_world(config, rank, world)
        settings, descriptors = control.receive_setup()
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
            _make_runner(config, settings, control, rank, location, channel),
            announce_last=last_call_announcement(settings, control) if rank == 0 else None,
            has_state=has_start_functions(settings),
        )
    from pympipool.worker.rank_comm import OtherRank, RootRank  # only here: few workers are spread over hosts
    from pympipool.worker.shared_calls import serve_other, serve_root

    if channel is not None:
        root = RootRank(join_world(config, rank))
        runner = _make_runner(config, settings, control, rank, location, channel)
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
    config: WorkerConfig,
    settings: dict[str, Any],
    control: Control,
    rank: int,
    location: str,
    channel: Link | None = None,
) -> RankRunner:
    calls = make_call_runner(settings, None, config.error_log_file, location)
    return RankRunner(calls, control, rank, location, root_only=config.root_only, channel=channel)


_MPIEXEC_REMEDY = (
    "Launcher and library belong to different MPIs. Make the mpiexec of that library the first in PATH, or install an MPI"
    f" with its own: `pip install mpi4py {MPI_PACKAGE}` in a fresh environment"
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


def join_world(config: LaunchedRanks, rank: int) -> MPI.Intracomm:
    """Initialize MPI, check that the ranks have found each other, and return the communicator of all ranks.

    If that takes too long, the process ends with its stack on stderr: a launcher that has lost a message of a rank lets all
    of them wait for ever. MPI may hold the GIL meanwhile, so that no thread of Python could see to it.

    Raises:
        WorkerStartError: mpi4py is missing, or belongs to another MPI than the launcher.
    """
    faulthandler.dump_traceback_later(config.connect_timeout_s * MPI_INIT_TIMEOUTS, exit=True, file=2)
    try:
        return _join_world(config, rank)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _join_world(config: LaunchedRanks, rank: int) -> MPI.Intracomm:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        from pympipool.errors import WorkerStartError

        raise WorkerStartError(
            f"a worker of {config.ranks} ranks cannot load mpi4py: {error}. Install it together with an MPI:"
            f" pip install mpi4py {MPI_PACKAGE}"
        ) from error
    world = MPI.COMM_WORLD
    _unlink_segments(world)
    check_world(config, rank, world)
    return world


def check_world(config: LaunchedRanks, rank: int, world: MPI.Intracomm) -> None:
    """Check that the ranks have found each other.

    Raises:
        WorkerStartError: mpi4py belongs to another MPI than the launcher.
    """
    if world.Get_size() != config.ranks or world.Get_rank() != rank:
        from mpi4py import MPI

        from pympipool.errors import WorkerStartError

        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise WorkerStartError(
            f"{config.launcher or 'the launcher'} was to start {config.ranks} ranks; this is rank {rank} of them, but"
            f" rank {world.Get_rank()} of {world.Get_size()} in the eyes of the MPI library that mpi4py has loaded:"
            f" {library}. {_MPIEXEC_REMEDY if config.launcher else _SCHEDULER_REMEDY}"
        )


def _unlink_segments(world: MPI.Intracomm) -> None:
    """Unlink the shared memory of MPICH's ranks.

    MPICH unlinks it in MPI_Finalize: if a rank is killed, megabytes of shared memory would stay behind. MPICH needs the
    name only until all ranks have mapped the memory, and they have mapped it once MPI is initialized on all of them.
    """
    if not HAS_PROC:
        return
    world.Barrier()
    with open("/proc/self/maps") as maps:
        segments = {line.split(maxsplit=5)[-1].strip() for line in maps if _MPICH_SEGMENT in line}
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):  # another rank was faster
            os.unlink(segment)


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

    def finished(kind: int, answer: list[Any], is_followed: bool = True) -> Answer:
        if kind == RESULT:
            return kind, 0, answer
        outcome = outcome_of(answer[1])
        answer.append(STATE_LOST_NOTE.encode() if has_state and is_followed else b"")
        return kind, outcome, answer

    def returned(result: Any) -> Answer:
        return finished(*runner.returned(result))

    def raised(call: int, error: BaseException) -> Answer:
        return finished(*runner.raised(call, error))

    channel.forks = runner.calls.forks
    source: SmallCalls | Channel = channel
    if calls_left == 0:
        source = SmallCalls(channel, runner.calls, SCALARS, returned, raised, has_result=not runner.is_silent)
    receive, send, run_call, forks = source.receive, channel.answer, runner.run, runner.calls.forks
    while True:
        forks.end_fork()
        received = receive()
        if received is None:
            end_diverged(runner)
            return
        kind, call, tag, parts = received
        if kind == CALL:
            calls_left -= 1
            is_last = calls_left == 0
            if is_last and announce_last is not None:
                announce_last()
            if call & TRACED:
                runner.start_ns = monotonic_ns()
            kind, outcome, answer = finished(*run_call(call, tag, parts), not is_last)
            if call & TRACED:
                channel.stamps.extend((runner.start_ns, monotonic_ns()))
            forks.end_fork()  # of a finalizer
            send(kind, call, answer, -1, outcome, is_last)
            if is_last:
                if not channel.ranks_agree():
                    end_diverged(runner)
                return
            has_state = True
            del answer
        elif kind == FUNCTION:
            runner.calls.remember(tag, parts)
        else:
            return
        del parts, received  # release them before waiting for the next message


def _exit_without_finalize() -> NoReturn:
    """End a rank that cannot go on. A normal exit would wait for the other ranks in MPI_Finalize, forever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.Get_size() == 1:
        sys.exit(1)  # there are no other ranks
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have closed or replaced the stream
            stream.flush()
    os._exit(1)

"""The public interface: `Executor`, a `concurrent.futures.Executor` to up-scale one function at a time.

Executor(...) ─► Options: check the options ─► Backend: starts workers ─► pool of workers ─► Engine over the pool
submit, map   ─► check the function and its resources ─► Engine: the way of the call to a worker and back
shutdown      ─► Engine: end everything after the last call

What few scripts use is imported where it is used, so that a first result comes sooner. What a forked child may use is imported
here: it would wait for ever for an import that another thread had begun before the fork.
"""

from __future__ import annotations

import logging
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

from pympipool import _options
from pympipool._util import undo_monkey_patches
from pympipool._util.reprs import callable_name
from pympipool._util.shadowing import ShadowingExplained
from pympipool.backends.base import WorkerlessBackend
from pympipool.backends.registry import Choice, choose, make_backend
from pympipool.diagnostics import status
from pympipool.diagnostics.live.report import show_status
from pympipool.errors import CacheWarning
from pympipool.execution.engine import Engine
from pympipool.execution.map_calls import MapCalls
from pympipool.pool.factory import pool_maker
from pympipool.pool.start_functions import pickled_start_functions
from pympipool.resources import ResourceAllocator, Resources, raise_limits
from pympipool.worker.injection import takes_parameter

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from pympipool._core.future import Future
    from pympipool.backends.base import Backend
    from pympipool.caching.calls import CachedCalls
    from pympipool.caching.handover import Handover
    from pympipool.detached.engine import DetachedEngine
    from pympipool.diagnostics.graph import GraphRecorder
    from pympipool.diagnostics.live.dashboard import Dashboard
    from pympipool.execution.map_arguments import Arguments
    from pympipool.pool.serial_engine import SerialEngine
    from pympipool.serialization.shared import Shared

    Awaited: TypeAlias = "futures.Future[Any] | Iterable[futures.Future[Any]] | Mapping[Any, futures.Future[Any]]"

logging.getLogger("pympipool").addHandler(logging.NullHandler())  # the user decides what happens to log messages

T = TypeVar("T")
P = ParamSpec("P")

_NO_CODE = object()

TERMINATION_GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL for workers that are terminated: functions may have handlers that tidy up."""


class Executor(futures.Executor):
    """An executor that runs Python functions, serial or MPI-parallel, in separate processes.

    Each call runs in a new process, or with `block_allocation` in one of a fixed number of workers. All parameters are
    optional. Without any, the executor uses the cores of this machine.

    Args:
        max_workers: Number of workers, as in the standard library.
        max_cores: Total number of cores: the number of workers times `cores_per_worker` times `threads_per_core`. Give one
            of `max_workers` and `max_cores`. Default: the cores that this process may use.
        resource_dict: Resources of each call, unless `submit` overrides them: the same as the parameters of this name here,
            with `cores` for `cores_per_worker` and `gpus_per_core`. As in executorlib.
        cores_per_worker: MPI ranks of each worker, each on its own core.
        result_of: "all": with 2 or more ranks the result of a call is the list of their return values, in rank order. "root":
            it is the return value of rank 0; those of the others are not sent.
        threads_per_core: Cores of each rank, for the threads of numerical libraries, or for programs that it starts. A
            worker that is one process on 4 cores has `threads_per_core=4`.
        gpus_per_worker: GPUs of each worker, visible to no other worker; a multiple of `cores_per_worker`.
        oversubscribe: Let MPI start more ranks than there are cores.
        cwd: Working directory of the workers. Default: the master's.
        executor: A `flux.job.FluxExecutor` to submit to; only with flux. It must stay open as long as this executor.
        hostname_localhost: Workers connect to "localhost" only, so SLURM can start them on this host only. It has no
            effect on workers of this machine: they connect without a host name or address.
        backend: Where workers run: "mpi" on this machine, "flux" and "slurm" wherever these start them, "ssh" on `hosts`, "pbs",
            "lsf" and "gridengine" on the hosts of the job that the script runs in. "auto" selects ssh if `hosts` is given, flux
            if an instance can be reached or `executor` is given, else SLURM if its controller answers, else the scheduler
            whose job this is, else this machine. `info` tells why a backend was skipped. "serial" starts no workers: each
            call runs in this process while it is submitted, for debuggers.
        hosts: Names of hosts that ssh reaches without a question, such as ["a", "b:8"], or the path of a host file with a
            name in each line. The number is that of the cores to use there; without it, all that your processes may use.
            See docs/hosts.md.
        block_allocation: Workers start once and serve many calls: for short calls, and for data that is loaded once.
        init_function: Called once in each worker before its first call (on every rank). Returns a dict; its items are
            passed to calls as the parameters of that name, unless a call sets them itself. Only with
            `block_allocation`.
        initializer: Called once in each worker before its first call (on every rank). The globals that it sets are seen by the
            calls. If it raises, calls fail with BrokenProcessPool, and the cause is what it has raised.
        initargs: Its arguments. Queues, locks, events and shared values of multiprocessing are shared with workers on this machine,
            if they were made by a context that does not fork, such as multiprocessing.get_context("spawn").
        idle_timeout: Seconds after which a worker without a call ends. It comes again when there are more calls than workers, up
            to `max_workers`. Until then its cores are free for others: outside of a job of SLURM its job ends. What
            `init_function` and calls had left in its memory is lost. Default: workers stay. Only with `block_allocation`.
        max_tasks_per_child: Number of calls after which a worker exits and a new one takes its place. A chunk of `map` counts
            as one call. Default: no limit. Without `block_allocation` each worker serves one call anyway.
        mp_context: How processes start, as a context or a name of multiprocessing: "spawn" starts each worker as a fresh
            interpreter, "forkserver" and "fork" fork a process that was started afresh (never the script's own process).
            Only for workers of one core on this machine; the others are always started afresh. Default: the environment
            variable PYMPIPOOL_START_METHOD, else "forkserver" on Linux and "spawn" elsewhere.
        thread_name_prefix: Names the thread in which a worker runs its calls: the prefix, "_" and the worker's id.
        on_worker_replaced: What follows when a worker ends that had state: it had an `initializer` or an `init_function`, or
            had served a call. "restart": a new worker takes its place; the exception of the call that ended it has a note
            that says so. "fail": all calls that are not running yet, and later ones, fail with BrokenExecutor. Only with
            `block_allocation`.
        share_above: Size in bytes from which an array that several calls get is not sent with each of them: from the third call on,
            if it has not changed, they get a copy in shared memory, each as if it were its own. Before each call a digest shows
            if the array has changed; then it is sent anew. It pays for arrays of tens of MB of which calls read a little; calls
            that use all of an array take longer with it. It needs `pip install xxhash`. Default: None, arrays are
            sent with each call.
        cache_directory: A directory that keeps the results of calls. A call that was made before, by this script or an earlier
            run of it, with the same function and arguments, is answered from there. So a script that was interrupted goes on
            where it was. It is made if there is none; no other user may be able to write to it. See docs/caching.md.
        detached: Each call is a job of its own that outlives the script: of SLURM, flux, or with backend="local" of a supervisor on
            this machine. The same script run again finds its results in the `cache_directory`, waits for what is queued or
            runs, and submits what is missing. A `map` is one job array, a chunk of it one task. See docs/detached.md.
        command_line_argument_lst: Additional arguments of srun, or of ssh; only with SLURM and ssh.
        pmi_mode: Interface by which the ranks of an MPI job find each other: the `pmi` option of flux's shell
            ("simple", "pmix", ...), or srun's `--mpi` ("pmi2", "pmix", ...). Default: the one that mpi4py's MPI library
            needs.
        disable_dependencies: Do not resolve futures among the arguments of calls. Such a future is an error then.
        refresh_rate: Seconds. Accepted for compatibility, without effect: calls that wait for others are started by
            callback, not by polling.
        run_time_max: Time limit of a call in seconds. After it the worker is ended, and the call fails with
            TimeoutError. Default: no limit.
        restart_limit: Number of retries of a call whose worker died while it ran.
        retries: Number of retries of a call that failed with an exception of one of the types `retry_on`. `future.attempts`
            counts the attempts, `future.retried_errors` are the exceptions of all but the last.
        retry_on: Exception types, one or a tuple. Default: Exception, so all but SystemExit and the like.
        retry_delay: Seconds from a failure to the next attempt. Meanwhile the call has no worker, and can be cancelled.
        connect_timeout: Seconds from the start of a worker until it must have connected. Waiting in a scheduler's queue
            does not count.
        preload: Names of modules that calls need, such as ("numpy", "ase"). They are imported once, in the process that forks
            workers for single calls, and need not be imported by each call. Default: learned from the first calls, for
            those modules of Python and of installed packages that are safe to fork with. (): none. No effect on calls with
            several ranks, and on those that flux or SLURM start.
        error_log_file: A file to which workers append each call that raises: function, arguments (in a few hundred
            characters each) and traceback. For workers on other hosts it must lie in a shared folder.
        num_nodes: Number of nodes that the ranks of a worker are spread over; only with SLURM and flux.
        exclusive: Each worker has its nodes for itself: `num_nodes`, by default one with flux and inside a job of SLURM. Only
            with SLURM and flux.
        priority: Priority of a worker's job in the queue, from 1. With flux its urgency, up to 31 (default: 16); with SLURM
            only outside of a job, and for its operators.
        partition: Partition of a worker's job, or its queue with flux; with SLURM only outside of a job.
        account: Account that a worker's job is charged to, or the bank with flux; with SLURM only outside of a job.
        step: Each worker has a step of SLURM, bound to cores of its own, where an agent would fork it. Only with SLURM.
        time_limit: Seconds after which the scheduler ends a worker, whatever it does; only with SLURM and flux. Default: what
            `run_time_max` needs if each call has its own worker, else as the scheduler is configured.
        submission_template: The script of a job, or its path: `{{command}}` stands for what the job runs. Only with `detached`, and
            SLURM or flux.
        flux_log_files: Workers print to the files flux_N.out and flux_N.err in their working directory, where N is the number
            of the worker, instead of to the script's output. Only with flux.
        executor_nesting: Each worker has a flux instance of its own, to which executors in its calls submit their jobs. Only
            with flux, and with one core per worker (`threads_per_core` sets the cores of the instance).
        plot_dependency_graph: Draw the graph of the calls instead of running them, in the notebook, when the executor
            is shut down; `result()` raises RuntimeError.
        plot_dependency_graph_filename: Draw the graph to this file (SVG) instead of the notebook.

    Raises:
        ValueError, TypeError: A parameter is wrong. The message names it, its value, and what is allowed.
        pympipool.errors.WorkerStartError: Something that the workers need is not installed. The message says what, and
            how to install it.

    Examples:
        >>> with Executor(max_workers=1, block_allocation=True) as exe:
        ...     exe.submit(pow, 2, 5).result()
        32
        >>> with Executor(max_cores=1) as exe:
        ...     list(exe.map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    @_options.suggest_parameter
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_cores: int | None = None,
        resource_dict: Mapping[str, Any] | None = None,
        cores_per_worker: int = 1,
        result_of: str = "all",
        threads_per_core: int = 1,
        gpus_per_worker: int = 0,
        oversubscribe: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        executor: Any = None,
        hostname_localhost: bool | None = False,
        backend: str = "auto",
        hosts: Sequence[str] | str | os.PathLike[str] | None = None,
        block_allocation: bool = False,
        init_function: Callable[[], dict[str, Any]] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        idle_timeout: float | None = None,
        max_tasks_per_child: int | None = None,
        mp_context: Any = None,
        thread_name_prefix: str = "",
        on_worker_replaced: str = "restart",
        share_above: int | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        detached: bool = False,
        command_line_argument_lst: Sequence[str] = (),
        pmi_mode: str | None = None,
        disable_dependencies: bool = False,
        refresh_rate: float = 0.01,
        run_time_max: float | None = None,
        restart_limit: int = 0,
        retries: int = 0,
        retry_on: type[BaseException] | Sequence[type[BaseException]] = (Exception,),
        retry_delay: float = 0.0,
        connect_timeout: float = 60.0,
        preload: Sequence[str] | None = None,
        error_log_file: str | os.PathLike[str] | None = None,
        num_nodes: int | None = None,
        exclusive: bool | None = False,
        priority: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        step: bool = False,
        time_limit: float | None = None,
        submission_template: str | None = None,
        flux_log_files: bool = False,
        executor_nesting: bool = False,
        plot_dependency_graph: bool = False,
        plot_dependency_graph_filename: str | os.PathLike[str] | None = None,
    ) -> None:
        self._info: dict[str, Any] = {}
        undo_monkey_patches()
        options = _options.Options.from_arguments(locals())
        self._resources = options.resources
        self._block_allocation = options.block_allocation
        self._may_batch = options.block_allocation and options.max_tasks_per_child is None
        choice = self._choose(options)
        self._backend = self._make_backend(options, choice.name)
        self._backend.check(self._resources)
        workers, cores = options.count_workers(self._backend.available_cores)
        self._allocator: ResourceAllocator[Any] = ResourceAllocator(
            cores=cores,
            are_default=self._backend.name == "mpi" and options.max_cores is None and options.max_workers is None,
            counts_devices=not self._backend.assigns_devices,
        )
        self._check_devices(options.gpus_per_worker, workers if self._block_allocation else 1)
        if not isinstance(self._backend, WorkerlessBackend):
            self._make_room_for(workers, stacklevel=4)  # there is a wrapper around this method
        handover = self._make_handover(options)
        with ShadowingExplained():
            self._engine = self._make_engine(options, workers, handover)
        self._submit = self._engine.submit
        self._cache: CachedCalls | None = None
        if options.cache_directory is not None and not options.draws_graph and not options.detached:
            self._use_cache(options, handover)
        self._submit_small = self._way_of_small_calls()
        self._info |= {
            "backend": self._backend.name,
            "skipped_backends": choice.skipped,
            **options.info(),
            "max_workers": workers,
            "max_cores": cores,
        }
        self._checked_code: object = _NO_CODE
        if isinstance(self._engine, Engine):
            self._live_status = show_status(self._engine, self._info, self._cache)

    def _way_of_small_calls(self) -> Callable[..., Future[Any] | None]:
        """Return what submits most calls in one step, and returns None for the others."""
        if not isinstance(self._engine, Engine) or self._cache is not None or self._resources.retries:
            return _submit_none
        return self._engine.dispatcher.submit_small

    def _check_devices(self, gpus_per_worker: int, workers: int) -> None:
        """Raise ValueError if there are too few GPUs for the workers that run at the same time."""
        if gpus_per_worker and not self._backend.assigns_devices:
            _options.check_devices(gpus_per_worker, workers, len(self._allocator.devices.names))

    def _make_room_for(self, workers: int, stacklevel: int) -> None:
        """Raise limits of this process for so many workers. Warn the user's line if they do not fit even so."""
        for problem in raise_limits(
            workers, self._resources.cores, are_remote=self._backend.uses_agents(self._resources)
        ):
            warnings.warn(problem, RuntimeWarning, stacklevel=stacklevel)

    @staticmethod
    def _choose(options: _options.Options) -> Choice:
        if options.draws_graph:
            return Choice(options.backend, {})
        if not options.detached:
            return choose(options.backend, options.resources.executor, options.hosts)
        from pympipool.detached.backend import choose_scheduler

        return Choice(choose_scheduler(options), {})

    def _make_backend(self, options: _options.Options, name: str) -> Backend:
        if options.detached and not options.draws_graph:
            from pympipool.detached.backend import DetachedBackend

            return DetachedBackend(name)
        if not options.draws_graph:
            return make_backend(name, options.hosts, options.resources.command_line_argument_lst)
        from pympipool.diagnostics.graph import NullBackend

        return NullBackend(name)

    def _make_handover(self, options: _options.Options) -> Handover | None:
        """Return the folder in which workers may leave large results for the cache; None if none uses it."""
        if options.cache_directory is None or isinstance(self._backend, WorkerlessBackend):
            return None
        from pympipool.caching.handover import Handover

        return Handover(options.cache_directory)

    def _make_engine(
        self, options: _options.Options, workers: int, handover: Handover | None
    ) -> Engine | GraphRecorder | SerialEngine | DetachedEngine:
        start_functions = pickled_start_functions(options, inherits=self._backend.name in ("mpi", "serial"))
        if options.draws_graph:
            from pympipool.diagnostics.graph import GraphRecorder

            return GraphRecorder(options.plot_dependency_graph_filename)
        if options.detached:
            from pympipool.detached.engine import DetachedEngine

            return DetachedEngine(options, self._backend.name, self._allocator.cores, self)
        if self._backend.name == "serial":
            from pympipool.pool.serial_engine import SerialEngine

            return SerialEngine(options)
        return Engine(
            pool_maker(
                options,
                self._backend,
                self._allocator,
                workers,
                start_functions,
                None if handover is None else handover.settings,
            ),
            resolve_dependencies=not options.disable_dependencies,
            workers_see_files=self._backend.name == "mpi",
            share_above=options.share_above,
            executor_info=self._info,
            owner=self,
        )

    def _use_cache(self, options: _options.Options, handover: Handover | None) -> None:
        """Answer calls from a cache, and run only those that it does not know."""
        from pympipool.execution.open_engines import after_end

        start = options.init_function, options.initializer, options.initargs
        try:
            with ShadowingExplained():
                from pympipool.caching.calls import CachedCalls
                from pympipool.caching.writer import close_writers

                engine: Any = self._engine  # one that runs calls
                self._cache = CachedCalls(options.cache_directory or "", engine, self, start, handover)
        except BlockingIOError as locked:
            warnings.warn(f"results are neither found nor kept: {locked}", CacheWarning, stacklevel=3)
            return
        except BaseException:
            self._engine.close(wait=True)
            raise
        self._submit = self._cache.submit
        after_end[close_writers] = None

    # The overloads are for type checkers and editors. They check arguments against the signature of fn, except in two
    # cases. One of the first three arguments is a future: it stands for its result. Or there is a resource_dict: PEP
    # 612 cannot distinguish it from the keyword arguments of fn. So resource_dict=None turns the check off, which calls
    # need that get arguments from init_function.
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(  # type: ignore[overload-cannot-match]  # mypy takes P for any parameters; also in the overloads below
        self, fn: Callable[..., T], /, *args: Any, resource_dict: Mapping[str, Any] | None, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(  # type: ignore[overload-cannot-match]
        self, fn: Callable[..., T], first: Awaited, /, *args: Any, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(  # type: ignore[overload-cannot-match]
        self, fn: Callable[..., T], first: Any, second: Awaited, /, *args: Any, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(  # type: ignore[overload-cannot-match]
        self, fn: Callable[..., T], first: Any, second: Any, third: Awaited, /, *args: Any, **kwargs: Any
    ) -> Future[T]: ...

    def submit(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        resource_dict: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Future[T]:
        """Queue fn(*args, **kwargs) and return the future of its result.

        Futures anywhere in the arguments (also inside lists, tuples, sets and dicts) are replaced by their results
        before the call runs. If one of them fails or is cancelled, so does the call. However long the call waits, its function
        and its arguments are those of now. Only large arrays are read when the call is sent: do not change them before the
        call has ended.

        Args:
            fn: Any callable; must not have a parameter called `resource_dict`. A parameter called `worker_id` gets, if the
                call does not set it, a small number that no other running worker has: 0 to n-1 with n workers.
            resource_dict: Resources of this call. They override those of the executor; with `block_allocation` only `retries`,
                `retry_on`, `retry_delay`, `cache`, `cache_key` and `cache_exceptions`.
                Keys are the parameters of `pympipool.resources.Resources`.

        Raises:
            RuntimeError: After `shutdown`.
            TypeError, ValueError: fn is not callable, or resource_dict is wrong or requests more than there is.

        Examples:
            >>> with Executor(max_workers=1) as exe:
            ...     first = exe.submit(pow, 2, 5)
            ...     exe.submit(max, [first, 7], resource_dict={"run_time_max": 60}).result()
            32
        """
        if resource_dict is None:
            future = self._submit_small(fn, args, kwargs)
            if future is not None:
                return future
        if getattr(fn, "__code__", None) is not self._checked_code:
            self._check_function(fn)
        resources = self._resources
        if resource_dict is not None:
            resources = Resources.from_dict(resource_dict, resources)
            wanted = _options.as_parameters(resource_dict, self._resources.cores) if self._block_allocation else ""
            if wanted:
                raise ValueError(
                    f"resource_dict is {resource_dict!r}; with block_allocation=True all workers are alike. Write"
                    f" Executor(block_allocation=True, {wanted}), or leave out block_allocation"
                )
            self._backend.check(resources)
            self._allocator.check(resources)
        return self._submit(fn, args, kwargs, resources)

    def _check_function(self, fn: Callable[..., Any]) -> None:
        if type(fn) is types.BuiltinFunctionType:  # its parameters are not known
            return
        if type(fn) is types.MethodType:  # a new object for each call
            fn = fn.__func__
            if getattr(fn, "__code__", None) is self._checked_code:
                return
        if takes_parameter(fn, "resource_dict"):
            raise ValueError(
                f"{fn!r} has a parameter called resource_dict, which submit() takes for itself: rename the parameter"
            )
        # Not the function, which would keep its data alive. What has attributes may have a signature of its own.
        self._checked_code = fn.__code__ if isinstance(fn, types.FunctionType) and not fn.__dict__ else _NO_CODE

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any] | futures.Future[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        unordered: bool = False,
        progress: bool | str = False,
        cache: bool = True,
    ) -> Iterator[T]:
        """Return an iterator like map(fn, *iterables), but run the calls on the workers.

        This method exhausts the iterables and submits all calls, whether or not the caller iterates. The iterator waits
        for the results, in order. An iterable may be the future of one: this method waits for it.

        Args:
            timeout: Seconds from now until the last result must have arrived. Default: no limit.
            chunksize: Number of calls that are sent together. Default: 1, and with block allocation as many calls as take
                a few milliseconds, by their measured run time. Calls on several cores, and calls with `retries`, are always sent
                one by one.
                `run_time_max`, `restart_limit` and `max_tasks_per_child` apply to a chunk as a whole, so with them the
                default is 1. However calls are sent, they share no arguments.
            buffersize: Read the iterables only as far as results are taken: so many calls are submitted whose results the
                caller has not taken, with `chunksize` so many chunks. The iterables may be endless. Without `chunksize`, calls
                are sent one by one. Default: no limit.
            unordered: Return results as they come, instead of in the order of the arguments.
            progress: Show a tqdm progress bar that counts the calls that have ended. A string is shown before the bar
                instead of the name of the function.
            cache: With a `cache_directory`, look there for the result of each call, and keep it there. Such calls are sent one
                by one if a future is among the arguments of one, or with `buffersize`.

        Raises:
            ValueError, TypeError: chunksize or buffersize is not a positive integer.
            ImportError: progress needs tqdm, which is not installed.
            concurrent.futures.TimeoutError: While iterating, after the timeout.
            Exception: While iterating, the exception of a call. The calls after it are cancelled. A note tells how many
                results had come.

        Examples:
            >>> with Executor(max_workers=2, block_allocation=True) as exe:
            ...     list(exe.map(pow, [1, 2, 3], [2, 2, 2]))
            [1, 4, 9]
        """
        options = {"timeout": timeout, "chunksize": chunksize, "buffersize": buffersize, "unordered": unordered}
        calls = self._new_map(fn, cache, options)
        return self._submit_map(calls, calls.columns(iterables), progress, cache)

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]] | futures.Future[Any],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        unordered: bool = False,
        progress: bool | str = False,
        cache: bool = True,
    ) -> Iterator[T]:
        """Return an iterator over fn(*arguments) for the arguments in iterable; everything else is as in `map`.

        Examples:
            >>> with Executor(max_workers=2, block_allocation=True) as exe:
            ...     list(exe.starmap(pow, [(2, 3), (2, 5, 7)]))
            [8, 4]
        """
        options = {"timeout": timeout, "chunksize": chunksize, "buffersize": buffersize, "unordered": unordered}
        calls = self._new_map(fn, cache, options)
        return self._submit_map(calls, calls.rows(iterable), progress, cache)

    def _new_map(self, fn: Callable[..., Any], cache: bool, options: dict[str, Any]) -> MapCalls:
        self._check_function(fn)
        workers = int(self._info["max_workers"]) if self._may_batch else None
        return MapCalls(
            fn,
            self._engine,
            self._resources,
            workers,
            cache=self._cache if Resources.check("cache", cache) else None,
            **options,
        )

    def _submit_map(self, calls: MapCalls, arguments: Arguments, progress: bool | str, cache: bool) -> Iterator[Any]:
        if self._info["detached"]:
            return self._submit_detached(calls, arguments, progress, cache)
        submit = self.submit
        if self._cache is not None and not cache:
            submit = partial(self.submit, resource_dict={"cache": False})
        if progress is False:
            return calls.submit(arguments, submit)
        from pympipool.diagnostics.progress import bar_options, with_progress

        bar = bar_options(progress, callable_name(calls.fn))
        if not isinstance(self._engine, Engine):  # without workers calls end while they are submitted
            return calls.submit(arguments, submit)
        return with_progress(partial(calls.submit, arguments), submit, self._engine, calls.count(arguments), bar)

    def _submit_detached(
        self, calls: MapCalls, arguments: Arguments, progress: bool | str, cache: bool
    ) -> Iterator[Any]:
        engine: Any = self._engine
        if not cache:
            raise ValueError("cache is False; a detached call is known by its key in the cache: leave it out")
        if progress is False:
            return calls.submit_together(arguments, engine.submit_map)
        from pympipool.diagnostics.progress import bar_options, with_progress

        def submit(_: Any, observed: Any, *_answered: Any) -> Iterator[Any]:
            return calls.submit_together(arguments, observed.submit_map)

        bar = bar_options(progress, callable_name(calls.fn))
        return with_progress(submit, self.submit, engine, calls.count(arguments), bar)

    @staticmethod
    def share(obj: T) -> Shared[T]:
        """Put an object into shared memory, once for all calls, workers and ranks of this host (see `pympipool.share`)."""
        from pympipool.serialization.shared import share

        return share(obj)

    @staticmethod
    def batched(iterable: Iterable[futures.Future[Any]], n: int) -> list[futures.Future[list[Any]]]:
        """Return futures of lists of n results, in the order in which the calls end (see `pympipool.batched`)."""
        from pympipool.execution.derived_futures import batched

        return batched(iterable, n)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill_workers: bool = False) -> None:
        """Refuse further calls, and end the workers after the last call has ended.

        Args:
            wait: Return only when all workers have ended.
            cancel_futures: Cancel the calls that no worker has started.
            kill_workers: Do not wait for calls: cancel those that no worker has started, and kill the workers (see
                `kill_workers`).
        """
        if kill_workers:
            self._kill(wait=wait)
            return
        self._engine.close(wait=wait, cancel=cancel_futures)
        if self._cache is not None:
            self._cache.close(wait=wait)

    def drain(self) -> None:
        """Begin no more calls, and hand those back that have not begun; return at once.

        What runs may end: its results come as usual, and then its worker ends. All other calls, those that wait for other calls
        included, end with `pympipool.errors.DrainedError`, which names what is left. So do calls that are submitted later. The
        chunks that `map` makes run whole.

        This is for the handler of a signal that announces the end of the job, and harmless at any moment of the script. Calls that
        are `detached` go on; the executor only takes no more of them.

        Examples:
            >>> import signal
            >>> with Executor(max_workers=1) as exe:
            ...     before = signal.signal(signal.SIGUSR1, lambda *_: exe.drain())
            ...     signal.raise_signal(signal.SIGUSR1)
            ...     call = exe.submit(pow, 2, 5)
            ...     print(type(call.exception()).__name__)
            DrainedError
        """
        self._engine.drain()

    def write_join_file(self, path: str | os.PathLike[str]) -> None:
        """Let further hosts join, such as those of a second job: write what `pympipool join PATH` needs there.

        Workers for which the other hosts have no room start on a host as soon as it has joined. So give a `max_workers` or
        `max_cores` that counts the cores of hosts that may come, or raise `max_workers` then. When `pympipool join` ends there, the
        host leaves, and its workers are lost.

        The file has the executor's key, with which anybody could run code as you: only you can read it. It goes with the executor.

        Args:
            path: Path of the file, in a folder that the hosts share.

        Raises:
            ValueError: Its workers are not those of hosts: it needs `hosts`, or a job of SLURM, PBS, LSF or Grid Engine.
            OSError: The file cannot be written.
            WorkerStartError: This host cannot listen for others.
            RuntimeError: After `shutdown`.

        Examples:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()  # elsewhere one that the other hosts see, too
            >>> with Executor(hosts=["localhost:1"], max_workers=9) as exe:
            ...     exe.write_join_file(f"{folder}/run.json")
        """
        from pympipool.pool.joining import write_join_file

        write_join_file(self._engine, self._backend, self._resources, path)

    def kill_workers(self) -> None:
        """Shut down now, whatever runs: kill the workers, and return when they have ended.

        Calls that no worker has started are cancelled. Those that run fail with WorkerDied.

        Examples:
            >>> import time
            >>> exe = Executor(max_workers=1)
            >>> call = exe.submit(time.sleep, 60)
            >>> exe.kill_workers()
            >>> call.done()
            True
        """
        self._kill()

    def _kill(self, wait: bool = True, grace_s: float = 0.0) -> None:
        self._engine.kill(wait=wait, grace_s=grace_s)
        if self._cache is not None:
            self._cache.close(wait=wait)

    def terminate_workers(self) -> None:
        """Shut down now like `kill_workers`, but give what runs the chance to tidy up.

        The workers are sent SIGTERM, which a function can handle. Those that have not ended 5 s later are killed.
        """
        self._kill(grace_s=TERMINATION_GRACE_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        """Shut down and wait for the calls. After Ctrl-C, kill running calls instead of waiting for them."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._end_interrupted()
            return False
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._end_interrupted()
            raise
        return False

    def _end_interrupted(self) -> None:
        """End what ends with the script after Ctrl-C: not the jobs of detached calls."""
        if self._info["detached"]:
            self.shutdown(wait=False)
        else:
            self._kill()

    def dashboard(self, *, port: int = 0, allowed_hosts: Sequence[str] = ()) -> Dashboard:
        """Serve a web page that shows what the executor does, as `pympipool top` does, to browsers on this host.

        The address has a secret, without which nothing is shown; keep it to yourself. In a notebook, the last line of a cell
        shows the page itself. It costs nothing while the page is not open. It ends with the executor.

        Args:
            port: Port to listen at, on 127.0.0.1. Default: any that is free.
            allowed_hosts: Further names under which browsers see it, such as that of a JupyterHub whose proxy serves it.

        Returns:
            An object with the address, `url`, and `close()`. The same one if the executor has a dashboard already.

        Raises:
            RuntimeError: After `shutdown`.
            ValueError, TypeError: An argument is wrong; the executor runs its calls in this process, or as jobs of their own.
            OSError: The port is taken.

        Examples:
            >>> with Executor(max_workers=1) as exe:
            ...     exe.dashboard().url
            'http://127.0.0.1:.../.../'
        """
        from pympipool.diagnostics.live.dashboard import open_dashboard

        if not isinstance(self._engine, Engine):
            raise ValueError(f"{self!r} has no workers to watch: a dashboard shows those of an executor that has some")
        return open_dashboard(self._engine, self._live_status, port, allowed_hosts)

    @property
    def info(self) -> dict[str, Any]:
        """The options of this executor, and its workers: number, host and process id of rank 0, and hosts of all ranks.

        Under "skipped_backends" it tells why `backend="auto"` did not select the backends that it prefers.

        Examples:
            >>> with Executor(max_workers=2) as exe:
            ...     exe.info["max_workers"], exe.info["workers"]
            (2, [])
        """
        return _options.ExecutorInfo(self._info, workers=self._engine.hosts())

    @property
    def max_workers(self) -> int:
        """Number of workers. Without block allocation: of calls on the cores of one worker that run at the same time.

        Can be set. Additional workers start immediately. Surplus workers end: idle ones first, the others after their
        call.

        Raises:
            RuntimeError: After `shutdown`.
            ValueError, TypeError: The number is wrong, there are too few GPUs, or a waiting call needs more cores.

        Examples:
            >>> with Executor(max_workers=1, block_allocation=True) as exe:
            ...     exe.max_workers = 2
            ...     exe.max_workers
            2
        """
        return int(self._info["max_workers"])

    @max_workers.setter
    def max_workers(self, number: int) -> None:
        number = _options.positive("max_workers", number)
        cores = number * self._resources.total_cores
        if self._block_allocation:
            self._check_devices(self._info["gpus_per_worker"], number)
        if not isinstance(self._backend, WorkerlessBackend):
            self._make_room_for(number, stacklevel=3)
        self._engine.resize(number, cores)
        self._info.update(max_workers=number, max_cores=cores)

    @property
    def _max_workers(self) -> int:
        """The name of `max_workers` in the executors of the standard library, which dask reads."""
        return self.max_workers

    def __len__(self) -> int:
        """Return the number of calls that were not sent to a worker yet."""
        return self._engine.waiting_count()

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Executor can neither be copied nor sent to another process: its workers are those of this one. Make it where it is"
            " used, in a call inside the function"
        )

    def __repr__(self) -> str:
        """Return a line with the options, the workers, and the numbers of waiting, running and ended calls."""
        if not self._info:
            return "<Executor that was not started>"
        if not isinstance(self._engine, Engine):
            return repr(self._engine)
        return status.as_text(self._snapshot(self._engine))

    def _repr_html_(self) -> str:
        """Return the same as a card for notebooks. An executor that draws its calls returns the graph."""
        if not isinstance(self._engine, Engine):
            return self._engine._repr_html_()
        return status.as_html(self._snapshot(self._engine))

    def _snapshot(self, engine: Engine) -> status.ExecutorStatus:
        return status.snapshot(engine, self._info, 0 if self._cache is None else self._cache.counts.found)


def _submit_none(_fn: object, _args: object, _kwargs: object) -> None:
    """Take the place of `Dispatcher.submit_small` in executors whose calls all have a longer way."""

"""The public face: `Executor`, a `concurrent.futures.Executor` to up-scale one function at a time.

What it is asked for is checked here and in `Resources`; what works behind it is an `Engine` over a pool of workers, which
the backend starts.
"""

from __future__ import annotations

import logging
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

from pympipool import _options
from pympipool._util.reprs import callable_name
from pympipool.backends.registry import Choice, choose, make_backend
from pympipool.diagnostics import status
from pympipool.diagnostics.graph import GraphRecorder, NullBackend
from pympipool.diagnostics.progress import options_of, with_progress
from pympipool.execution.batching import ArgumentColumns, in_adaptive_batches, in_chunks, one_by_one
from pympipool.execution.engine import Engine
from pympipool.pool.block_pool import BlockPool
from pympipool.pool.per_call_pool import PerCallPool
from pympipool.resources import ResourceAllocator, Resources, positive_seconds

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.backends.base import Backend

    Awaited: TypeAlias = "futures.Future[Any] | Iterable[futures.Future[Any]] | Mapping[Any, futures.Future[Any]]"

logging.getLogger("pympipool").addHandler(logging.NullHandler())  # what to do with messages is the user's to say

T = TypeVar("T")
P = ParamSpec("P")


class Executor(futures.Executor):
    """Runs Python functions, serial or MPI-parallel, in processes of their own.

    Each call gets a fresh process, or with `block_allocation` one of a fixed number of workers. All parameters are
    optional; without any, the cores of this machine are used.

    Args:
        max_workers: Number of workers, as in the standard library.
        max_cores: Total number of cores: the number of workers times `cores_per_worker`. Give one of the two;
            default: the cores that this process may use.
        cores_per_worker: MPI ranks of each worker, each on a core. With 2 or more the result of a call is the list of what
            its ranks returned, in rank order.
        threads_per_core: Threads that numerical libraries may use in each rank.
        gpus_per_worker: GPUs of each worker, seen by no other; a multiple of `cores_per_worker`.
        oversubscribe: Lets MPI start more ranks than there are cores.
        cwd: Working directory of the workers. Default: the master's.
        executor: A `flux.job.FluxExecutor` to submit to; only with flux. It must stay open as long as this executor.
        hostname_localhost: Workers connect to "localhost" only, so that SLURM can start them on this host alone. Workers
            of this machine connect without any name or address: it changes nothing for them.
        backend: Where workers run: "mpi" is this machine, "flux" and "slurm" wherever these start them; "auto" takes flux
            where an instance can be reached, or `executor` is given, else SLURM where its controller answers, else this
            machine (`info` says why others were passed over).
        block_allocation: Workers start once and serve many calls: for short calls, and for data to be loaded once.
        init_function: Called once in each worker before its first call (on every rank); returns a dict, whose items fill
            the parameters of that name that a call was not given. Only with `block_allocation`.
        command_line_argument_lst: Further arguments of srun; only with SLURM.
        pmi_mode: How the ranks of an MPI job find each other: the `pmi` option of flux's shell ("simple", "pmix", ...), or srun's
            `--mpi` ("pmi2", "pmix", ...). Default: what the MPI library that mpi4py loads needs.
        disable_dependencies: Do not look for futures among the arguments of calls; one is an error then.
        refresh_rate: Seconds; accepted for compatibility. Calls that wait for others are started by callback, so there is
            nothing left to refresh.
        run_time_max: Seconds that a call may run; then its worker is ended, and the call fails with TimeoutError.
        restart_limit: How often a call is tried again whose worker died while it ran.
        connect_timeout: Seconds that a worker may take from its start until it has connected; waiting in a scheduler's
            queue does not count.
        error_log_file: A file to which each call that raises is appended, by its worker: function, arguments (in a few
            hundred characters each) and traceback. On other hosts it must lie in a shared folder.
        plot_dependency_graph: Draws the graph of the calls instead of running them, in the notebook, as soon as the
            executor is shut down; `result()` raises RuntimeError.
        plot_dependency_graph_filename: Draws it to this file (SVG) instead.

    Raises:
        ValueError, TypeError: A parameter is wrong; says which, its value, and what is allowed.
        pympipool.errors.WorkerStartError: What the workers need is not installed; says what, and how to get it.

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
        cores_per_worker: int = 1,
        threads_per_core: int = 1,
        gpus_per_worker: int = 0,
        oversubscribe: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        executor: Any = None,
        hostname_localhost: bool | None = False,
        backend: str = "auto",
        block_allocation: bool = False,
        init_function: Callable[[], dict[str, Any]] | None = None,
        command_line_argument_lst: Sequence[str] = (),
        pmi_mode: str | None = None,
        disable_dependencies: bool = False,
        refresh_rate: float = 0.01,
        run_time_max: float | None = None,
        restart_limit: int = 0,
        connect_timeout: float = 60.0,
        error_log_file: str | os.PathLike[str] | None = None,
        plot_dependency_graph: bool = False,
        plot_dependency_graph_filename: str | os.PathLike[str] | None = None,
    ) -> None:
        self._info: dict[str, Any] = {}
        cores_per_worker = Resources.check("cores", cores_per_worker, "cores_per_worker")
        said: dict[str, Any] = {  # of any type, until it is checked
            "cores": cores_per_worker,
            "threads_per_core": threads_per_core,
            "gpus_per_core": _options.gpus_per_core(gpus_per_worker, cores_per_worker),
            "oversubscribe": oversubscribe,
            "cwd": cwd,
            "executor": executor,
            "hostname_localhost": hostname_localhost,
            "command_line_argument_lst": command_line_argument_lst,
            "pmi_mode": pmi_mode,
            "run_time_max": run_time_max,
            "restart_limit": restart_limit,
            "connect_timeout": connect_timeout,
            "error_log_file": error_log_file,
        }
        self._resources = Resources(**said)
        Resources.check("oversubscribe", block_allocation, "block_allocation")
        Resources.check("oversubscribe", disable_dependencies, "disable_dependencies")
        positive_seconds("refresh_rate", refresh_rate)
        drawn = _options.is_drawn(plot_dependency_graph, plot_dependency_graph_filename, disable_dependencies)
        choice = Choice(backend, {}) if drawn else choose(backend, executor)
        self._backend: Backend = NullBackend(backend) if drawn else make_backend(choice.name)
        self._backend.check(self._resources)
        workers, cores = _options.count_workers(max_workers, max_cores, cores_per_worker, self._backend)
        self._ledger: ResourceAllocator[Any] = ResourceAllocator(
            cores=cores, counts_devices=not self._backend.assigns_devices
        )
        if gpus_per_worker and not self._backend.assigns_devices:
            _options.check_devices(gpus_per_worker, workers if block_allocation else 1, len(self._ledger.devices.names))
        settings = {
            "cwd": None,
            "main_path": sys.argv[0] if sys.argv else "",
            "init_function": _options.pickled_init_function(init_function, block_allocation),
        }
        self._engine: Engine | GraphRecorder
        if drawn:
            self._engine = GraphRecorder(plot_dependency_graph_filename)
        else:
            make_pool = self._block_pool(workers, settings) if block_allocation else self._single_pool(settings)
            self._engine = Engine(make_pool, resolve_dependencies=not disable_dependencies, executor_info=self._info)
        self._info |= {
            "backend": self._backend.name,
            "passed_over": choice.skipped,
            "block_allocation": block_allocation,
            "max_workers": workers,
            "max_cores": cores,
            "cores_per_worker": cores_per_worker,
            "threads_per_core": threads_per_core,
            "gpus_per_worker": gpus_per_worker,
            "oversubscribe": oversubscribe,
            "cwd": self._resources.cwd,
            "run_time_max": run_time_max,
            "restart_limit": restart_limit,
        }
        self._block_allocation = block_allocation
        self._checked: object = None
        self._forgotten = weakref.finalize(self, self._engine.close, wait=False)
        self._forgotten.atexit = False  # then it is closed too, but waited for

    def _block_pool(self, workers: int, settings: dict[str, Any]) -> Callable[[Dispatcher], BlockPool]:
        spawner = self._backend.for_block(self._resources)
        return lambda dispatcher: BlockPool(
            dispatcher,
            spawner,
            max_workers=workers,
            resources=self._resources,
            allocator=self._ledger,
            settings={**settings, "one_call": False},
        )

    def _single_pool(self, settings: dict[str, Any]) -> Callable[[Dispatcher], PerCallPool]:
        self._backend.for_call(self._resources)  # what is not installed is an error now, not at the first call
        return lambda dispatcher: PerCallPool(dispatcher, self._backend, self._ledger, settings)

    # For type checkers and editors. Arguments are checked against the function's own signature; not so where one of the
    # first three is a future, which stands for its result, nor beside a resource_dict, which PEP 612 cannot tell from
    # the function's own keywords: resource_dict=None is there for whoever wants no check (init_function gives the rest).
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(  # type: ignore[overload-cannot-match]  # mypy takes P for any parameters; so below
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
        """Queues fn(*args, **kwargs) and returns the future of its result.

        Futures anywhere in the arguments (also inside lists, tuples, sets and dicts) are replaced by their results before
        the call runs; it fails, or is cancelled, with the first of them that does. Large arrays are read when the
        call is sent: do not change them before it has ended.

        Args:
            fn: Any callable; must not have a parameter called `resource_dict`.
            resource_dict: What this call needs, over what the executor was made with; not with `block_allocation`.
                Keys as the parameters of `pympipool.resources.Resources`.

        Raises:
            RuntimeError: After `shutdown`.
            TypeError, ValueError: fn cannot be called, or resource_dict is wrong, or asks for more than there is.
        """
        if fn is not self._checked:
            self._check_function(fn)
        resources = self._resources
        if resource_dict is not None:
            resources = Resources.from_dict(resource_dict, resources)
            if self._block_allocation and resource_dict:
                raise ValueError(
                    f"resource_dict is {resource_dict!r}; with block_allocation=True all workers are alike: set the"
                    " resources on the executor, or use block_allocation=False"
                )
            self._backend.check(resources)
            self._ledger.check(resources)
        return self._engine.submit(fn, args, kwargs, resources)

    def _check_function(self, fn: Callable[..., Any]) -> None:
        if _options.takes_resource_dict(fn):
            raise ValueError(
                f"{fn!r} has a parameter called resource_dict, which submit() takes for itself: rename the parameter"
            )
        self._checked = fn if isinstance(fn, types.FunctionType) and fn.__closure__ is None else None

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[T]:
        """Like map(fn, *iterables), but the calls run on the workers.

        The iterables are exhausted now, and the calls run whether or not results are asked for; the iterator waits for
        the results, in order.

        Args:
            timeout: Seconds from now until the last result must be there.
            chunksize: Calls that travel together, in one pickle: an object that several of them have is one object there, and
                what one call does to it, the next one finds. None: each call by itself; but with block allocation, where all
                arguments are numbers, texts, and tuples of these, as many together as take a few milliseconds, found out from
                how long they take. Calls on several cores always travel alone. `run_time_max` and `restart_limit` concern
                what travels together as a whole: with them, None means 1.
            progress: Shows a bar of tqdm's, which counts what has ended; a text stands before it instead of the name
                of the function.

        Raises:
            ValueError, TypeError: chunksize is no positive integer.
            ImportError: With progress, where tqdm is not installed.
            concurrent.futures.TimeoutError: While iterating, when the time is over.
            Exception: While iterating, what a call raised; the calls after it are cancelled.
        """
        deadline_s = None if timeout is None else monotonic() + timeout
        if chunksize is not None:
            chunksize = _options.check_chunksize(chunksize)
        self._check_function(fn)
        self._engine.check_usable(fn)
        begin = partial(self._begin_map, fn, chunksize, deadline_s)
        options = options_of(progress, callable_name(fn))
        if isinstance(self._engine, GraphRecorder):
            return one_by_one(self.submit, fn, ArgumentColumns(iterables), deadline_s)
        if options is None:
            return begin(iterables, self.submit, self._engine)
        columns = ArgumentColumns(iterables)
        return with_progress(partial(begin, columns.lists), self.submit, self._engine, len(columns), options)

    def _begin_map(
        self,
        fn: Callable[..., T],
        chunksize: int | None,
        deadline_s: float | None,
        iterables: Sequence[Iterable[Any]],
        submit: Callable[..., Any],
        engine: Engine,
    ) -> Iterator[T]:
        """Submits the calls of a map, in batches where that makes no difference to the user."""
        if chunksize is not None and chunksize > 1 and self._resources.cores == 1:
            return in_chunks(engine, submit, fn, iterables, self._resources, chunksize, deadline_s)
        columns = ArgumentColumns(iterables)
        if self._resources.cores > 1 or chunksize == 1 or columns.have_futures():
            return one_by_one(submit, fn, columns, deadline_s)
        if not self._block_allocation or self._resources.run_time_max is not None or self._resources.restart_limit:
            return one_by_one(submit, fn, columns, deadline_s)
        if not columns.all_immutable():
            return one_by_one(submit, fn, columns, deadline_s)
        return in_adaptive_batches(engine, fn, columns, self._info["max_workers"], deadline_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers when those that are there have ended.

        Args:
            wait: Return only when the workers are gone.
            cancel_futures: Cancel the calls that no worker has begun.
        """
        self._engine.close(wait=wait, cancel=cancel_futures)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        """Shuts down and waits; after Ctrl-C, ends what runs instead of waiting for it."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._engine.kill()
        else:
            self.shutdown(wait=True)
        return False

    @property
    def info(self) -> dict[str, Any]:
        """What this executor was made with, and its workers: number, host and process id of rank 0, and hosts of all ranks."""
        return {**self._info, "workers": self._engine.hosts()}

    @property
    def max_workers(self) -> int:
        """Number of workers; without block allocation, of calls on `cores_per_worker` cores that run at the same time.

        Can be set. Missing workers start at once; of too many the idle ones end first, the others after their call.

        Raises:
            RuntimeError: After `shutdown`.
            ValueError, TypeError: There are too few GPUs for so many, or a call that waits needs more cores; as for the class.

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
        gpus, cores = self._info["gpus_per_worker"], number * self._info["cores_per_worker"]
        if gpus and self._block_allocation and not self._backend.assigns_devices:
            _options.check_devices(gpus, number, len(self._ledger.devices.names))
        self._engine.resize(number, cores)
        self._info.update(max_workers=number, max_cores=cores)

    @property
    def _max_workers(self) -> int:
        """The standard library's executors have it under this name, and dask asks for it."""
        return self.max_workers

    def __len__(self) -> int:
        """Number of calls that no worker has been given yet."""
        return self._engine.waiting_count()

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Executor can neither be copied nor sent to another process: its workers are those of this one. Make it where it is"
            " used, in a call inside the function"
        )

    def __repr__(self) -> str:
        """What it was made with, its workers, and what has become of the calls."""
        if not self._info:
            return "<Executor that was not started>"
        if isinstance(self._engine, GraphRecorder):
            return repr(self._engine)
        return status.as_text(status.snapshot(self._engine, self._info))

    def _repr_html_(self) -> str:
        """The same, as a card for notebooks; the graph, where calls are drawn."""
        if isinstance(self._engine, GraphRecorder):
            return self._engine._repr_html_()
        return status.as_html(status.snapshot(self._engine, self._info))

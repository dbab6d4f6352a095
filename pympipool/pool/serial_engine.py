"""The engine of `backend="serial"`: it runs each call at once, in the thread that submits it.

    submit ─► wait for futures among the arguments ─► check that the call can be pickled ─► run it ─► a future that is done

For debuggers, profilers and coverage: breakpoints, prints and post-mortem analysis work as in a plain function call. What
workers would refuse or hide is refused and hidden here too: a call or a result that cannot be pickled is an error, and
arguments and results are copies.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent import futures
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._util.reprs import callable_name
from pympipool.errors import SerializationError
from pympipool.execution.dependencies import InputError, has_result, is_cancelled
from pympipool.execution.workerless import WorkerlessEngine
from pympipool.serialization import describe_shared, has_shared, payload
from pympipool.serialization.exception_forms import copy_exception
from pympipool.serialization.exceptions import dump_exception, load_exception
from pympipool.serialization.future_search import find_futures, resolve
from pympipool.serialization.inputs import Input, inputs_from
from pympipool.serialization.plain import Pickled
from pympipool.worker.injection import inject_arguments
from pympipool.worker.setup import check_init_values

if TYPE_CHECKING:
    from pympipool._options import Options
    from pympipool.execution.interfaces import CallEntry, InputResults
    from pympipool.resources import Resources


class SerialEngine(WorkerlessEngine):
    """Runs the calls of one executor in the threads that submit them.

    Args:
        options: Those of the executor. Its initializer and init_function run once, before the first call.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._init_values: dict[str, Any] | None = None
        self._init_error: BaseException | None = None
        self.resolve_dependencies = not options.disable_dependencies
        self._ended = self._failed = 0

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None = None,
        cache_entry: CallEntry | None = None,
    ) -> Future[Any]:
        """Run a call, and return its future, which is done.

        Raises:
            RuntimeError: After `close`.
            TypeError: fn is not callable, or a future is among the arguments of an engine that does not resolve them.
            KeyboardInterrupt: Ctrl-C, while the call runs.
        """
        self.check_usable(fn)
        future: Future[Any] = Future()
        inputs = find_futures(args, kwargs)
        if inputs:
            self.check_resolves(callable_name(fn))
        pickled = _pickled_now(args, kwargs, inputs)
        futures.wait(inputs)
        failed = next((one for one in inputs if not has_result(one)), None)
        if failed is not None and is_cancelled(failed):
            future.cancel()
            future.set_running_or_notify_cancel()
            return future
        future.set_running_or_notify_cancel()
        try:
            if failed is None:
                get = partial(_result_for, None if cache_entry is None else cache_entry.input_results())
                if pickled is None:
                    args, kwargs = resolve(args, kwargs, get)
                else:
                    with inputs_from([get(one) for one in inputs].__getitem__):
                        args, kwargs = pickle.loads(pickled)
                future.set_result(self._run_and_retry(future, fn, args, kwargs, resources))
            else:
                self._failed += 1
                future.set_exception(InputError(failed)())
        except KeyboardInterrupt:
            raise  # as from a plain function call
        except BaseException as error:  # SystemExit too, as in a worker
            self._failed += 1
            future.set_exception(error)
        self._ended += 1
        return future

    def _run_and_retry(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None,
    ) -> Any:
        values = self._values()
        while True:
            try:
                return self._run(fn, args, kwargs, resources, values)
            except BaseException as error:
                if resources is None or future.attempts > resources.retries or isinstance(error, KeyboardInterrupt):
                    raise
                if not isinstance(error, resources.retry_on):
                    raise
                future.add_failure(error)
                sleep(resources.retry_delay)

    def _run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None,
        values: dict[str, Any],
    ) -> Any:
        payload.dump_call(0, fn, args, kwargs, True)  # raises if it cannot be pickled
        fn = _with_shared(fn)
        parts = payload.dump_call(1, fn, args, kwargs, True)
        args, kwargs = payload.load_copy(parts) if has_shared(parts[0]) else _copied((args, kwargs))
        function = inject_arguments(fn, values)
        folder = None if resources is None else resources.cwd
        before = os.getcwd() if folder is not None else None
        try:
            if folder is not None:
                os.chdir(folder)
            result = function(*args, **kwargs)
        finally:
            if before is not None:
                os.chdir(before)
        parts = payload.dump(result, "the result")
        return payload.load_copy(parts) if has_shared(parts[0]) else _copied(result)

    def _values(self) -> dict[str, Any]:
        """Run the initializer and init_function before the first call. Return what is passed to calls.

        Raises:
            BrokenProcessPool: One of them has raised, now or before.
        """
        if self._init_values is not None:
            return self._init_values
        if self._init_error is not None:
            raise copy_exception(self._init_error)
        name, initializer, init_function = "initializer", self._options.initializer, self._options.init_function
        try:
            if initializer is not None:
                initargs = self._options.initargs
                copied = _with_shared(initargs)
                initializer(*(copied if copied is not initargs else _copied(initargs)))
            name = "init_function"
            self._init_values = (
                {} if init_function is None else check_init_values(init_function, _with_shared(init_function)())
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too, as in a worker
            from concurrent.futures.process import BrokenProcessPool

            self._init_error = BrokenProcessPool(f"{name} failed, so no call runs: {type(error).__name__}: {error}")
            self._init_error.__cause__ = load_exception(dump_exception(error, ""))  # without frames: they keep the call
            raise copy_exception(self._init_error) from error
        return self._init_values

    def waiting_count(self) -> int:
        """Return 0: a submitted call has run."""
        return 0

    def close(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Refuse further calls."""
        self.is_open = False

    def __repr__(self) -> str:
        state = "open" if self.is_open else "shut down"
        done = self._ended - self._failed
        parts = f"{done} done, {self._failed} failed", state, describe_shared()
        return f"<Executor backend='serial', runs calls in this process; {'; '.join(filter(None, parts))}>"

    def _repr_html_(self) -> str:
        return f"<code>{repr(self)[1:-1]}</code>"


def _pickled_now(args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[futures.Future[Any]]) -> bytes | None:
    """Pickle the arguments of a call that has to wait: another thread may change them. None: there is no need, or no way."""
    if all(one.done() for one in inputs):
        return None
    stand_ins = {id(one): Input(number) for number, one in enumerate(inputs)}
    try:
        pickled = pickle.dumps(resolve(args, kwargs, lambda one: stand_ins[id(one)]), pickle.HIGHEST_PROTOCOL)
    except Exception:  # as in `_copied`
        return None
    return None if has_shared(pickled) else pickled


def _result_for(get: InputResults | None, one: futures.Future[Any]) -> Any:
    """Return the result of an input of a call."""
    found = None if get is None else get(one)
    if found is None:
        return one.result()
    (value,) = found
    return payload.load_copy(value.parts) if type(value) is Pickled else value


def _copied(value: Any) -> Any:
    """Return a copy of arguments or of a result, as a worker and the master have copies: views of one array become arrays."""
    try:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception:  # a function or class that is sent by value, for example; any class may raise anything
        pass
    try:
        parts = payload.dump(value)
    except SerializationError:  # objects of multiprocessing, which workers inherit
        return value
    return payload.load_copy(parts)


def _with_shared(value: Any) -> Any:
    """Return a copy that has shared objects in the place of their handles; the value itself if there are none."""
    try:
        parts = payload.dump_call(0, value, (), {})
    except SerializationError:  # objects of multiprocessing, which workers inherit
        return value
    return payload.load_copy(parts)[0] if has_shared(parts[0]) else value

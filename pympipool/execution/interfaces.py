"""What an engine asks of its pool of workers, and of what submits calls later; what a map asks of a cache of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture
    from typing import TypeAlias

    from pympipool._core.calls import FunctionHandle
    from pympipool._core.future import Future
    from pympipool._core.mailbox import Mailbox
    from pympipool.resources import Resources
    from pympipool.serialization.payload import PackedColumns

    InputResults: TypeAlias = Callable[[StandardFuture[Any]], tuple[Any] | None]
    """Returns the result of an input of a call, or its pickle, in a tuple; None: as the future has it."""


class Pool(Protocol):
    """The interface between an engine and its pool of workers (see `pympipool.pool`).

    Attributes:
        keeps_functions: True if workers outlive a call, so that each function needs to be sent only once.
        restart_limit: Number of retries of a call whose worker has died, if workers outlive a call.
        mailbox: The mailbox of the supervisor.
    """

    keeps_functions: bool
    restart_limit: int
    mailbox: Mailbox

    def open(self) -> None: ...
    def start_workers(self) -> None: ...
    def abandon(self) -> None: ...
    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None: ...
    def call_later(self, delay_s: float, function: Callable[[], object]) -> None: ...
    def waiting_count(self) -> int: ...
    def waiting_futures(self) -> list[Future[Any]]: ...
    def unfinished_count(self) -> int: ...
    def cancel_waiting(self) -> None: ...
    def drain(self, hand_back: Callable[[list[Future[Any]]], object]) -> None: ...
    def close(self, pending: Callable[[], int]) -> None: ...
    def kill(self, *, grace_s: float = 0.0) -> None: ...
    def kill_requested_workers(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
    def wait_closed(self, timeout_s: float) -> bool: ...
    def describe_rest(self) -> str: ...
    def hosts(self) -> list[dict[str, Any]]: ...
    def states(self) -> list[dict[str, Any]]: ...
    def show(self, report: Callable[[], bytes]) -> None: ...
    def call_when_closed(self, function: Callable[[], object]) -> None: ...
    def resize(self, workers: int, cores: int) -> None: ...


class PendingSource(Sized, Protocol):
    """Submits calls later that the user has requested already, as `map` does. Its length is the number of these calls.

    Attributes:
        function_name: Name of their function.
    """

    function_name: str

    def cancel_rest(self, reason: BaseException | None = None) -> None:
        """Submit no more calls.

        Args:
            reason: The exception for threads that wait for them; None: that they were cancelled.
        """


class CallEntry(Protocol):
    """What a call has of a cache of results, if its result will be stored."""

    def input_results(self) -> InputResults:
        """Return what gives the results of the inputs of the call. They are to be pickled: nobody may write to them."""


class MapCache(Protocol):
    """A cache of results, as a map uses it (see `pympipool.caching`)."""

    def look_up(
        self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]], resources: Resources
    ) -> MapAnswers | None:
        """Return what is known of some calls; None: they must be submitted one by one."""

    def directory_for(self, fn: Callable[..., Any]) -> str | None:
        """Return the directory in which the results of a function are kept; None if they are not."""


class MapAnswers(Protocol):
    """What a cache knows of the calls of a map."""

    def runs(self) -> list[tuple[bool, int, int]]:
        """Return the runs of calls that are answered (True), or are not: number of the first, and of the one behind the last."""

    def results(self, begin: int, end: int) -> Any:
        """Return the results of answered calls, which has a length."""

    def keyed(self, columns: PackedColumns, begin: int = 0) -> PackedColumns:
        """Return the arguments of calls that are not answered as `engine` takes them.

        Args:
            columns: The arguments of some of these calls.
            begin: The number of the first of them among all that are not answered.
        """

    def engine(self, engine: Any) -> Any:
        """Return an engine whose batches are stored."""

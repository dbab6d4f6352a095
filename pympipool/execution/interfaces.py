"""What an engine asks of its pool of workers, and of what submits calls later."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.future import Future
    from pympipool._core.mailbox import Mailbox
    from pympipool.resources import Resources


class Pool(Protocol):
    """The interface between an engine and its pool of workers (see `pympipool.pool`).

    Attributes:
        keeps_functions: True if workers outlive a call, so that each function needs to be sent only once.
        mailbox: The mailbox of the supervisor.
    """

    keeps_functions: bool
    mailbox: Mailbox

    def open(self) -> None: ...
    def abandon(self) -> None: ...
    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None: ...
    def waiting_count(self) -> int: ...
    def waiting_futures(self) -> list[Future[Any]]: ...
    def unfinished_count(self) -> int: ...
    def cancel_waiting(self) -> None: ...
    def close(self, pending: Callable[[], int]) -> None: ...
    def kill(self, *, grace_s: float = 0.0) -> None: ...
    def kill_requested_workers(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
    def wait_closed(self, timeout_s: float) -> bool: ...
    def describe_rest(self) -> str: ...
    def hosts(self) -> list[dict[str, Any]]: ...
    def states(self) -> list[dict[str, Any]]: ...
    def resize(self, workers: int, cores: int) -> None: ...


class PendingSource(Sized, Protocol):
    """Submits calls later that the user has requested already, as `map` does. Its length is the number of these calls."""

    def cancel_rest(self) -> None:
        """Submit no more calls."""

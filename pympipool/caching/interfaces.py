"""What the cache asks of the engines behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.resources import Resources
    from pympipool.serialization.payload import PackedColumns


class CallEngine(Protocol):
    """The interface between the cache and the engine of an executor (see `pympipool.execution.engine`).

    Attributes:
        resolve_dependencies: Futures among the arguments stand for their results.
        has_workers: Else calls have ended when they are submitted.
    """

    has_workers: bool
    resolve_dependencies: bool

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None = None,
        cache_entry: Any = None,
    ) -> Future[Any]: ...
    def check_usable(self, fn: Callable[..., Any]) -> None: ...


class BatchEngine(Protocol):
    """The interface between the cache and the engine that runs the batches of a map."""

    def freeze_function(self, fn: Callable[..., Any], *, in_full: bool = False) -> Any: ...
    def submit_batch(self, fn: Any, columns: PackedColumns, resources: Resources | None) -> Future[Any]: ...

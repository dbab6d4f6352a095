"""Makes the pool of an executor: of block allocation, or with a worker for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pympipool.pool.block_pool import BlockPool
from pympipool.pool.per_call_pool import PerCallPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.dispatcher import Dispatcher
    from pympipool._options import Options
    from pympipool.backends.base import Backend
    from pympipool.resources import ResourceAllocator


def pool_maker(
    options: Options,
    backend: Backend,
    allocator: ResourceAllocator[Any],
    workers: int,
    start_functions: dict[str, Any],
    left_results: tuple[str, str, int] | None,
) -> Callable[[Dispatcher], BlockPool | PerCallPool]:
    """Return a function that makes the pool for a dispatcher.

    Args:
        options: The executor's.
        workers: The number of workers of block allocation.
        start_functions: The pickles of initializer and init_function, or None.
        left_results: Where workers may leave large results for a cache (see `caching/handover.py`); None: nowhere.

    Raises:
        WorkerStartError: Something that the workers need is not installed.
    """
    resources = options.resources
    settings = {
        "cwd": None,
        **start_functions,
        "thread_name_prefix": options.thread_name_prefix,
        "left_results": left_results,
    }
    if not options.block_allocation:
        backend.for_call(resources)  # raises now if something is not installed, not at the first call
        return lambda dispatcher: PerCallPool(dispatcher, backend, allocator, settings)
    spawner = backend.for_block(resources)
    return lambda dispatcher: BlockPool(
        dispatcher,
        spawner,
        max_workers=workers,
        idle_timeout_s=options.idle_timeout,
        replaces_state=options.on_worker_replaced == "restart",
        resources=resources,
        allocator=allocator,
        settings={**settings, "max_calls": options.max_tasks_per_child or 0, "announces_last": True},
    )

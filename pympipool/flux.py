"""Executors of flux under other names: `PyFluxExecutor` of older scripts, and `FluxClusterExecutor` of executorlib.

New scripts use `pympipool.Executor`, which has all the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pympipool._options import given, suggest_parameter
from pympipool.executor import Executor

if TYPE_CHECKING:
    import os

__path__: list[str] = []  # it was a package once: see `pympipool._util.former_names`

__all__ = ["FluxClusterExecutor", "PyFluxExecutor"]


class PyFluxExecutor(Executor):
    """An `Executor` with block allocation, whose workers flux starts.

    The parameters are those of `Executor`, which documents them.

    Raises:
        pympipool.errors.WorkerStartError: flux cannot be used here.
        TypeError: As for `Executor`.
        ValueError: As for `Executor`.
    """

    @suggest_parameter
    def __init__(
        self,
        max_workers: int = 1,
        cores_per_worker: int = 1,
        threads_per_core: int = 1,
        gpus_per_worker: int = 0,
        init_function: Callable[[], dict[str, Any]] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        executor: Any = None,
        hostname_localhost: bool | None = False,
        pmi_mode: str | None = None,
    ) -> None:
        super().__init__(**given(locals()), backend="flux", block_allocation=True)


class FluxClusterExecutor(Executor):
    """An `Executor` whose calls are jobs of flux that outlive the script, as that of executorlib.

    The parameters are those of `Executor`, which documents them. See docs/detached.md.

    Raises:
        pympipool.errors.WorkerStartError: flux cannot be used here.
        TypeError: As for `Executor`.
        ValueError: As for `Executor`.
    """

    @suggest_parameter
    def __init__(
        self,
        max_workers: int | None = None,
        cache_directory: str | os.PathLike[str] = "cache",
        max_cores: int | None = None,
        resource_dict: Mapping[str, Any] | None = None,
        *,
        cores_per_worker: int = 1,
        threads_per_core: int = 1,
        gpus_per_worker: int = 0,
        cwd: str | os.PathLike[str] | None = None,
        pmi_mode: str | None = None,
        run_time_max: float | None = None,
        num_nodes: int | None = None,
        exclusive: bool | None = False,
        priority: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        time_limit: float | None = None,
        submission_template: str | None = None,
        disable_dependencies: bool = False,
        refresh_rate: float = 0.01,
        plot_dependency_graph: bool = False,
        plot_dependency_graph_filename: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(**given(locals()), backend="flux", detached=True)

"""`PyFluxExecutor`: an executor whose workers flux starts, under the name that older scripts use.

New scripts use `pympipool.Executor`, which has all the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pympipool._options import given, suggest_parameter
from pympipool.executor import Executor

if TYPE_CHECKING:
    import os

__path__: list[str] = []  # it was a package once: see `pympipool._util.former_names`

__all__ = ["PyFluxExecutor"]


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

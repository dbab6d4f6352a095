"""`PyMPIExecutor`: an executor whose workers run on this machine, under the name that older scripts use.

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

__all__ = ["PyMPIExecutor"]


class PyMPIExecutor(Executor):
    """An `Executor` with block allocation, whose workers run on this machine.

    The parameters are those of `Executor`, which documents them.

    Examples:
        >>> with PyMPIExecutor(max_workers=1) as exe:
        ...     exe.submit(sum, [1, 1]).result()
        2
    """

    @suggest_parameter
    def __init__(
        self,
        max_workers: int = 1,
        cores_per_worker: int = 1,
        oversubscribe: bool = False,
        init_function: Callable[[], dict[str, Any]] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        hostname_localhost: bool | None = False,
    ) -> None:
        super().__init__(**given(locals()), backend="mpi", block_allocation=True)

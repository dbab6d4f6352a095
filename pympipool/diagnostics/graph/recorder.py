"""Record the calls of an executor instead of running them, and draw their graph when the executor is closed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future as StandardFuture
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._util.reprs import callable_name
from pympipool.backends.base import WorkerlessBackend
from pympipool.backends.registry import BACKENDS, make_backend
from pympipool.diagnostics.graph.nodes import Node, summarize_arguments
from pympipool.diagnostics.graph.svg import as_svg
from pympipool.execution.workerless import WorkerlessEngine
from pympipool.serialization.future_search import find_futures

if TYPE_CHECKING:
    from pympipool.resources import Resources

NO_RESULT = (
    "this executor draws calls instead of running them (plot_dependency_graph=True), so there is no result: request results"
    " only without it"
)


class NullBackend(WorkerlessBackend):
    """The backend of an executor that draws calls. It accepts everything, because a drawing needs no installed backend.

    Args:
        name: Name of the backend that the executor was made for.
    """

    def __init__(self, name: str) -> None:
        if name not in ["auto", *BACKENDS]:
            make_backend(name)  # raises an error that names the mistake
        self.name = name

    def check(self, resources: Resources) -> None:
        """Accept all resources."""


class GraphRecorder(WorkerlessEngine):
    """Records the calls of an executor instead of an engine that runs them, and draws them when it is closed.

    Args:
        filename: File to write; None to draw in the notebook.

    Raises:
        ValueError: This process has no notebook to draw in, or the file cannot be written there.
    """

    def __init__(self, filename: str | os.PathLike[str] | None) -> None:
        self.filename = None if filename is None else _checked(filename)
        if self.filename is None and not _in_notebook():
            raise ValueError(
                "plot_dependency_graph=True draws in notebooks; elsewhere, set plot_dependency_graph_filename='graph.svg'"
            )
        self.nodes: list[Node] = []
        self._numbers: dict[StandardFuture[Any], int] = {}
        self._lock = threading.Lock()

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None = None,
    ) -> Future[Any]:
        """Record a call. The exception of its future says why there is no result."""
        self.check_usable(fn)
        future: Future[Any] = Future()
        future.set_exception(RuntimeError(NO_RESULT))
        with self._lock:
            inputs = frozenset(self._number_of(one) for one in find_futures(args, kwargs))
            note = "" if resources is None or resources.cores == 1 else f"{resources.cores} cores"
            self.nodes.append(Node(callable_name(fn), summarize_arguments(args, kwargs), inputs, note))
            self._numbers[future] = len(self.nodes) - 1
        return future

    def _number_of(self, future: StandardFuture[Any]) -> int:
        if future not in self._numbers:
            self.nodes.append(Node("a future from elsewhere"))
            self._numbers[future] = len(self.nodes) - 1
        return self._numbers[future]

    def waiting_count(self) -> int:
        """Return the number of recorded calls."""
        return len(self.nodes)

    def drain(self) -> None:
        """Do nothing: no call runs."""

    def close(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Draw the recorded calls, once."""
        with self._lock:
            was_open, self.is_open = self.is_open, False
        if not was_open:
            return
        if self.filename is not None:
            with open(self.filename, "w", encoding="utf-8") as file:
                file.write(as_svg(self.nodes, alone=True))
        else:
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        calls = f"{len(self.nodes)} calls" if len(self.nodes) != 1 else "1 call"
        return f"<Executor that draws calls instead of running them: {calls}>"

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{as_svg(self.nodes)}</div>'


def _checked(filename: str | os.PathLike[str]) -> str:
    path: Any = os.fspath(filename)
    if not isinstance(path, str) or not path.lower().endswith(".svg"):
        raise ValueError(
            f"plot_dependency_graph_filename is {filename!r}; it must end in .svg, the only format that is written"
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(
            f"plot_dependency_graph_filename is {filename!r}; the folder {folder} does not exist: create it first"
        )
    return os.path.abspath(path)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None

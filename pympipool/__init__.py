"""Up-scale Python functions, serial or MPI-parallel, with the interface of concurrent.futures.

    >>> from pympipool import Executor
    >>> with Executor(max_workers=1, block_allocation=True) as exe:
    ...     exe.submit(sum, [1, 1]).result()
    2

Public names, and nothing else. They are imported at their first use: a worker is the program
`pympipool.worker`, and must not pay for an executor that it never has.
"""

TYPE_CHECKING = False  # to type checkers it is true; see light.py
if TYPE_CHECKING:
    from pympipool import errors
    from pympipool.diagnostics.progress import progress
    from pympipool.diagnostics.tracing.session import trace
    from pympipool.executor import Executor
    from pympipool.shell import ShellExecutor, SubprocessExecutor

__all__ = ["Executor", "ShellExecutor", "SubprocessExecutor", "__version__", "errors", "progress", "trace"]

__version__ = "0.9.0.dev0"

_HOMES = {
    "Executor": "pympipool.executor",
    "ShellExecutor": "pympipool.shell",
    "SubprocessExecutor": "pympipool.shell",
    "errors": "pympipool.errors",
    "progress": "pympipool.diagnostics.progress",
    "trace": "pympipool.diagnostics.tracing.session",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_nearest(name)}")
    from importlib import import_module

    module = import_module(home)
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def _nearest(name: str) -> str:
    if name.startswith("_"):  # which programs ask for, to see whether it is there; also a module not imported yet
        return ""
    from pympipool._util.reprs import did_you_mean

    return did_you_mean(name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

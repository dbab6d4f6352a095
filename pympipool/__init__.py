"""Up-scale Python functions, serial or MPI-parallel, with the interface of concurrent.futures.

    >>> from pympipool import Executor
    >>> with Executor(max_workers=1, block_allocation=True) as exe:
    ...     exe.submit(sum, [1, 1]).result()
    2

This module contains the public names only. Each is imported at its first use: a worker runs the program
`pympipool.worker`, and must not pay for importing an executor that it never uses.
"""

import sys as _sys

from pympipool._util import undo_monkey_patches

TYPE_CHECKING = False  # type checkers read it as True; so a worker need not import typing
if TYPE_CHECKING:
    from types import ModuleType

    from pympipool import errors
    from pympipool.caching.reading import get_cache_data, get_future_from_cache
    from pympipool.diagnostics.progress import progress
    from pympipool.diagnostics.tracing.session import trace
    from pympipool.execution.derived_futures import batched, get_item_from_future, split_future
    from pympipool.executor import Executor
    from pympipool.flux import FluxClusterExecutor
    from pympipool.serialization.shared import Shared, share
    from pympipool.serialization.shared_arrays import shared_array
    from pympipool.shell import ShellExecutor, SubprocessExecutor
    from pympipool.slurm import SlurmClusterExecutor

__all__ = [
    "Executor",
    "FluxClusterExecutor",
    "Shared",
    "ShellExecutor",
    "SlurmClusterExecutor",
    "SubprocessExecutor",
    "__version__",
    "batched",
    "errors",
    "get_cache_data",
    "get_future_from_cache",
    "get_item_from_future",
    "progress",
    "share",
    "shared_array",
    "split_future",
    "trace",
]

__version__ = "1.0.0.dev0"

undo_monkey_patches()  # before any other module of pympipool is imported

_MODULES = {
    "Executor": "pympipool.executor",
    "FluxClusterExecutor": "pympipool.flux",
    "Shared": "pympipool.serialization.shared",
    "ShellExecutor": "pympipool.shell",
    "SlurmClusterExecutor": "pympipool.slurm",
    "SubprocessExecutor": "pympipool.shell",
    "batched": "pympipool.execution.derived_futures",
    "errors": "pympipool.errors",
    "get_cache_data": "pympipool.caching.reading",
    "get_future_from_cache": "pympipool.caching.reading",
    "get_item_from_future": "pympipool.execution.derived_futures",
    "progress": "pympipool.diagnostics.progress",
    "share": "pympipool.serialization.shared",
    "shared_array": "pympipool.serialization.shared_arrays",
    "split_future": "pympipool.execution.derived_futures",
    "trace": "pympipool.diagnostics.tracing.session",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    module_name = _MODULES.get(name)
    if module_name is None:
        if _sys._getframe(1).f_code.co_name == "_handle_fromlist":  # an import statement, before it looks for a module
            raise AttributeError(name)
        if not name.startswith("_"):  # programs probe for such names; it may also be a module that is not imported yet
            former_names = _names_of_before()
            if name in former_names.ROOT:
                return former_names.lookup(__name__, name)
        suggestion = _suggestion(name)
        if suggestion and _is_imported_from(name):
            # The interpreter would replace an AttributeError by an ImportError, which suggests names since 3.12 only.
            raise ImportError(f"cannot import name {name!r} from {__name__!r}{suggestion}", name=name, path=__file__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggestion}")
    from importlib import import_module

    from pympipool._util.shadowing import ShadowingExplained

    try:
        with ShadowingExplained():
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        from pympipool._util.uncompiled import why_uncompiled

        problem = why_uncompiled(error)
        if not problem:
            raise
        raise ImportError(problem) from None
    except AttributeError as error:  # an import statement would say no more than that there is no such name
        raise ImportError(f"cannot import {module_name}: {error}", name=module_name) from error
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def _suggestion(name: str) -> str:
    if name.startswith("_"):  # programs probe for such names; it may also be a module that is not imported yet
        return ""
    from pympipool._util.reprs import did_you_mean

    return did_you_mean(name, __all__)


def _is_imported_from(name: str) -> bool:
    """Return True if a statement `from pympipool import ...` has asked for a name, and will not find a module."""
    from opcode import opmap

    frame = _sys._getframe(2)  # the caller of __getattr__
    asked_by_import = frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]
    return asked_by_import and f"{__name__}.{name}" not in _sys.modules


def _names_of_before() -> "ModuleType":
    from importlib import import_module

    return import_module("pympipool._util.former_names")


class _FormerModules:
    """Finds modules of pympipool 0.8, after all other finders."""

    @staticmethod
    def find_spec(name: str, _path: object, _target: object = None) -> object:
        if not name.startswith("pympipool."):
            return None
        return _names_of_before().find_spec(name)


_sys.meta_path.append(_FormerModules)  # type: ignore[arg-type]  # it is all that the import system needs


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Give pympipool real threads, sockets and processes where gevent or eventlet have replaced those of the standard library.

Both make the standard library cooperative: its threads become green threads, which all run in one thread of the operating
system and change places when one of them waits. pympipool waits in C, where no other green thread would get its turn. So
the modules of pympipool use private copies of the standard modules, and the user's program keeps the patched ones:

    pympipool imported after the patch    each module is executed with an import function that returns the copies
    pympipool imported before             names of standard modules in its modules are replaced by those of the copies

Green threads wait for calls through `green_threads.py`. This module is imported only in processes with such a patch.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from pympipool._util import green_threads

_C_MODULES = ("_thread", "select", "time")
"""Patched modules that consist of C: a second instance of them has the original functions."""

_PYTHON_MODULES = ("threading", "selectors", "socket", "ssl", "subprocess", "queue")
"""Patched modules that consist of Python: they are executed again, on the copies of the modules that they import."""

_PATCHED = (
    ("_thread", "start_new_thread"),
    ("time", "sleep"),
    ("select", "select"),
    ("socket", "socket"),
    ("subprocess", "Popen"),
    ("os", "waitpid"),
    ("queue", "Queue"),
)
"""For each kind of patch a name that it replaces."""

_LIBRARIES = ("gevent", "eventlet")

_EXCEPT = (
    "pympipool._util.green_threads",
    "pympipool._util.monkey_patches",
    "pympipool.serialization",  # compares types with those of the user's objects
    "pympipool.shell",  # names functions that workers shall run
    "pympipool.worker",
)
"""Modules that keep the patched modules."""


def undo() -> None:
    """Let pympipool use the original modules if a library has patched them; see the module's docstring.

    To be called when pympipool is imported, and again before it starts threads.

    Raises:
        RuntimeError: A library that pympipool does not know has replaced threads.
    """
    origins = {_origin(sys.modules.get(module), name) for module, name in _PATCHED}
    if origins.isdisjoint(_LIBRARIES):
        return
    threads = _origin(sys.modules["_thread"], "start_new_thread")
    if threads in _LIBRARIES:
        green_threads.activate(threads)
    elif threads != "_thread":
        raise RuntimeError(
            f"{threads} has replaced the threads of Python by its own (monkey patching), which pympipool cannot use: leave"
            " out the patch of threads, or use the executor in a process without it"
        )
    if _importer not in sys.meta_path:
        sys.meta_path.insert(0, _importer)
    for name, module in list(sys.modules.items()):
        if _is_ours(name) and module is not None:
            _replace_names(module)


def _origin(module: ModuleType | None, name: str) -> str:
    """Return the name of the package that has defined the object of this name in a module."""
    found = getattr(module, name, None)
    return str(getattr(found, "__module__", None) or "").partition(".")[0]


def _is_ours(name: str) -> bool:
    return name.startswith("pympipool.") and not name.startswith(_EXCEPT)


# ---- private copies ----

_copies: dict[str, ModuleType] = {}
"""Private copies of standard modules, by name."""


def original(name: str) -> ModuleType | None:
    """Return the private copy of a standard module; None if libraries do not patch the module."""
    if name not in _copies:
        if name in _C_MODULES or name in _PYTHON_MODULES:
            _copies[name] = _execute_again(name)
        elif name == "os":
            _copies[name] = _copy_of_os()
        else:
            return None
    return _copies[name]


def _execute_again(name: str) -> ModuleType:
    spec = importlib.machinery.BuiltinImporter.find_spec(name) or importlib.machinery.PathFinder.find_spec(name)
    if name in _PYTHON_MODULES and spec is not None and spec.origin is not None:
        # with a name of its own: the enumerations of socket and ssl become globals of the module of this name
        spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", spec.origin)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"cannot find {name}, a module of the standard library")
    module = importlib.util.module_from_spec(spec)
    if name in _PYTHON_MODULES:
        module.__dict__["__builtins__"] = _builtins
        sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _copy_of_os() -> ModuleType:
    """Return a copy of os with the original system calls. It shares everything else, such as `os.environ`."""
    import os
    import posix

    module = ModuleType("os")
    vars(module).update(vars(os))
    vars(module).update({name: value for name, value in vars(posix).items() if callable(value)})
    return module


def _import_originals(name: str, *args: Any) -> Any:
    """Take the place of `builtins.__import__` in modules that get the originals.

    Args:
        name: As for `__import__`.
        args: Globals, locals, names and level, as the statements `import` and `from` give them.
    """
    level = args[3] if len(args) > 3 else 0
    found = None if level else original(name)
    return builtins.__import__(name, *args) if found is None else found


_builtins = {**vars(builtins), "__import__": _import_originals}


# ---- modules of pympipool that are imported later ----


class _Importer:
    """A finder that lets the others find a module of pympipool, and has it executed with the originals."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if not _is_ours(name):
            return None
        for finder in sys.meta_path:
            find: Callable[..., Any] | None = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _execute_with_originals(spec.loader)
                return spec
        return None


_importer: Any = _Importer()


def _execute_with_originals(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        module.__dict__["__builtins__"] = _builtins
        execute(module)
        _replace_names(module)  # compiled modules do not use __builtins__

    loader.exec_module = exec_module


# ---- modules of pympipool that were imported before ----


def _replace_names(module: ModuleType) -> None:
    """Replace all objects of standard modules among the globals of a module by those of the copies."""
    for name, value in list(vars(module).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, ModuleType):
            copy = original(value.__name__)
            if copy is not None:
                vars(module)[name] = copy
        elif isinstance(value, type) and value.__module__ == module.__name__:
            bases = tuple(base if base.__module__ in _C_MODULES else _original_object(base) for base in value.__bases__)
            if bases != value.__bases__:
                value.__bases__ = bases
        else:
            vars(module)[name] = _original_object(value, name)


def _original_object(value: Any, alias: str = "") -> Any:
    """Return the object of a copy for a function or class of a standard module or a patch; other objects unchanged.

    Args:
        alias: A name that the object may have in the standard module besides its own: gevent's class of locks has replaced
            the function `allocate_lock` and the class `LockType`.
    """
    if not isinstance(value, (type, FunctionType, type(len))):
        return value
    module, name = str(value.__module__), value.__name__
    if module.partition(".")[0] in _LIBRARIES:
        for standard in (*_C_MODULES, *_PYTHON_MODULES):
            for known in (alias, name):
                if vars(sys.modules.get(standard, builtins)).get(known) is value:
                    return getattr(original(standard), known)
        return value
    copy = original(module)
    return value if copy is None else getattr(copy, name, value)

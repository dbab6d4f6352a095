"""Digest modules by what they do.

    of Python itself        ─► its version, which is part of each key
    of an installed package ─► name and version of the distribution, and the hashes of its files that its installer has noted
    any other               ─► the compiled code of the file, without line numbers, and of all modules that it imports,
                               also inside of functions

No module is imported for this. A digest is kept until one of the files has changed, which is looked for once a second. After that,
calls of the executors that were made before have no key: their workers may have imported what the file was, or what it is.
"""

from __future__ import annotations

import ast
import dis
import functools
import os
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from importlib import util
from importlib.machinery import EXTENSION_SUFFIXES
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._util.platform import on_fork
from pympipool.caching.file_stamps import Stamp, read, renewed, stamp_of
from pympipool.caching.installed import distribution_of, folders_of, installed_folders
from pympipool.caching.values import DIGEST_BYTES, Hasher, UnhashableError
from pympipool.serialization.code_usage import nested_code

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["add_imports", "add_module", "add_module_named", "version_of_files"]

CHECK_INTERVAL_S = 1.0
"""Shortest time between two checks whether files have changed."""

_IMPORTERS = frozenset({"import_module", "__import__"})
"""Functions that import modules. Those are seen whose names are constants."""


def add_module(hasher: Hasher, module: types.ModuleType) -> None:
    """Add a module.

    Raises:
        UnhashableError: It cannot be imported by its name, so nothing tells what it is in a worker.
    """
    name = module.__name__
    if name == "__main__" or sys.modules.get(name) is not module:
        raise UnhashableError(f"the module {name}, which workers cannot import")
    add_module_named(hasher, name)


def add_module_named(hasher: Hasher, name: str) -> None:
    """Add a module by its name.

    Raises:
        UnhashableError: It has no file.
    """
    hasher.text(b"module", name)
    _add_contents(hasher, name)


def _add_contents(hasher: Hasher, name: str) -> None:
    digest, changed, version = _modules.digest(name)
    if version > hasher.version:
        raise UnhashableError(f"the module {changed}, which has changed since the executor was made")
    hasher.feed(b"contents", digest)


def add_imports(hasher: Hasher, code: types.CodeType, package: str | None) -> None:
    """Add the modules that code imports when it runs. Those that do not exist now have only their names.

    Args:
        package: The package of the code, for relative imports.
    """
    for name in _imports_of_code(code, package or ""):
        hasher.text(b"import", name)
        if _exists(name):
            _add_contents(hasher, name)


@functools.lru_cache(maxsize=1024)
def _imports_of_code(code: types.CodeType, package: str) -> tuple[str, ...]:
    names: set[str] = set()
    for part in nested_code(code):
        imported, level, previous = "", 0, None
        for instruction in dis.get_instructions(part):
            if instruction.opname == "EXTENDED_ARG":
                continue
            if instruction.opname == "IMPORT_NAME":  # the level is loaded, then the names, then this
                imported = _absolute(instruction.argval, level, package)
                names.add(imported)
            elif instruction.opname == "IMPORT_FROM" and imported:
                names.add(f"{imported}.{instruction.argval}")
            level, previous = previous if type(previous) is int else 0, instruction.argval
        if _IMPORTERS.intersection(part.co_names):
            names.update(constant for constant in part.co_consts if type(constant) is str and _is_name(constant))
    return tuple(sorted(names - {""}))


def _absolute(name: str, level: int, package: str) -> str:
    """Return the name of a module for `import`; "" if a relative one leads out of the package."""
    if not level:
        return name
    try:
        return util.resolve_name("." * level + name, package)
    except ImportError:
        return ""


def _is_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _exists(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names or _origin(name) is not None


class _Modules:
    """The digests of modules."""

    def __init__(self) -> None:
        self._lock = RLock()  # finalizers may submit calls in the midst
        self._digests: dict[str, tuple[bytes, str, int]] = {}
        self._stamps: dict[str, Stamp] = {}  # of all files that were read
        self._contents: dict[
            str, tuple[bytes, int]
        ] = {}  # of each module: digest, and the version since which it has this
        self._next_check_s = 0.0
        self.version = 0  # counts changes

    def digest(self, name: str) -> tuple[bytes, str, int]:
        """Return the digest of a module with all that it imports, which of these has changed last, and the version then."""
        self.check()
        with self._lock:
            return self._digests.get(name) or self._new_digest(name)

    def _new_digest(self, name: str) -> tuple[bytes, str, int]:
        leaves: dict[str, bytes] = {}
        if not _exists(name):
            raise UnhashableError(f"the module {name}, which has no file")
        self._collect(name, leaves)
        hasher = Hasher()
        for leaf in sorted(leaves):
            hasher.text(b"module", leaf)
            hasher.feed(b"contents", leaves[leaf])
        changed = max(leaves, key=self._version_of, default=name)
        self._digests[name] = hasher.digest(), changed, self._version_of(changed)
        return self._digests[name]

    def _version_of(self, name: str) -> int:
        return self._contents.get(name, (b"", 0))[1]

    def check(self, *, now: bool = False) -> None:
        """Forget all digests if a file has changed."""
        now_s = monotonic()
        if now_s < self._next_check_s and not now:
            return
        self._next_check_s = now_s + CHECK_INTERVAL_S
        with self._lock:
            stamps = {path: renewed(path, stamp) for path, stamp in self._stamps.items()}
            if None in stamps.values():
                self._digests.clear()
                self._stamps.clear()
                self.version += 1
            else:
                self._stamps.update({path: stamp for path, stamp in stamps.items() if stamp is not None})

    def renew_lock(self) -> None:
        """Forget, in a forked child, who holds the lock: that thread does not run there."""
        self._lock = RLock()

    def _collect(self, name: str, leaves: dict[str, bytes]) -> None:
        """Add the contents of a module, and of all that it imports, by name."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            top, dot, _ = name.partition(".")
            if name in leaves or installed(top) in leaves or _is_of_python(top):
                continue
            origin = _origin(name)
            if origin is None:
                continue
            if top == "pympipool" or origin.startswith(installed_folders()):
                leaves[installed(top)] = distribution_of(top)
            else:
                leaves[name], imported = self._read(name, origin)
                waiting += imported
                if leaves[name] != self._contents.setdefault(name, (leaves[name], 0))[0]:
                    self._contents[name] = leaves[name], self.version
            waiting += [name.rpartition(".")[0]] if dot else []

    def _read(self, name: str, path: str) -> tuple[bytes, list[str]]:
        """Return the digest of the code of a file, and the names of the modules that it imports."""
        if not path:  # a package without a file
            return b"", []
        self._stamps[path] = stamp_of(path)  # before it is read
        content = read(path)
        if content is None:  # it is in an archive, for example
            raise UnhashableError(f"the module {name}, whose file cannot be read")
        hasher = Hasher()
        try:
            if not path.endswith(".py"):
                raise ValueError("it is compiled")
            tree = ast.parse(content)
            hasher.add(compile(tree, "", "exec", dont_inherit=True))
        except (SyntaxError, ValueError):  # or it is being edited; what cannot be imported fails in the worker
            return blake2b(content, digest_size=DIGEST_BYTES).digest(), []
        is_package = os.path.basename(path) == "__init__.py"
        return hasher.digest(), [*_imports(tree, name if is_package else name.rpartition(".")[0])]


def installed(package: str) -> str:
    """Return the name under which the distribution of an installed package is digested."""
    return f"{package}, installed"


_modules = _Modules()
on_fork(in_child=_modules.renew_lock)


def version_of_files(*, now: bool = False) -> int:
    """Return a number that is a larger one after the files of modules have changed that were digested.

    Args:
        now: Look for changes even if this was done less than `CHECK_INTERVAL_S` ago.
    """
    _modules.check(now=now)
    return _modules.version


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of modules that code imports; those of `from` may also be names in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in _IMPORTERS and type(node.args[0].value) is str and _is_name(node.args[0].value):
                yield node.args[0].value


def _origin(name: str) -> str | None:
    """Return the file of a module, "" for a package without one, None if there is no such module."""
    module = sys.modules.get(name)
    if name == "__main__":
        return None
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if spec is None:
        path = None
        parts = name.split(".")
        for depth in range(len(parts)):
            spec = _find_spec(".".join(parts[: depth + 1]), path)
            if spec is None:
                return None
            path = spec.submodule_search_locations
            if path is None and depth + 1 < len(parts):
                return None
    if spec is None or not spec.has_location:
        return "" if spec is not None and spec.submodule_search_locations is not None else None
    origin = spec.origin or ""
    return os.path.realpath(origin) if origin.endswith((".py", *EXTENSION_SUFFIXES)) else origin


def _find_spec(name: str, path: Any) -> ModuleSpec | None:
    """Return the spec of a module that is not imported; projects that are installed as editable have finders of their own."""
    for finder in sys.meta_path:
        with suppress(Exception):  # they are of any package
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


@functools.cache
def _is_of_python(top: str) -> bool:
    """Return True for modules of Python itself, but not for one of the user's that has the name of one of these."""
    if top in sys.builtin_module_names:
        return True
    if top not in sys.stdlib_module_names:
        return False
    origin = _origin(top)
    return not origin or origin.startswith(folders_of("stdlib", "platstdlib")) or not os.path.isfile(origin)

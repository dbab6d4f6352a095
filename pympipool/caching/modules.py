"""Digest modules by what they do.

    of Python itself        ─► its version, which is part of each key
    of an installed package ─► name and version of the distribution
    any other               ─► the compiled code of the file, without line numbers, and of all modules that it imports,
                               also inside of functions

No module is imported for this. A digest is kept until one of the files has changed, which is looked for once a second.
"""

from __future__ import annotations

import ast
import dis
import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from hashlib import blake2b
from importlib import util
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from time import monotonic
from typing import TYPE_CHECKING

from pympipool.caching.values import DIGEST_BYTES, Hasher, UnhashableError
from pympipool.serialization.code_usage import nested_code

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["add_imports", "add_module", "add_module_named", "version_of_files"]

CHECK_INTERVAL_S = 1.0
"""Shortest time between two checks whether files have changed."""

_Stamp = tuple[int, int, int]


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
    hasher.feed(b"contents", _modules.digest(name))


def add_imports(hasher: Hasher, code: types.CodeType) -> None:
    """Add the modules that code imports when it runs. Those that do not exist now have only their names."""
    for name in _imports_of_code(code):
        hasher.text(b"import", name)
        if _exists(name):
            hasher.feed(b"contents", _modules.digest(name))


@functools.lru_cache(maxsize=1024)
def _imports_of_code(code: types.CodeType) -> tuple[str, ...]:
    names = set()
    for part in nested_code(code):
        imported = ""
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                imported = instruction.argval
                names.add(imported)
            elif instruction.opname == "IMPORT_FROM" and imported:
                names.add(f"{imported}.{instruction.argval}")
    return tuple(sorted(names))


def _exists(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names or _origin(name) is not None


class _Modules:
    """The digests of modules."""

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}
        self._stamps: dict[str, _Stamp] = {}  # of all files that were read
        self._next_check_s = 0.0
        self.version = 0  # counts changes

    def digest(self, name: str) -> bytes:
        """Return the digest of a module with all that it imports."""
        self.check()
        found = self._digests.get(name)
        if found is None:
            leaves: dict[str, bytes] = {}
            if not _exists(name):
                raise UnhashableError(f"the module {name}, which has no file")
            self._collect(name, leaves)
            hasher = Hasher()
            for leaf in sorted(leaves):
                hasher.text(b"module", leaf)
                hasher.feed(b"contents", leaves[leaf])
            found = self._digests[name] = hasher.digest()
        return found

    def check(self) -> None:
        """Forget all digests if a file has changed."""
        now_s = monotonic()
        if now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_INTERVAL_S
        if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._digests.clear()
            self._stamps.clear()
            self.version += 1

    def _collect(self, name: str, leaves: dict[str, bytes]) -> None:
        """Add the contents of a module, and of all that it imports, by name."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            top, dot, _ = name.partition(".")
            if (
                name in leaves
                or installed(top) in leaves
                or top in sys.stdlib_module_names
                or top in sys.builtin_module_names
            ):
                continue
            origin = _origin(name)
            if origin is None:
                continue
            if top == "pympipool" or origin.startswith(_installed_folders()):
                leaves[installed(top)] = _distribution(top)
            elif origin.endswith(".py"):
                leaves[name], imported = self._read(name, origin)
                waiting += imported
            else:
                leaves[name] = self._bytes_of(origin)
            waiting += [name.rpartition(".")[0]] if dot else []

    def _read(self, name: str, path: str) -> tuple[bytes, list[str]]:
        """Return the digest of the code of a file, and the names of the modules that it imports."""
        self._stamps[path] = _stamp(path)
        try:
            with open(path, "rb") as file:
                tree = ast.parse(file.read())
            hasher = Hasher()
            hasher.add(compile(tree, "", "exec", dont_inherit=True))
        except (OSError, SyntaxError, ValueError):  # it is being edited; what cannot be imported fails in the worker
            return self._bytes_of(path), []
        is_package = os.path.basename(path) == "__init__.py"
        return hasher.digest(), [*_imports(tree, name if is_package else name.rpartition(".")[0])]

    def _bytes_of(self, path: str) -> bytes:
        self._stamps[path] = _stamp(path)
        try:
            with open(path, "rb") as file:
                return blake2b(file.read(), digest_size=DIGEST_BYTES).digest()
        except OSError:
            return b""


def installed(package: str) -> str:
    """Return the name under which the distribution of an installed package is digested."""
    return f"{package}, installed"


_modules = _Modules()


def version_of_files() -> int:
    """Return a number that is another one after the files of modules have changed that were digested."""
    _modules.check()
    return _modules.version


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of modules that code imports; those of `from` may also be names in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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
            spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
            if spec is None:
                return None
            path = spec.submodule_search_locations
            if path is None and depth + 1 < len(parts):
                return None
    origin = (spec.origin if spec is not None and spec.has_location else None) or ""
    return os.path.realpath(origin) if origin.endswith((".py", *EXTENSION_SUFFIXES)) else origin


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """Return the folders into which packages are installed."""
    import site

    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    folders.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    folders.add(site.getusersitepackages())
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


@functools.cache
def _distribution(package: str) -> bytes:
    """Return name and version of the distribution that has an installed package."""
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}".encode()
    except metadata.PackageNotFoundError:
        names = sorted(set(metadata.packages_distributions().get(package, ())))
        return " ".join([package, *(f"{name} {metadata.version(name)}" for name in names)]).encode()

"""Digest modules by what they do.

    of Python itself        ─► its version, which is part of each key
    of an installed package ─► name and version of the distribution, and the hashes of its files that its installer has noted
    pickled by value        ─► all that it holds
    any other               ─► the compiled code of the file, without line numbers, and of all modules that it imports,
                               also inside of functions

Modules are pickled by value if the user has told cloudpickle so, or if they were edited and reloaded: workers get what this process
has. So do calls that run in this process: what it has of modules of the user's counts for them, too (`sees_memory`).

No module is imported for this. What a file has told is kept until it has changed, which is looked for once a second: then it is
read again, at once. If its code is another one, calls of the executors that were made before have no key: their workers may have
imported what the file was, or what it is. So it is if the file is read for the first time, but was changed after the executor was
made.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import types
import warnings
from hashlib import blake2b
from threading import RLock
from time import monotonic, time_ns
from typing import TYPE_CHECKING, NamedTuple

import cloudpickle

from pympipool._util.platform import on_fork
from pympipool.caching.file_stamps import Stamp, read, renewed, stamp_of
from pympipool.caching.imports import imports_of, imports_of_tree
from pympipool.caching.installed import (
    OWN_NAME,
    forget_installations,
    installation_of,
    installed_folders,
)
from pympipool.caching.origins import exists, is_of_python, origin_of
from pympipool.caching.values import DIGEST_BYTES, Hasher, UnhashableError
from pympipool.serialization.reloads import notice_reload

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "add_imports",
    "add_module",
    "add_module_named",
    "changed_since",
    "is_by_value",
    "sees_memory",
    "version_now",
    "version_of_files",
]

CHECK_INTERVAL_S = 1.0
"""Shortest time between two checks whether files have changed."""

_FILE = "<a module in a key>"
"""The name of files for the compiler, whose warnings are none of the user's: by it they are told apart in all threads."""

_LOADED_NS = time_ns()
"""What is installed later may not be what this process has imported."""

_NO_WARNINGS = ("ignore", None, Warning, re.compile(re.escape(_FILE)), 0)
"""The filter for these warnings. As often as filters are set, Python forgets which warnings of the user's it has shown."""


def add_module(hasher: Hasher, module: types.ModuleType) -> None:
    """Add a module.

    Raises:
        UnhashableError: It cannot be imported by its name, so nothing tells what it is in a worker.
    """
    name = module.__name__
    if name == "__main__" or sys.modules.get(name) is not module:
        raise UnhashableError(f"the module {name}, which workers cannot import")
    if not is_by_value(name):
        add_module_named(hasher, name)
    elif hasher.is_new(module):
        content = {key: value for key, value in vars(module).items() if key not in _OF_IMPORT}
        hasher.add_named(b"module by value", content, f"{{}} of the module {name}")


_OF_IMPORT = frozenset({"__builtins__", "__cached__", "__file__", "__loader__", "__path__", "__spec__"})
"""What the import has set in a module."""


def is_by_value(name: str) -> bool:
    """Return True if what a module defines is pickled by value: the user has told cloudpickle so, or it was edited and reloaded."""
    if notice_reload(name):
        return True
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(name == one or name.startswith(f"{one}.") for one in registered)


def sees_memory(hasher: Hasher, name: str) -> bool:
    """Return True if a call sees what this process has of a module: it runs here, and the user may change the module.

    One that is not imported yet is noted: the call may import it, and then sees it, too.
    """
    if not hasher.scope.runs_here or not _modules.is_users(name):
        return False
    hasher.scope.saw_memory = True
    if name in sys.modules:
        return True
    hasher.scope.unimported.add(name)
    return False


def add_module_named(hasher: Hasher, name: str) -> None:
    """Add a module by its name.

    Raises:
        UnhashableError: It has no file.
    """
    hasher.text(b"module", name)
    _add_contents(hasher, name)


def _add_contents(hasher: Hasher, name: str) -> None:
    content = _modules.content(name)
    if content.version > hasher.scope.version:
        raise UnhashableError(f"the module {content.changed}, which has changed since the executor was made")
    if content.replaced and hasher.scope.runs_here:
        raise UnhashableError(
            f"the module {content.replaced}, which has changed, and this process may have what it was"
        )
    hasher.scope.modules.add(name)
    hasher.feed(b"contents", content.digest)


def add_imports(hasher: Hasher, code: types.CodeType, package: str | None) -> None:
    """Add the modules that code imports when it runs. Those that do not exist now have only their names.

    Args:
        package: The package of the code, for relative imports.
    """
    for name in imports_of(code, package or ""):
        hasher.text(b"import", name)
        if exists(name):
            _add_contents(hasher, name)


class Content(NamedTuple):
    """The content of a module with all that it imports.

    Attributes:
        digest: Its digest.
        changed: Which of these has changed last.
        version: The version then.
        replaced: One that was seen to change, and that has no Python code to compare with what this process has imported, or "".
    """

    digest: bytes
    changed: str
    version: int
    replaced: str


class _Leaf(NamedTuple):
    """The content of a module without what it imports.

    Attributes:
        origin: Its file; of an installed one the name of the package.
        digest: Its digest.
        imports: The names of the modules that it imports.
        paths: The files, or folders, that tell when it changes.
        version: The time since which it is certain to have this content.
    """

    origin: str
    digest: bytes
    imports: list[str]
    paths: tuple[str, ...]
    version: int


class _Modules:
    """The digests of modules."""

    def __init__(self) -> None:
        self._lock = RLock()  # finalizers may submit calls in the midst
        self._digests: dict[str, Content] = {}
        self._stamps: dict[str, Stamp] = {}  # of all files that were read
        self._leaves: dict[str, _Leaf] = {}
        self._opaque: set[str] = set()  # modules without Python code to read: installed ones, and compiled ones
        self._replaced: set[str] = set()  # those of these that were seen to change
        self._users: dict[str, bool] = {}
        self._next_check_s = 0.0
        self.version = 0  # the time at which a change was noticed last
        self._latest = 0

    def content(self, name: str) -> Content:
        """Return the content of a module."""
        self.check()
        with self._lock:
            return self._digests.get(name) or self._new_digest(name)

    def _new_digest(self, name: str) -> Content:
        leaves: dict[str, bytes] = {}
        if not exists(name):
            raise UnhashableError(f"the module {name}, which has no file")
        self._collect(name, leaves)
        hasher = Hasher()
        for leaf in sorted(leaves):
            hasher.text(b"module", leaf)
            hasher.feed(b"contents", leaves[leaf])
        changed = max(leaves, key=self._version_of, default=name)
        replaced = min(leaves.keys() & self._replaced, default="")
        self._digests[name] = Content(hasher.digest(), changed, self._version_of(changed), replaced)
        return self._digests[name]

    def _version_of(self, name: str) -> int:
        leaf = self._leaves.get(name)
        return 0 if leaf is None else leaf.version

    def check(self, *, now: bool = False) -> None:
        """Forget all digests if a file has changed, and read it again: each file is looked at from its first reading on."""
        now_s = monotonic()
        if now_s < self._next_check_s and not now:
            return
        self._next_check_s = now_s + CHECK_INTERVAL_S
        with self._lock:
            changed = set()
            for path, stamp in list(self._stamps.items()):
                renewed_stamp = renewed(path, stamp)
                if renewed_stamp is None:
                    changed.add(path)
                    del self._stamps[path]
                else:
                    self._stamps[path] = renewed_stamp
            if not changed:
                return
            self._notice()
            for name, leaf in list(self._leaves.items()):
                if not changed.isdisjoint(leaf.paths):
                    try:
                        self._new_leaf(name, leaf.origin)
                    except Exception:  # it was removed, or is being installed: it is read as for the first time later
                        self._leaves.pop(name, None)

    def _notice(self) -> None:
        """Begin a new version, since something has changed."""
        self._digests.clear()
        self._users.clear()
        forget_installations()
        self.version = self._latest = self.now() + 1

    def now(self) -> int:
        """Return the time in ns. It is never less than before, as it may be where a clock is set."""
        self._latest = max(self._latest, time_ns())
        return self._latest

    def renew_lock(self) -> None:
        """Forget, in a forked child, who holds the lock: that thread does not run there."""
        self._lock = RLock()

    def is_users(self, name: str) -> bool:
        """Return True for a module of the user's: one that is neither Python's nor of a distribution that was installed.

        What is no module, such as a function that is imported from one, counts as what it is in.
        """
        with self._lock:
            if name not in self._users:
                top, origin, parent = name.partition(".")[0], origin_of(name), name.rpartition(".")[0]
                if origin is None and parent:
                    self._users[name] = self.is_users(parent)
                else:
                    self._users[name] = not is_of_python(top) and not self._is_installed(top, origin or "")
            return self._users[name]

    def _is_installed(self, top: str, origin: str) -> bool:
        """Return True if a file of a package is known by its distribution. Others may be beside it, or in another folder."""
        return top == OWN_NAME or (origin.startswith(installed_folders()) and bool(installation_of(top).content))

    def _collect(self, name: str, leaves: dict[str, bytes]) -> None:
        """Add the contents of a module, and of all that it imports, by name."""
        waiting, seen = [name], {""}
        while waiting:
            name = waiting.pop()
            top = name.partition(".")[0]
            origin = None if name in seen or is_of_python(top) else origin_of(name)
            seen.add(name)
            if origin is None:
                continue
            waiting.append(name.rpartition(".")[0])
            if self._is_installed(top, origin):
                name, origin = installed(top), top
            leaf = self._leaves.get(name)
            if leaf is None or leaf.origin != origin:
                if leaf is not None:  # another file has taken its place
                    self._notice()
                leaf = self._new_leaf(name, origin)
            leaves[name] = leaf.digest
            waiting += leaf.imports

    def _new_leaf(self, name: str, origin: str) -> _Leaf:
        """Read a module, and note since when it has this content.

        Raises:
            UnhashableError: It cannot be read.
        """
        package = installation_of(origin) if name == installed(origin) else None
        paths = package.folders if package is not None else (origin,) if origin else ()
        version = 0
        for path in paths:
            stamp = stamp_of(path)  # before it is read
            self._stamps.setdefault(path, stamp)  # a former one, of another module, tells more changes
            version = max(version, stamp.changed_ns)
        digest, imports = self._read(name, origin) if package is None else (package.content, [])
        if package is not None:
            self._opaque.add(name)
        known = self._leaves.get(name)
        if known is None:
            is_replaced = package is not None and version > _LOADED_NS
        else:
            is_replaced = known.digest != digest
            version = max(version, self.version) if is_replaced else known.version
        if is_replaced and name in self._opaque:
            self._replaced.add(name)
        self._leaves[name] = _Leaf(origin, digest, imports, paths, version)
        return self._leaves[name]

    def _read(self, name: str, path: str) -> tuple[bytes, list[str]]:
        """Return the digest of the code of a file, and the names of the modules that it imports."""
        if not path:  # a package without a file
            return b"", []
        content = read(path)
        if content is None:  # it is in an archive, for example
            raise UnhashableError(f"the module {name}, whose file cannot be read")
        hasher = Hasher()
        try:
            if not path.endswith(".py"):
                self._opaque.add(name)
                raise ValueError("it is compiled")
            if [*warnings.filters[:1]] != [_NO_WARNINGS]:
                warnings.filterwarnings("ignore", module=re.escape(_FILE))
            tree = ast.parse(content, _FILE)
            hasher.add(compile(tree, _FILE, "exec", dont_inherit=True))
        except (SyntaxError, ValueError):  # or it is being edited; what cannot be imported fails in the worker
            return blake2b(content, digest_size=DIGEST_BYTES).digest(), []
        is_package = os.path.basename(path) == "__init__.py"
        return hasher.digest(), [*imports_of_tree(tree, name if is_package else name.rpartition(".")[0])]


def installed(package: str) -> str:
    """Return the name under which the distribution of an installed package is digested."""
    return f"{package}, installed"


_modules = _Modules()
on_fork(in_child=_modules.renew_lock)


def version_of_files(*, now: bool = False) -> int:
    """Return a number that is a larger one after the files of modules have changed that were digested: a time in ns.

    Args:
        now: Look for changes even if this was done less than `CHECK_INTERVAL_S` ago.
    """
    _modules.check(now=now)
    return _modules.version


def version_now(*, now: bool = False) -> int:
    """Return the version of an executor, or of a call, that is made now: all changes so far have a smaller one, or the same.

    Args:
        now: As of `version_of_files`.
    """
    _modules.check(now=now)
    return _modules.now()


def changed_since(names: Iterable[str], version: int) -> str:
    """Return the name of a module that has changed since, of these and of all that they import; "" if none has."""
    if _modules.version <= version:
        return ""
    for name in names:
        try:
            content = _modules.content(name)
        except Exception:  # it may have changed: what installers are about to replace may raise anything
            return name
        if content.version > version:
            return content.changed
    return ""

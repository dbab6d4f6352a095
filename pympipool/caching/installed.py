"""Installed packages: where they are, and what tells one from another version or build of it."""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from pympipool.caching.values import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution

__all__ = ["OWN_NAME", "Installation", "folders_of", "forget_installations", "installation_of", "installed_folders"]

OWN_NAME = "pympipool"
"""The package that is known by its version, also where it is not installed."""


def folders_of(*kinds: str) -> tuple[str, ...]:
    """Return folders of Python, by the names that sysconfig has for them."""
    return tuple(os.path.realpath(sysconfig.get_path(kind)) + os.sep for kind in kinds)


@functools.cache
def installed_folders() -> tuple[str, ...]:
    """Return the folders into which packages are installed."""
    import site

    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    folders.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    folders.add(site.getusersitepackages())
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


class Installation(NamedTuple):
    """What is installed as a package of one name: by one distribution, or by several if it is a namespace.

    Attributes:
        content: What tells it, and what it requires, from another version, or from another build; b"" if no distribution has it.
        folders: Those that an installer replaces.
    """

    content: bytes
    folders: tuple[str, ...]


@functools.cache
def installation_of(package: str) -> Installation:
    """Return what is installed as a package. It is kept until `forget_installations`."""
    from importlib import metadata

    found = _with_required(metadata.distribution(name) for name in _distributions_with(package))
    content = b" ".join([package.encode(), *map(_description, found)]) if found or package == OWN_NAME else b""
    return Installation(content, tuple(str(getattr(one, "_path", "")) for one in found))


def forget_installations() -> None:
    """Look again at what is installed."""
    installation_of.cache_clear()


def _distributions_with(package: str) -> list[str]:
    """Return the names of the distributions that have a package. Mostly one has its name: then no others are read."""
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        own = metadata.distribution(package)
        files = (own.read_text("RECORD") or "").splitlines()
        has_package = any(line.startswith((f"{package}/__init__.", f"{package}.")) for line in files)
        if has_package or not files or package == OWN_NAME:
            return [own.metadata["Name"]]
    return sorted(set(metadata.packages_distributions().get(package, ())))


def _with_required(distributions: Iterable[Distribution]) -> list[Distribution]:
    """Return distributions, with those of their requirements that are installed. What only an extra requires does not count."""
    from importlib import metadata

    found: dict[str, Distribution] = {}
    waiting = list(distributions)
    while waiting:
        one = waiting.pop()
        if found.setdefault(one.metadata["Name"], one) is not one:
            continue
        for requirement in one.requires or ():
            name = re.match(r"[\w.-]+", requirement)
            if name is not None and not re.search(r";.*\bextra\b", requirement):
                with suppress(metadata.PackageNotFoundError):
                    waiting.append(metadata.distribution(name[0]))
    return [found[name] for name in sorted(found)]


def _description(distribution: Distribution) -> bytes:
    """Return name and version of a distribution, and a digest of the hashes of its files, which are the same on all machines.

    Not those of scripts, which name the interpreter, nor of what the installer has added.
    """
    lines = [
        line.rsplit(",", 2) for line in (distribution.read_text("RECORD") or "").splitlines() if line.count(",") >= 2
    ]
    hashes = [
        f"{path} {hashed}"
        for path, hashed, *_ in lines
        if hashed and not path.startswith((".", "/")) and ".dist-info/" not in path
    ]
    digest = blake2b("\n".join(sorted(hashes)).encode(), digest_size=DIGEST_BYTES).hexdigest()
    return f"{distribution.metadata['Name']} {distribution.version} {digest if hashes else ''}".encode()

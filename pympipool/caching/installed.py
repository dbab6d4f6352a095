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
    from collections.abc import Mapping
    from importlib.metadata import Distribution

__all__ = ["OWN_NAME", "Installation", "folders_of", "forget_installations", "installation_of", "installed_folders"]

OWN_NAME = "pympipool"
"""The package that is known by its version, also where it is not installed."""


_FOLDER_NAMES = ("site-packages", "dist-packages")
"""Names of such folders that `PYTHONPATH` adds, as those of modules of a cluster."""


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

    own = {name: metadata.distribution(name) for name in _distributions_with(package)}
    required = _required_by(own)
    parts = [*map(_description, own.values()), *(_try_description(*one) for one in sorted(required.items()))]
    content = b" ".join([package.encode(), *parts]) if own or package == OWN_NAME else b""
    return Installation(content, tuple(str(getattr(one, "_path", "")) for one in (own | required).values()))


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
            return [package]
    return sorted(set(metadata.packages_distributions().get(package, ())))


def _required_by(distributions: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """Return those installed distributions that others require, and so on, by name. What only an extra requires does not count."""
    found: dict[str, Distribution] = {}
    waiting = [*distributions.values()]
    while waiting:
        requirements: list[str] = []
        with suppress(Exception):  # it has no metadata, as an installer that was interrupted leaves one
            requirements = waiting.pop().requires or []
        for requirement in requirements:
            name = re.match(r"[\w.-]+", requirement)
            if name is None or re.search(r";.*\bextra\b", requirement):
                continue
            normal = _normal(name[0])
            one = None if normal in found else _installed_distribution(normal)
            if one is not None:
                found[normal] = one
                waiting.append(one)
    own = set(map(_normal, distributions))
    return {name: one for name, one in found.items() if name not in own}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed_distribution(name: str) -> Distribution | None:
    """Return what is installed by this name; not what other packages bring for themselves, nor what lies beside the script."""
    from importlib import metadata

    for one in metadata.distributions(name=name):
        with suppress(Exception):
            folder = os.path.realpath(str(one.locate_file("")))
            if folder + os.sep in installed_folders() or os.path.basename(folder) in _FOLDER_NAMES:
                return one
    return None


def _try_description(name: str, distribution: Distribution) -> bytes:
    """Return the description of a distribution; only its name if it is damaged."""
    with suppress(Exception):
        return _description(distribution)
    return name.encode()


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

"""Installed packages: where they are, and what tells one from another version or build of it."""

from __future__ import annotations

import functools
import os
import sysconfig
from hashlib import blake2b

from pympipool.caching.values import DIGEST_BYTES

__all__ = ["distribution_of", "folders_of", "installed_folders"]


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


@functools.cache
def distribution_of(package: str) -> bytes:
    """Return what tells an installed package from another version of it, or from another build."""
    from importlib import metadata

    try:
        names = [metadata.distribution(package).metadata["Name"]]
    except metadata.PackageNotFoundError:
        names = sorted(set(metadata.packages_distributions().get(package, ())))
    return b" ".join([package.encode(), *map(_installation, names)])


def _installation(name: str) -> bytes:
    """Return name and version of a distribution, and a digest of the hashes of its files, which are the same on all machines.

    Not those of scripts, which name the interpreter, nor of what the installer has added.
    """
    from importlib import metadata

    distribution = metadata.distribution(name)
    lines = [
        line.rsplit(",", 2) for line in (distribution.read_text("RECORD") or "").splitlines() if line.count(",") >= 2
    ]
    hashes = [
        f"{path} {hashed}"
        for path, hashed, *_ in lines
        if hashed and not path.startswith((".", "/")) and ".dist-info/" not in path
    ]
    digest = blake2b("\n".join(sorted(hashes)).encode(), digest_size=DIGEST_BYTES).hexdigest()
    return f"{name} {distribution.version} {digest if hashes else ''}".encode()

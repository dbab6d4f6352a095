"""A cache directory: it must belong to the user, and its file system determines how SQLite keeps its file whole.

Reading a result runs what its pickle says. So no other user may be able to write into the directory.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

__all__ = ["Directory", "prepare"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHARED_FILE_SYSTEMS = _words(
    "9p afs beegfs ceph cifs coda cvmfs fhgfs gfs gfs2 glusterfs gpfs lustre ncp ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs"
    " pvfs2 smb3 smbfs vboxsf virtiofs wekafs"
)
"""File systems that several hosts may use at once. WAL needs memory that all users of the file share: it is not safe there."""


class Directory(NamedTuple):
    """A checked cache directory.

    Attributes:
        path: Its real path.
        is_shared: Other hosts may use it too.
    """

    path: str
    is_shared: bool


def prepare(directory: str | os.PathLike[str], *, create: bool = True) -> Directory:
    """Check a cache directory, and make it if there is none.

    Raises:
        PermissionError: Another user owns it, or can write into it.
        NotADirectoryError: It is a file.
        FileNotFoundError: There is none, and none is to be made.
    """
    path = os.path.realpath(directory)
    if create:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
    status = os.stat(path)
    _check(path, status)
    for name in ("results", "detached", "index.sqlite", "index.sqlite-wal"):
        try:
            _check_owner(os.path.join(path, name), os.lstat(os.path.join(path, name)))
        except FileNotFoundError:
            continue
    return Directory(path, _file_system(path) in SHARED_FILE_SYSTEMS)


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"cache_directory is {path!r}, which is a file; name a directory")
    _check_owner(path, status)


def _check_owner(path: str, status: os.stat_result) -> None:
    danger = "reading a cached result can run any code that its writer has put there"
    if status.st_uid != os.geteuid():
        raise PermissionError(
            f"{path!r} belongs to the user with number {status.st_uid}, and {danger}: use a cache_directory of your own"
        )
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path!r} is a symbolic link, and {danger}: remove it")
    if status.st_mode & 0o022:
        raise PermissionError(
            f"other users can write to {path!r} (mode {stat.S_IMODE(status.st_mode):o}), and {danger}: `chmod go-w {path}`, if"
            " no other user has written there, or use another cache_directory"
        )


def _file_system(path: str) -> str:
    """Return the type of the file system of a path; "" if it is not known."""
    found, longest = "", -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                point = before.split()[4].encode(errors="surrogateescape").decode("unicode_escape", "surrogateescape")
                is_above = path == point or path.startswith(point.rstrip("/") + "/")
                if is_above and len(point) >= longest:
                    found, longest = after.split()[0], len(point)
    except (OSError, IndexError, UnicodeError):
        return ""
    return found.removeprefix("fuse.")

"""A cache directory: it must belong to the user, and its file system determines how SQLite keeps its file whole.

Reading a result runs what its pickle says. So no other user may be able to write into the directory.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from pympipool._util.platform import IS_WINDOWS

if IS_WINDOWS:
    from pympipool.caching.directory_windows import check_owner, file_system
else:
    from pympipool.caching.directory_unix import check_owner, file_system

__all__ = ["Directory", "prepare"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHARED_FILE_SYSTEMS = _words(
    "9p afs beegfs ceph cifs coda cvmfs fhgfs gfs gfs2 glusterfs gpfs lustre ncp ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs"
    " pvfs2 smb3 smbfs vboxsf virtiofs wekafs"
)
"""File systems that several hosts may use at once. WAL needs memory that all users of the file share: it is not safe there."""

LOCAL_FUSE = _words("fuse.ext2 fuse.fuse-overlayfs fuse.gocryptfs fuse.encfs fuse.ntfs-3g fuse.squashfuse fuse.unionfs")


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
        OSError: It cannot be made. The message names it, and the remedy.
    """
    path = os.path.realpath(directory)
    if create:
        _make(path)
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"cache_directory is {path!r}, which is a file; name a directory")
    check_owner(path, status)
    for name in ("results", "detached", "index.sqlite", "index.sqlite-wal"):
        try:
            check_owner(os.path.join(path, name), os.lstat(os.path.join(path, name)))
        except FileNotFoundError:
            continue
    return Directory(path, _is_shared(file_system(path)))


def _make(path: str) -> None:
    if os.path.lexists(path):
        return
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except OSError as error:
        if not os.path.isdir(path):  # nobody else has just made it
            problem = f"cache_directory is {path!r}, which cannot be made ({error.strerror})"
            raise OSError(error.errno, f"{problem}; name a directory where you can write") from error


def _is_shared(kind: str) -> bool:
    """Return True for a file system that several hosts may use at once, or may for all that is known of it (by FUSE)."""
    return kind in SHARED_FILE_SYSTEMS or (kind.partition(".")[0] == "fuse" and kind not in LOCAL_FUSE)

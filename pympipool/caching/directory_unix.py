"""What Unix tells of a cache directory: who can write into it, and its file system. `directory_windows.py` has the same names."""

from __future__ import annotations

import os
import stat

from pympipool._util.platform import HAS_PROC

__all__ = ["check_owner", "file_system"]


def check_owner(path: str, status: os.stat_result) -> None:
    """Check that only this user can write into a file or folder.

    Args:
        status: That of the path, of a link itself.

    Raises:
        PermissionError: Another user owns it, or can write into it, or it is a link.
    """
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


def file_system(path: str) -> str:
    """Return the type of the file system of a path; "" if it is not known."""
    if not HAS_PROC:
        return ""
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
    return found

"""The folder in which the workers of an executor leave large results for it.

    master: Handover ── path and token, with the settings ──► worker: `worker/left_results.py`
       │                                                         does the folder have a file "token" with this content?
       │   results/unfinished/<token>/                           yes: it writes the file of a result there,
       └── renames it to its place ◄──────────────────────────── and sends a reference

So it is proved, not guessed, that both see the same folder. The master holds a lock of the file "token" as long as it lives, in
whatever way it ends: a folder whose lock is free is one that a killed script has left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from shutil import rmtree
from time import time

from pympipool._util.platform import IS_WINDOWS, OPEN_FLAGS
from pympipool.caching.file_format import INLINE_BYTES_MAX

if IS_WINDOWS:
    from pympipool.caching.file_access_windows import lock, unlocked
else:
    from pympipool.caching.file_access_unix import lock, unlocked

__all__ = ["UNFINISHED", "Handover", "remove_abandoned"]

UNFINISHED = "unfinished"
"""Folder of the files that are being written."""

TOKEN = "token"
"""The file that proves that a worker sees the folder."""


class Handover:
    """The folder of one executor. It exists from `open` on.

    Args:
        directory: The cache directory.

    Attributes:
        path: The folder.
        settings: What workers get: the path, the content of the file "token", and the size of the smallest result that they leave.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        token = os.urandom(16).hex()
        self.path = os.path.join(os.path.realpath(directory), "results", UNFINISHED, token)
        self.settings = self.path, token, INLINE_BYTES_MAX + 1
        self._descriptor = -1

    def open(self) -> None:
        """Make the folder. If that is not possible, results travel to the master."""
        with suppress(OSError):
            above = os.path.dirname(self.path)
            for folder in (os.path.dirname(above), above, self.path):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            path = os.path.join(self.path, TOKEN)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
            if lock(self._descriptor, path):  # else it has just been taken for abandoned
                os.write(self._descriptor, self.settings[1].encode())

    def close(self) -> None:
        """Remove the folder, with what was not read."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)  # Windows removes no open file
            rmtree(self.path, ignore_errors=True)


def remove_abandoned(folder: str, age_s: float) -> None:
    """Remove the folders of killed scripts.

    Args:
        folder: Where they are.
        age_s: Age of folders without a lock that may be removed: younger ones may have just been made.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    _remove_if_abandoned(entry, age_s)


def _remove_if_abandoned(entry: os.DirEntry[str], age_s: float) -> None:
    try:
        with unlocked(os.path.join(entry.path, TOKEN)):  # raises while the script lives
            rmtree(entry.path)
    except FileNotFoundError:
        if entry.stat().st_mtime < time() - age_s:
            rmtree(entry.path)

"""Large results that this worker leaves in files for the master, where both see the same folder (see `caching/handover.py`).

The result is on disk then, and nothing has to be copied through the ring.
"""

from __future__ import annotations

import os

from pympipool._util.platform import OPEN_FLAGS, is_own_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOKEN_BYTES_MAX = 64


class LeftResults:
    """Leaves the results of this worker.

    Args:
        folder: The folder.
        token: The content of its file "token".
        size_bytes_min: The size of the smallest result that is left.
    """

    __slots__ = ("_count", "_folder", "_is_usable", "_prefix", "_token", "size_bytes_min")

    def __init__(self, folder: str, token: str, size_bytes_min: int) -> None:
        self.size_bytes_min = size_bytes_min
        self._folder = folder
        self._token = token
        self._prefix = ""
        self._is_usable = True
        self._count = 0

    def leave(self, parts: list[Any]) -> list[Any]:
        """Return what is to be sent: a reference to the file of a result, or its parts if they have to travel."""
        if not self._is_usable or (len(parts) == 1 and len(parts[0]) < self.size_bytes_min):
            return parts
        from pympipool.caching.file_format import LeftFile, write_new
        from pympipool.serialization.payload import must_be_unpickled

        if must_be_unpickled(parts):  # the master pickles it in another way
            return parts
        try:
            if not self._prefix:
                self._prove()
            self._count += 1
            name = f"{self._prefix}.{os.getpid()}.{self._count}"
            return [LeftFile(name, write_new(os.path.join(self._folder, name), parts)).reference()]
        except (OSError, MemoryError):  # another host, or no room; the master notices that, too
            self._is_usable = False
            return parts

    def _prove(self) -> None:
        """Prove that this is the master's folder.

        Raises:
            OSError: It is not, or has another owner than the files of this process would have.
        """
        descriptor = os.open(os.path.join(self._folder, "token"), os.O_RDONLY | OPEN_FLAGS)
        try:
            is_same = os.read(descriptor, TOKEN_BYTES_MAX) == self._token.encode()
            if not is_same or not is_own_file(os.fstat(descriptor)):
                raise PermissionError
        finally:
            os.close(descriptor)
        self._prefix = os.urandom(4).hex()

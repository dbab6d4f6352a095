"""A listener that no viewer finds: all that connects to it is what a test has made."""

from __future__ import annotations

import os
import socket
import sys

from pympipool.transport.control_server import Listener


class UnseenListener(Listener):
    """A listener for tests without a pool. `pympipool top`, in another test or of the user, looks for those of running scripts."""

    def __init__(self) -> None:
        super().__init__()
        if sys.platform == "linux":
            self._socket.close()  # with those that have found it
            self._socket = socket.socket(socket.AF_UNIX)
            name = f"pympipool-unseen-{os.urandom(16).hex()}"
            self._socket.bind(f"\0{name}")
            self._socket.setblocking(False)
            self._socket.listen(1024)
            self.address = f"@{name}"

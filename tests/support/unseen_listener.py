"""A listener that no viewer finds: all that connects to it is what a test has made."""

from __future__ import annotations

import os
import sys

from pympipool.transport.control_server import Listener


class UnseenListener(Listener):
    """A listener for tests without a pool. `pympipool top`, in another test or of the user, looks for those of running scripts."""

    def _bind(self) -> str:
        if sys.platform != "linux":
            return super()._bind()
        name = f"pympipool-unseen-{os.urandom(16).hex()}"
        self._socket.bind(f"\0{name}")
        return f"@{name}"

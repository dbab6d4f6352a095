"""Calls that run until the test lets them continue. Neither side polls or sleeps.

worker: hold(gate.path)  -- begun -->  gate.wait_until_begun()
                         <-- open  --  gate.open()
"""

import os
import select
from pathlib import Path

BEGIN_S = 60
"""Seconds that a call may take to begin."""


class Gate:
    """Two named pipes in a folder of their own; any number of calls may wait at them."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        os.mkfifo(folder / "begun")
        os.mkfifo(folder / "open")
        # Open both ways, so that neither side ever waits for the other to open its end.
        self._begun = os.open(folder / "begun", os.O_RDWR)
        self._open = os.open(folder / "open", os.O_RDWR)

    def wait_until_begun(self, calls: int = 1) -> None:
        """Wait until this many more calls have begun."""
        for number in range(calls):
            ready, _, _ = select.select([self._begun], [], [], BEGIN_S)
            assert ready, f"only {number} of {calls} calls have begun"
            os.read(self._begun, 1)

    def open(self, calls: int = 1) -> None:
        """Let this many calls continue."""
        os.write(self._open, bytes(calls))

    def close(self) -> None:
        """Close the pipes. No call may wait any more."""
        os.close(self._begun)
        os.close(self._open)

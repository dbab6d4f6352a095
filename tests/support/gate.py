"""Calls that run until the test lets them go on, without anybody sleeping.

worker: hold(gate.path)  -- begun -->  gate.wait_until_begun()
                         <-- open  --  gate.open()
"""

import os
import select
from pathlib import Path

BEGIN_S = 60
"""How long a call may take to begin."""


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
        """Waits until so many more calls hold."""
        for number in range(calls):
            ready, _, _ = select.select([self._begun], [], [], BEGIN_S)
            assert ready, f"only {number} of {calls} calls have begun"
            os.read(self._begun, 1)

    def open(self, calls: int = 1) -> None:
        """Lets so many calls go on."""
        os.write(self._open, bytes(calls))

    def close(self) -> None:
        """For the end, when no call waits any more."""
        os.close(self._begun)
        os.close(self._open)

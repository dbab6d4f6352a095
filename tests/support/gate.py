"""Calls that run until the test lets them continue. Neither side polls or sleeps.

worker: hold(gate.path)  -- begun -->  gate.wait_until_begun()
                         <-- open  --  gate.open()
"""

import os
import select
import socket
import sys
import threading
from pathlib import Path

BEGIN_S = 60
"""Seconds that a call may take to begin."""


class GateOfPipes:
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


class GateOfSockets:
    """The same for Windows, where named pipes are no files: a call that waits is connected to a port."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        (folder / "port").write_text(str(self._listener.getsockname()[1]))
        self._begun = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._waiting: list[socket.socket] = []
        self._open = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                self._waiting.append(connection)
                if self._is_closed:
                    return
                self._let_go()
            self._begun.release()

    def _let_go(self) -> None:
        while self._open and self._waiting:
            connection = self._waiting.pop(0)
            with connection:
                if not select.select([connection], [], [], 0)[0]:  # else its worker has ended
                    connection.sendall(b"o")
                    self._open -= 1

    def wait_until_begun(self, calls: int = 1) -> None:
        """Wait until this many more calls have begun."""
        for number in range(calls):
            assert self._begun.acquire(timeout=BEGIN_S), f"only {number} of {calls} calls have begun"

    def open(self, calls: int = 1) -> None:
        """Let this many calls continue."""
        with self._lock:
            self._open += calls
            self._let_go()

    def close(self) -> None:
        """Close the port. No call may wait any more."""
        self._is_closed = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()
        for connection in self._waiting:
            connection.close()


Gate = GateOfSockets if sys.platform == "win32" else GateOfPipes

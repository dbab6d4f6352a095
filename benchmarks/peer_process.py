"""Runs each peer in a separate process. Peers do not affect each other, and a crash or a hang ends only one of them.

    suite                                        peer process
    PeerProcess.sample(case, effort) ──────────► takes the sample; the peer's workers are its children
              values, or SampleFailed ◄──────────

A peer process lives on for the next case and sleeps meanwhile. If a sample takes too long or the peer process has died,
the suite kills the process and everything that it has started. The next sample starts a new one.

python -m benchmarks.peer_process PEER PATH    runs the peer process; PATH is the suite's socket, since launchers close descriptors
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.idle import psutil
from benchmarks.limits import ROOT
from benchmarks.peers import Peer, find_peer
from benchmarks.samples import Effort, Values

SAMPLE_TIMEOUT_S = 60.0
"""Seconds after which a sample counts as hanging."""

EXIT_TIMEOUT_S = 15.0
"""Seconds within which a peer process must exit when the suite asks for it."""

POLL_INTERVAL_S = 0.5
"""Interval in which the suite checks that a silent peer process is still alive."""


class SampleFailed(Exception):
    """A peer gave no sample. The message gives the reason."""


class PeerProcess:
    """A peer process as the suite sees it.

    Args:
        peer: the peer that the process runs.
    """

    def __init__(self, peer: Peer) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile(prefix="pympipool-bench-")
        self._folder = tempfile.TemporaryDirectory(prefix="pympipool-bench-")
        path = os.path.join(self._folder.name, "suite")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._connection: Connection | None = None
        self._process = subprocess.Popen(
            [*peer.launcher, sys.executable, "-m", "benchmarks.peer_process", peer.name, path],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,  # keeps the output of peers out of the output of the suite
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the suite only, which ends its peer processes
        )

    def sample(self, case_name: str, effort: Effort, timeout_s: float = SAMPLE_TIMEOUT_S) -> Values:
        """Take a sample.

        Raises:
            SampleFailed: the peer raised, hung or died. If it hung or died, this peer process cannot be used again.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            if self._connection is None:
                self._wait_for(self._listener, deadline_s, timeout_s)
                self._connection = Connection(self._listener.accept()[0].detach())
            self._connection.send((case_name, effort))
            self._wait_for(self._connection, deadline_s, timeout_s)
            values, error = self._connection.recv()
        except (EOFError, OSError) as lost:
            raise SampleFailed(self._describe_death()) from lost
        if error is not None:
            raise SampleFailed(error)
        return values

    def _wait_for(self, source: socket.socket | Connection, deadline_s: float, timeout_s: float) -> None:
        """Wait until there is something to read, or to accept."""
        while not wait([source], POLL_INTERVAL_S):
            if self._process.poll() is not None:
                raise EOFError  # a read would not notice: remaining workers keep the connection open
            if time.monotonic() > deadline_s:
                self.kill()
                raise SampleFailed(f"not done within {timeout_s:.0f} s")

    def _describe_death(self) -> str:
        """Return the reason why the process has died or closed its connection, with its last line of output."""
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        cause = "closed its connection" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            cause = signal.Signals(-code).name
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return f"its process died ({cause}): {last[:160]}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process: ask it to exit, and kill it if it does not."""
        self._close_sockets()
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """Kill the process and everything that it has started."""
        processes = _process_tree(self._process.pid) if self.is_alive else []
        for process in processes:
            _kill(process.pid)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # descendants whose parent had already died
        except ProcessLookupError:
            pass
        self._process.wait()
        self._close_sockets()
        self._errors.close()
        self._folder.cleanup()

    def _close_sockets(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


class PeerProcesses:
    """The peer processes of one run, each started when it is first needed. Used in a with statement."""

    def __init__(self) -> None:
        self._processes: dict[str, PeerProcess] = {}

    def get(self, peer: Peer) -> PeerProcess:
        """Return the peer process of a peer. Start it if there is none."""
        if peer.name not in self._processes:
            self._processes[peer.name] = PeerProcess(peer)
        return self._processes[peer.name]

    def sample(self, peer: Peer, case_name: str, effort: Effort) -> Values:
        """Take a sample, as `PeerProcess.sample` does. A peer process that fails is killed."""
        peer_process = self.get(peer)
        try:
            return peer_process.sample(case_name, effort)
        except SampleFailed:
            # Leftovers of a failure must not affect the next sample.
            del self._processes[peer.name]
            peer_process.kill()
            raise

    def __enter__(self) -> PeerProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer_process in self._processes.values():
            peer_process.close()
        self._processes.clear()


def _environment() -> dict[str, str]:
    """Return the suite's environment, extended so that workers can import their functions and MPI finds mpiexec."""
    environment = dict(os.environ)
    for name, first in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
        environment[name] = os.pathsep.join([str(first), *filter(None, [os.environ.get(name)])])
    return environment


def _process_tree(pid: int) -> list[Any]:
    try:
        parent = psutil().Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil().NoSuchProcess:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


# ---- inside the peer process ----


def serve(peer: Peer, connection: Connection) -> None:
    """Take samples until the suite closes the connection or exits."""
    from benchmarks.cases import find_case

    with connection:
        while True:
            try:
                case_name, effort = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            try:
                values, error = find_case(case_name).sample(peer, effort), None
            except Exception as raised:
                values, error = (), f"{type(raised).__name__}: {raised}".splitlines()[0][:200]
            connection.send((values, error))


# As if this process were a user's script. `__mp_main__`: workers that multiprocessing starts afresh run this module too.
if __name__ in {"__main__", "__mp_main__"}:
    path = Path(__file__).with_name("script.py")
    exec(compile(path.read_text(), path, "exec"), globals())

if __name__ == "__main__":
    suite = socket.socket(socket.AF_UNIX)
    suite.connect(sys.argv[2])
    serve(find_peer(sys.argv[1]), Connection(suite.detach()))

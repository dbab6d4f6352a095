"""A peer in a process of its own, so that none disturbs another, and one that crashes or hangs ends nothing but itself.

    suite                                    station, one for each peer
    Station.sample(case, effort) ──────────► takes the sample; the peer's workers are its children
              values, or SampleFailed ◄──────

A station lives on for the next case and sleeps meanwhile. It and all that it has started is killed when a sample takes too
long or the station has died; the next sample starts another.

python -m benchmarks.station PEER FD      the station's side; FD is a socket
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.idle import psutil
from benchmarks.limits import ROOT
from benchmarks.peers import Peer, find_peer
from benchmarks.samples import Effort, Values

SAMPLE_WITHIN_S = 60.0
"""A peer that takes longer for one sample hangs."""

LOOK_EACH_S = 0.5
"""How often it is looked whether a station that says nothing still lives."""


class SampleFailed(Exception):
    """A peer gave no sample; says why."""


class Station:
    """The suite's side.

    Args:
        peer: whom it is for.
    """

    def __init__(self, peer: Peer) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile(prefix="pympipool-bench-")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.station", peer.name, str(theirs.fileno())],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._errors,  # peers say things that are not for the page
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the suite, which ends its stations
            )
        self._connection = Connection(ours.detach())

    def sample(self, case_name: str, effort: Effort, within_s: float = SAMPLE_WITHIN_S) -> Values:
        """Takes a sample.

        Raises:
            SampleFailed: the peer raised; or hung or died, and then this station is of no use any more.
        """
        try:
            self._connection.send((case_name, effort))
            values, error = self._answer(time.monotonic() + within_s, within_s)
        except (EOFError, OSError) as lost:
            raise SampleFailed(self._last_words()) from lost
        if error is not None:
            raise SampleFailed(error)
        return values

    def _answer(self, deadline_s: float, within_s: float) -> tuple[Values, str | None]:
        while not self._connection.poll(LOOK_EACH_S):
            if self._process.poll() is not None:
                raise EOFError  # workers that are left hold the connection open
            if time.monotonic() > deadline_s:
                self.kill()
                raise SampleFailed(f"not done within {within_s:.0f} s")
        answer: tuple[Values, str | None] = self._connection.recv()
        return answer

    def _last_words(self) -> str:
        """What is known of a process that has died, or is about to."""
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        cause = "closed its connection" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            cause = signal.Signals(-code).name
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"its process died ({cause}): {last[:160]}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends it, kindly first."""
        self._connection.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """Ends it and all that it has started."""
        family = _family(self._process.pid) if self.is_alive else []
        for process in family:
            _kill(process.pid)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # those whose parent has died before
        except ProcessLookupError:
            pass
        self._process.wait()
        self._connection.close()
        self._errors.close()


class Stations:
    """The stations of one run, each started when it is first needed; to be used in a with statement."""

    def __init__(self) -> None:
        self._stations: dict[str, Station] = {}

    def of(self, peer: Peer) -> Station:
        """The station of a peer, started now if there is none."""
        if peer.name not in self._stations:
            self._stations[peer.name] = Station(peer)
        return self._stations[peer.name]

    def sample(self, peer: Peer, case_name: str, effort: Effort) -> Values:
        """As `Station.sample`."""
        station = self.of(peer)
        try:
            return station.sample(case_name, effort)
        except SampleFailed:
            # Whatever is left of a failure must not be in the next sample.
            del self._stations[peer.name]
            station.kill()
            raise

    def __enter__(self) -> Stations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for station in self._stations.values():
            station.close()
        self._stations.clear()


def _environment() -> dict[str, str]:
    """The suite's, in which workers of every peer find the functions they run, and MPI its mpiexec."""
    environment = dict(os.environ)
    for name, first in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
        environment[name] = os.pathsep.join([str(first), *filter(None, [os.environ.get(name)])])
    return environment


def _family(pid: int) -> list[Any]:
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


# ---- the station's side ----


def serve(peer: Peer, connection: Connection) -> None:
    """Takes samples until the suite wants no more, or is gone."""
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


if __name__ == "__main__":
    serve(find_peer(sys.argv[1]), Connection(int(sys.argv[2])))

"""Starts and ends the relay, through which workers on other hosts reach the master.

    Relay.prepare(request) ── listens, starts the relay; again and again, until it serves ──> True
    Relay.environment(request) ──> the variables with which a worker reaches it

    Relay.check() ── now and then, while there are workers: "?" ──> relay ── "!" ──>
                  ── no answer for `ANSWER_TIMEOUT_S` ──> the relay is killed; its workers end, and the next starts another

The relay's own program is `pympipool.transport.tcp.relay_program`. This process listens in its place, before it starts, so that
agents start meanwhile. If it cannot serve after all, that is the reason why they do not reach it.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from time import monotonic
from typing import TYPE_CHECKING

from pympipool._util import subprocesses
from pympipool._util.clocks import CHECK_INTERVAL_S, RunningClock
from pympipool._util.platform import HAS_ABSTRACT_SOCKETS, SEND_FLAGS
from pympipool._util.service_threads import ServiceLogger, ServiceThread
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError, describe_exit
from pympipool.transport.fork_requests import pass_descriptors, receive_descriptors
from pympipool.transport.tcp.sockets import listen_on_unix_socket, own_addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

START_TIMEOUT_S = 30.0
"""Seconds that the relay may take to start; usually it takes 0.1 s. Nothing waits for it meanwhile but its workers."""

ASK_INTERVAL_S = 5.0
"""Interval between two checks that the relay answers."""

ANSWER_TIMEOUT_S = 15.0
"""Seconds that the relay may take to answer; usually it takes a millisecond. It may have to be swapped in."""

RECENT_S = 0.02
"""Seconds after a check within which another one is of no use."""

SILENT_AFTER_S = 0.2
"""Seconds after which a relay that has not answered counts as silent; usually it answers in a millisecond."""

PING = b"?"
"""What the relay answers with `PONG` (both are those of its program, which is not imported here)."""

PONG = b"!"
"""The relay's answer to `PING`. Other bytes come with the descriptor of a connection to an agent."""

_BACKLOG = 1024
"""Connections that may wait until the relay serves."""

_LOOPBACK = "127.0.0.1"

_ANSWER_BYTES = 4096
"""Bytes that are received from the relay at a time."""

_KILLED = 128 + signal.SIGKILL
"""Exit code of launchers for a worker that SIGKILL has ended, also its own watchdog when it had lost the master."""

LOGGER = ServiceLogger("pympipool.relay")


class Relay:
    """The relay of one executor.

    Args:
        local_only: True to listen on 127.0.0.1 only.
        is_on_one_host: True to listen on a Unix socket, where the system has such that are not files: no port is opened.
    """

    def __init__(self, *, local_only: bool, is_on_one_host: bool = False) -> None:
        self._local_only = local_only or is_on_one_host
        self._has_port = not (is_on_one_host and HAS_ABSTRACT_SOCKETS)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._addresses = ""  # until they are known
        self._hosts: Sequence[str] = ()  # the addresses of this host, once a thread has found them out
        self._search_error: Exception | None = None  # why it did not find them
        self._port = 0
        self._is_ready = False  # it serves, and sends nothing but pongs and agents
        self._has_hung_up = False
        self._answer = b""  # what has arrived of it
        self._failure: str | Exception | None = None  # why the last one does not start
        self._since_start = RunningClock()
        self._checked_s = 0.0
        self._since_ping: RunningClock | None = None  # of the ping that is not answered yet
        self._agents: list[socket.socket] = []  # connections to agents, until they are accepted

    @property
    def pid(self) -> int | None:
        """The id of the relay's process, None if it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def prepare(self, request: LaunchRequest, *, is_urgent: bool = False) -> bool:
        """Start the relay, without waiting for it; return False while it starts.

        Args:
            request: With the master's address and key.
            is_urgent: Return True as soon as the relay listens. It may turn out that it cannot serve: `has_failed`.
        """
        try:
            if self._is_ready and self._process is not None and self._process.poll() is not None:
                self.close()
            if self._process is None and self._failure is None:
                self._start(request)
            elif self._failure is None and self._is_starting:
                self._receive_answer()
        except Exception as error:  # OSError, WorkerStartError, MemoryError: `environment` raises it
            self._addresses, self._failure = "", error
        is_usable = bool(self._addresses) and (self._is_ready or is_urgent)
        return is_usable or self._failure is not None

    @property
    def _is_starting(self) -> bool:
        return not (self._is_ready and self._addresses)

    def environment(self, request: LaunchRequest) -> dict[str, str]:
        """Return the variables of a worker that may run on another host. To be called when `prepare` has returned True.

        Raises:
            WorkerStartError: The relay does not start; tells why. The next `prepare` starts another.
        """
        if not self._addresses:
            error, reason = self.start_error(), self._failure
            self.close()
            raise error from (reason if isinstance(reason, Exception) else None)
        return {
            "PYMPIPOOL_TCP": self._addresses,
            "PYMPIPOOL_HOST": socket.gethostname(),
            "PYMPIPOOL_CONNECT_S": str(request.connect_timeout_s),
        }

    @property
    def connection(self) -> socket.socket | None:
        """The socket on which the relay tells of agents; None: there is no relay, or it has ended, or it does not start."""
        return None if self._has_hung_up or self.has_failed else self._socket

    @property
    def is_listening(self) -> bool:
        """True once agents can connect, as far as this process knows."""
        return bool(self._addresses)

    @property
    def has_failed(self) -> bool:
        """True if the last relay did not start, and no other one was started."""
        return self._failure is not None

    def start_error(self) -> WorkerStartError:
        """Return an error that tells why the relay does not start."""
        return WorkerStartError(
            f"the relay to workers on other hosts does not start: {self._failure or 'it has ended'}. Workers of this host only"
            ' need none: backend="mpi"'
        )

    def _start(self, request: LaunchRequest) -> None:
        """Listen, and start the process, which gets the listening socket."""
        command = program_command("pympipool.transport.tcp.relay_program", "pympipool_relay")
        address, key = request.environment["PYMPIPOOL_ADDRESS"], request.environment["PYMPIPOOL_KEY"]
        with subprocesses.fork_lock, self._listen() as listener:
            self._process, self._socket = subprocesses.popen_with_socket(
                command, _relay_environment(request), "PYMPIPOOL_RELAY", stdout=subprocess.DEVNULL
            )
            with contextlib.suppress(ConnectionError):  # it has ended: `_receive_answer` finds out
                pass_descriptors(self._socket, f"{address} {key}\n".encode(), [listener.fileno()])
        self._since_start = RunningClock()
        self._socket.setblocking(False)
        if self._has_port and not self._hosts:
            if self._local_only:
                self._hosts = [_LOOPBACK]
            else:
                self._search_error = None
                ServiceThread("pympipool_addresses", self._find_addresses).start()
        self._note_addresses()

    def _listen(self) -> socket.socket:
        """Return a socket that listens. Its addresses may be known later."""
        if not self._has_port:
            listener, self._addresses = listen_on_unix_socket(_BACKLOG)
            return listener
        listener = socket.create_server((_LOOPBACK if self._local_only else "", 0), backlog=_BACKLOG)
        self._port = listener.getsockname()[1]
        return listener

    def _find_addresses(self) -> None:
        """Find out the addresses of this host. In a thread of its own, as servers may be asked that do not answer."""
        try:
            self._hosts = own_addresses() or [_LOOPBACK]
        except Exception as error:  # in whatever way a name server's answer is wrong: the start of the relay tells it
            self._search_error = error

    def _note_addresses(self) -> None:
        if self._hosts and self._failure is None:
            self._addresses = " ".join(f"{host}:{self._port}" for host in self._hosts)

    def _receive_answer(self) -> None:
        """Receive what has arrived of the relay's answer, or of its end."""
        self._note_addresses()
        with contextlib.suppress(OSError):
            self._receive()
        problem = self._start_problem() if self._is_starting else None
        if problem is not None:
            self._note_failure(problem)
            if self._process is not None:
                subprocesses.end(self._process)  # agents would go on waiting for it

    def _start_problem(self) -> str | None:
        """Return why the relay will not start; None: it still may."""
        host, error = socket.gethostname(), self._search_error
        if error is not None:
            return f"the addresses of this host ({host}) cannot be found ({type(error).__name__}: {error})"
        if self._since_start.elapsed() <= START_TIMEOUT_S:
            return None
        if not self._is_ready:
            return f"it has not answered within {START_TIMEOUT_S:g} s"
        return (
            f"the addresses of this host ({host}) are not known after {START_TIMEOUT_S:g} s, as its name server does not answer"
            " (a line for it in /etc/hosts needs none)"
        )

    def _take_answer(self, received: bytes) -> bytes:
        """Take the line in which the relay says whether it can serve. Return what has arrived after it."""
        self._answer += received
        while not self._is_ready and b"\n" in self._answer:
            line, _, self._answer = self._answer.partition(b"\n")
            status, _, text = line.decode(errors="replace").partition(" ")
            if status == "ready":
                self._is_ready = True
            else:
                self._note_failure(text)
        rest, self._answer = (self._answer, b"") if self._is_ready else (b"", self._answer)
        return rest

    def _note_failure(self, reason: str) -> None:
        """Take note why the relay does not start: the first reason that is known."""
        if self._failure is None:
            self._addresses, self._failure = "", reason
            LOGGER.info("%s", self.start_error())

    def is_silent(self) -> bool:
        """Return True if the relay has not answered a ping for a while; send it the next one if it has answered all."""
        if self._socket is None or not self._is_ready:
            return False
        try:
            self._receive()
            if self._since_ping is None:
                self._socket.send(PING, SEND_FLAGS)
                self._since_ping = RunningClock()
                return False
        except BlockingIOError:
            return True
        except OSError:  # it has ended, and its workers with it
            return False
        return self._since_ping.elapsed() > SILENT_AFTER_S

    def _receive(self) -> None:
        """Receive what the relay has sent: answers to pings, and connections to agents.

        Raises:
            OSError: The relay has ended.
        """
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors = receive_descriptors(self._socket, _ANSWER_BYTES)
                if not data:
                    self._has_hung_up = True
                    if not self._is_ready:
                        self._note_failure("it ended at once")
                    raise ConnectionError("the relay has ended")
                if not self._is_ready:
                    data = self._take_answer(data)
                if PONG in data:
                    self._since_ping = None
                self._agents += (socket.socket(fileno=descriptor) for descriptor in descriptors)

    def accept_agents(self) -> list[socket.socket]:
        """Return the connections to agents that have reached the relay since the last call."""
        if self._addresses and self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._receive()
        accepted, self._agents = self._agents, []
        return accepted

    def check(self) -> float | None:
        """End a relay that has not answered for `ANSWER_TIMEOUT_S`.

        Returns:
            The seconds until the next check, None if there is no relay, or one that does not start.
        """
        if monotonic() - self._checked_s < RECENT_S:  # many workers are started one after the other
            return ASK_INTERVAL_S
        self._checked_s = monotonic()
        if self._socket is not None and self._is_starting:  # agents are started meanwhile
            if self._failure is None:
                self._receive_answer()
            return CHECK_INTERVAL_S if self._failure is None else None  # whoever needs it tells of the failure
        if not self.is_silent() or self._since_ping is None:
            return None if self._socket is None else ASK_INTERVAL_S
        if self._since_ping.elapsed() < ANSWER_TIMEOUT_S:
            return CHECK_INTERVAL_S
        LOGGER.warning(
            "the relay to workers on other hosts has not answered for %g s, and is ended with its workers",
            ANSWER_TIMEOUT_S,
        )
        self.close()
        return None

    def loss_reason(self, pid: int | None, exit_code: int | None = _KILLED) -> str | None:
        """Return that a relay has ended, if that explains the end of its worker, or of its agent.

        Args:
            pid: The id of the relay's process when the worker was started.
            exit_code: The exit code of the worker's launcher.
        """
        if pid is None or exit_code != _KILLED:
            return None
        if self._socket is not None and self._process is not None:
            with contextlib.suppress(OSError):
                self._receive()
            if self._has_hung_up:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(subprocesses.END_TIMEOUT_S)  # it is just ending
        if pid == self.pid:
            return None
        how = ", or did not answer and was ended"
        if self._process is not None and self._process.pid == pid:
            how = f" ({describe_exit(self._process.returncode)})"
        place = f"{socket.gethostname()} (pid {pid})"
        return f"the relay on {place}, through which it was connected, has ended{how}; out of memory there?"

    def close(self) -> None:
        """End the relay, and with it the workers that are connected to it."""
        self.after_fork_in_child()
        self._since_ping = None
        self._addresses, self._answer, self._failure, self._is_ready, self._has_hung_up = "", b"", None, False, False
        if self._process is not None:
            subprocesses.end(self._process)
            self._process = None

    def after_fork_in_child(self) -> None:
        """Close the connection to the relay in a forked child."""
        while self._agents:
            self._agents.pop().close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _relay_environment(request: LaunchRequest) -> dict[str, str]:
    """Return the relay's environment, without the key: the relay gets the key through its socket."""
    return {name: value for name, value in worker_environment(request).items() if name != "PYMPIPOOL_KEY"}

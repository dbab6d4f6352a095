"""The agent: the program that starts the workers of one host, for a master on this or another host.

    relay ── REQUEST ─────────────────> agent ── request, pipes, connections ──> forkserver ── fork ──> worker
          <── DATA: output, status ────       <── stdout, stderr, status pipe ────────────────────────────┤
          <── DATA: messages ─────────>       <── messages ───────────────────────────────────────────────┘

A launcher starts it once on each host. It reports cores and devices of its host, has its forkserver (see `forkserver.py`),
a child process, fork workers, assigns them devices, and forwards what they print, how they end, and what they and the master send
to each other: all over one connection (`transport/tcp/agent_stream.py`). When that is cut off, the workers go on, and the agent
connects again. When the master is gone, the agent ends, and with it the forkserver and the workers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from pympipool._core import ring
from pympipool._util import signals
from pympipool._util.devices import IN_USE, assigned_devices
from pympipool._util.platform import HAS_EPOLL
from pympipool.transport import host_stream
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.fork_requests import RequestSender
from pympipool.transport.frames import STATUS, decode_body, encode_body
from pympipool.transport.host_stream import DATA, MESSAGES, PAUSE, RECALLS, REQUEST, RESUME
from pympipool.transport.tcp.agent_stream import Frame
from pympipool.transport.tcp.handshake import client_context
from pympipool.worker.agent_connection import AgentConnection
from pympipool.worker.agent_worker import UNREAD_MAX_BYTES, AgentWorker
from pympipool.worker.forkserver import Forkserver

FINAL_READS_MAX = 64
"""Reads of a stream after the end of its worker, at most. Only a surviving child of the worker could write more."""


class Template(NamedTuple):
    """What many workers have in common.

    Attributes:
        environment: Their environment, but for the number and the devices.
        imports: `sys.path`, and the modules to import before the fork.
        gpus: The number of devices of each.
        request: What the forkserver gets for workers without devices.
    """

    environment: dict[str, str]
    imports: tuple[object, ...]
    gpus: int
    request: bytes


class Agent:
    """The agent's loop.

    Args:
        connection: The connection to the relay.
        forkserver: The connection to the forkserver.
        devices: The name of the variable for devices, and those of this host; "": there are none.
    """

    def __init__(
        self, connection: AgentConnection, forkserver: socket.socket, devices: tuple[str, tuple[str, ...]]
    ) -> None:
        self._connection = connection
        self._frames = connection.frames
        self._forkserver = forkserver
        self._environment = dict(os.environ)
        self._device_variable, self._devices = devices
        self._requests = RequestSender(forkserver)
        self._template = Template({}, (), 0, b"")  # of the workers that are requested next
        self._workers: dict[int, AgentWorker] = {}  # by number
        self._sources: dict[int, tuple[AgentWorker, int]] = {}  # by descriptor
        self._events: dict[int, int] = {}  # what is waited for, of descriptors of workers
        self._poll: Any = select.epoll() if HAS_EPOLL else select.poll()
        self._master_poll: Any = select.epoll() if HAS_EPOLL else select.poll()  # of all but workers
        self._watches_writing = False
        for poll in (self._poll, self._master_poll):
            poll.register(forkserver, select.POLLIN)
        self._watch_connection()

    def run(self) -> NoReturn:
        """Serve until the master or the forkserver is gone."""
        while True:
            poll = self._master_poll if self._frames.is_full else self._poll
            events = poll.poll(0 if self._frames.is_buffered else None)
            try:
                self._serve(events)
                self._frames.flush()
            except EOFError as error:
                _end(0, error)
            except OSError:
                self._reconnect()
            if self._frames.is_waiting != self._watches_writing:
                self._watches_writing = not self._watches_writing
                for poll in (self._poll, self._master_poll):
                    poll.modify(self._frames.fileno(), select.POLLIN | select.POLLOUT * self._watches_writing)

    def _serve(self, events: list[tuple[int, int]]) -> None:
        """Do what has become possible.

        Raises:
            EOFError: The forkserver has ended.
            OSError: A connection to the relay has ended.
        """
        is_received = self._frames.is_buffered
        for descriptor, event in events:
            if descriptor == self._frames.fileno():
                is_received = is_received or bool(event & ~select.POLLOUT)
            elif descriptor == self._connection.keepalive.fileno():
                raise ConnectionError("the keepalive connection has ended")
            elif descriptor == self._forkserver.fileno():  # it sends nothing, so it has ended
                raise EOFError("the forkserver has ended")
            elif descriptor in self._sources:
                worker, stream = self._sources[descriptor]
                if event & select.POLLOUT:
                    self._send(worker, b"")
                if event & ~select.POLLOUT:
                    self._forward(worker, stream)
        if is_received:
            for frame in self._frames.receive():
                self._take_frame(frame)

    # ---- the connection ----

    def _watch_connection(self) -> None:
        for poll in (self._poll, self._master_poll):
            poll.register(self._frames.fileno(), select.POLLIN)
            poll.register(self._connection.keepalive, select.POLLIN)

    def _reconnect(self) -> None:
        """Connect to the relay again, while the workers go on; end this process if that fails."""
        for poll in (self._poll, self._master_poll):
            poll.unregister(self._frames.fileno())
            poll.unregister(self._connection.keepalive)
        try:
            self._connection.reconnect()
        except EOFError:
            os._exit(0)
        except (OSError, ValueError) as error:
            _end(1, error)
        self._watches_writing = False
        self._watch_connection()

    # ---- what the master asks for ----

    def _take_frame(self, frame: Frame) -> None:
        kind, stream, number, data = frame
        worker = self._workers.get(number)
        if kind == REQUEST:
            match decode_body(data):
                case ("workers", changed, removed, path, preload, gpus):
                    environment = self._environment_with(changed, removed)
                    request = self._request(environment, (path, preload), ())
                    self._template = Template(environment, (path, preload), gpus, request)
                case ("fork",):
                    self._fork(number, self._template)
                case ("signal", number, signal_number) if worker is not None:
                    worker.send_signal(signal_number)
        elif worker is None:
            return  # it has ended
        elif kind == DATA and stream == MESSAGES:
            if data:
                self._send(worker, data)
            elif MESSAGES in worker.sources:
                self._close(worker, MESSAGES)
        elif kind == DATA and stream == RECALLS:
            worker.request_recall(data)
        elif kind in {PAUSE, RESUME} and stream in worker.sources:
            self._watch(worker, stream, select.POLLIN, is_on=kind == RESUME)

    def _environment_with(self, changed: dict[str, str], removed: list[str]) -> dict[str, str]:
        """Return the environment of workers.

        Args:
            changed: Variables that they have, and that this process has not.
            removed: Variables that this process has, and the workers have not.
        """
        kept = {name: value for name, value in self._environment.items() if name not in removed}
        return {**kept, **changed}

    def _request(self, environment: dict[str, str], imports: tuple[object, ...], devices: Sequence[str]) -> bytes:
        """Return what the forkserver gets for workers with these devices."""
        of_devices = {self._device_variable: ",".join(devices)} if self._device_variable else {}
        return encode_body(({**environment, **of_devices}, None, *imports))

    def _fork(self, number: int, template: Template) -> None:
        """Have the forkserver fork a worker.

        Args:
            number: The worker's number.
            template: What it has in common with others.
        """
        devices: list[str] = []
        request = template.request
        if template.gpus:
            used = {name for other in self._workers.values() for name in other.devices}
            devices = [name for name in self._devices if name not in used][: template.gpus]
            request = self._request(template.environment, template.imports, devices)
        worker = AgentWorker(number, devices)
        try:
            if len(devices) < template.gpus:  # a worker that the master has given up still has them
                raise OSError(IN_USE)
            worker.request(self._requests, request)
        except OSError as error:
            self._frames.put(DATA, host_stream.STDERR, number, f"cannot fork a worker: {error}\n".encode())
            self._frames.put(DATA, host_stream.STATUS, number, STATUS.pack(0, 1))
            for stream in (host_stream.STDOUT, host_stream.STDERR, host_stream.STATUS, MESSAGES):
                self._frames.put(DATA, stream, number)
            return
        self._workers[number] = worker
        for stream, descriptor in worker.sources.items():
            self._sources[descriptor] = worker, stream
            self._events[descriptor] = select.POLLIN
            self._poll.register(descriptor, select.POLLIN)

    # ---- workers ----

    def _watch(self, worker: AgentWorker, stream: int, event: int, *, is_on: bool) -> None:
        descriptor = worker.sources[stream]
        events = self._events[descriptor]
        wanted = events | event if is_on else events & ~event
        if wanted != events:
            self._events[descriptor] = wanted
            self._poll.modify(descriptor, wanted)

    def _send(self, worker: AgentWorker, data: bytes | bytearray) -> None:
        """Send messages to a worker, or what it had no room for before."""
        left = worker.send(data)
        if MESSAGES in worker.sources:
            self._watch(worker, MESSAGES, select.POLLOUT, is_on=left > 0)
        if worker.is_paused != (left > UNREAD_MAX_BYTES if not worker.is_paused else left > 0):
            worker.is_paused = not worker.is_paused
            self._frames.put(PAUSE if worker.is_paused else RESUME, MESSAGES, worker.number)

    def _forward(self, worker: AgentWorker, stream: int) -> bool:
        """Forward what a worker has written to a stream; return False if there was nothing."""
        data = worker.read(stream)
        if data is None:
            return False
        if stream == host_stream.STATUS and worker.take_status(data):
            for other in (host_stream.STDOUT, host_stream.STDERR, MESSAGES):  # all of them come before the end
                for _ in range(FINAL_READS_MAX):
                    if not self._forward(worker, other):
                        break
            if MESSAGES in worker.sources:  # a child of the worker may hold it open
                self._frames.put(DATA, MESSAGES, worker.number)
                self._close(worker, MESSAGES)
        self._frames.put(DATA, stream, worker.number, data)
        if not data:
            self._close(worker, stream)
        return bool(data)

    def _close(self, worker: AgentWorker, stream: int) -> None:
        descriptor = worker.sources[stream]
        self._poll.unregister(descriptor)
        del self._sources[descriptor], self._events[descriptor]
        worker.close_source(stream)
        if not worker.sources:
            del self._workers[worker.number]


def _end(code: int, error: Exception) -> NoReturn:
    """End this process, and say why: the master tells what its launchers print last."""
    with contextlib.suppress(OSError):  # there is no stderr
        os.write(2, f"the agent has ended: {error}\n".encode())
    os._exit(code)


def main(host: str = "", slots: int | None = None, is_joining: bool = False) -> NoReturn:
    """Run the agent in the environment that a launcher made for it.

    Args:
        host: The name by which the master knows this host; "": the environment tells, or it is the host's own.
        slots: The number of cores for workers; None: the environment tells, or they are those that this process may use.
        is_joining: True if the master has not launched it.

    Raises:
        OSError: The master is gone, or cannot be reached from here.
    """
    signals.reset()
    if is_joining:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # of the terminal that it was started in
    cores = str(slots or os.environ.get(os.environ.pop("PYMPIPOOL_CORES_VARIABLE", ""), ""))
    name = os.environ.get(os.environ.pop("PYMPIPOOL_NAME_VARIABLE", ""), "")
    config = WorkerConfig.from_environ(os.environ)
    forkserver = _start_forkserver()
    devices = assigned_devices(os.environ) or ("", ())
    report = {
        "host": host or name or socket.gethostname(),
        "pid": os.getpid(),
        "cores": int(cores) if cores.isdigit() else _available_cores(),
        "gpus": len(devices[1]),
        "is_joining": is_joining,
    }
    Agent(AgentConnection(config, report), forkserver, devices).run()


def _available_cores() -> int:
    from pympipool.resources import available_cores  # only here: it takes a third of the start

    return available_cores()


def _start_forkserver() -> socket.socket:
    """Fork the forkserver from this process while it has one thread and no connection; return the socket that leads to it."""
    client_context()  # so that OpenSSL is initialized once, and not by each worker
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    if os.fork() == 0:
        ours.close()
        ring.end_with_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Forkserver(theirs).serve()
    theirs.close()
    return ours

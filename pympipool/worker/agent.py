"""The agent: the program that starts the workers of one host, for a master on this or another host.

    relay ── CONTROL: fork, signal ──> agent ── request, pipes ──> forkserver ── fork ──> worker
          <── PIPE: output, status ───       <── stdout, stderr, status pipe of each worker ──┘

A launcher starts it once on each host. It reports cores and devices of its host, has its forkserver (see `forkserver.py`),
a child process, fork workers, assigns them devices, and forwards what they print and how they end. The workers connect to
the master by themselves. When the master is gone, the agent ends, and with it the forkserver; its workers have watchdogs.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  used by each worker for the address that it connects to
import os
import select
import signal
import socket
from typing import NoReturn

from pympipool._core import ring
from pympipool._util import signals
from pympipool._util.devices import assigned_devices
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.fork_requests import send_request
from pympipool.transport.frames import RUNNING, STATUS, decode_body, encode_body
from pympipool.transport.tcp.client import open_connections
from pympipool.transport.tcp.handshake import client_context
from pympipool.transport.tcp.stream import AGENT, CONTROL, GO_ON, PAUSE, PIPE, STATUS_PIPE, Stream
from pympipool.worker.forkserver import Forkserver

READ_BYTES = 1 << 14
"""Bytes that one read takes from a pipe at most: as much as one TLS record holds."""

FINAL_READS_MAX = 64
"""Reads from a pipe after the end of its worker, at most. Only a surviving child of the worker could print more."""


class Agent:
    """The agent's loop.

    Args:
        stream: The connection to the relay.
        forkserver: The connection to the forkserver.
    """

    def __init__(self, stream: Stream, forkserver: socket.socket) -> None:
        self._stream = stream
        self._forkserver = forkserver
        self._environment = dict(os.environ)
        self._device_variable, self._devices = assigned_devices(os.environ) or ("", ())
        self._workers: dict[int, _Worker] = {}  # by number
        self._pipes: dict[int, tuple[_Worker, int]] = {}  # by descriptor
        self._poll = select.poll()
        self._poll.register(stream.fileno(), select.POLLIN)
        self._poll.register(forkserver, select.POLLIN)

    def run(self, cores: int) -> NoReturn:
        """Report this host's cores and devices, then serve until the master or the forkserver is gone."""
        report = {"host": socket.gethostname(), "pid": os.getpid(), "cores": cores, "gpus": len(self._devices)}
        self._stream.send(AGENT, 0, 0, [encode_body(("agent", report))])
        while True:
            ready = [] if self._stream.wait(0) else [descriptor for descriptor, _ in self._poll.poll()]
            if self._forkserver.fileno() in ready:  # it sends nothing, so it has ended
                os._exit(1)
            if self._stream.wait(0):
                self._take_message()
            elif self._may_send():
                for descriptor in ready:
                    if descriptor in self._pipes:
                        self._forward(*self._pipes[descriptor])

    def _may_send(self) -> bool:
        """Wait until the relay takes more, or has sent something: neither side may wait for the other to read."""
        waiter = select.poll()
        waiter.register(self._stream.fileno(), select.POLLIN | select.POLLOUT)
        return any(event & select.POLLOUT for _, event in waiter.poll())

    # ---- what the master asks for ----

    def _take_message(self) -> None:
        kind, number, pipe, parts = self._stream.receive()
        if kind == CONTROL:
            match decode_body(parts[0]):
                case ("fork", number, changed, removed, path, preload, gpus):
                    self._fork(number, changed, removed, (path, preload), gpus)
                case ("signal", number, signal_number):
                    if number in self._workers:
                        self._workers[number].send_signal(signal_number)
        elif kind in {PAUSE, GO_ON} and number in self._workers:
            descriptor = self._workers[number].pipes.get(pipe)
            if descriptor is not None:
                self._poll.modify(descriptor, select.POLLIN if kind == GO_ON else 0)

    def _fork(
        self, number: int, changed: dict[str, str], removed: list[str], imports: tuple[object, ...], gpus: int
    ) -> None:
        """Have the forkserver fork a worker.

        Args:
            number: The worker's number.
            changed: Variables that it has, and that this process has not.
            removed: Variables that this process has, and the worker has not.
            imports: `sys.path`, and the modules to import before the fork.
            gpus: The number of its devices.
        """
        used = {name for other in self._workers.values() for name in other.devices}
        devices = [name for name in self._devices if name not in used][:gpus]
        environment = {name: value for name, value in self._environment.items() if name not in removed}
        environment.update(changed)
        if self._device_variable:
            environment[self._device_variable] = ",".join(devices)
        pipes: list[tuple[int, int]] = []
        worker = _Worker(number, devices)
        try:
            pipes += (os.pipe() for _ in range(3))
            send_request(self._forkserver, encode_body((environment, None, *imports)), [writer for _, writer in pipes])
        except OSError as error:
            for reader, _ in pipes:
                os.close(reader)
            self._send(worker, 1, f"cannot fork a worker: {error}\n".encode())
            self._send(worker, STATUS_PIPE, STATUS.pack(0, 1))
            for kind in range(3):
                self._send(worker, kind, b"")
            return
        finally:
            for _, writer in pipes:
                os.close(writer)
        self._workers[number] = worker
        for kind, (reader, _) in enumerate(pipes):
            os.set_blocking(reader, False)
            worker.pipes[kind] = reader
            self._pipes[reader] = worker, kind
            self._poll.register(reader, select.POLLIN)

    # ---- what workers write ----

    def _forward(self, worker: _Worker, kind: int) -> bool:
        """Forward what a worker has written to a pipe; return False if there was nothing."""
        descriptor = worker.pipes.get(kind)
        if descriptor is None:
            return False
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if kind == STATUS_PIPE and worker.take_status(data):
            for output in range(STATUS_PIPE):  # all of it comes before the end
                for _ in range(FINAL_READS_MAX):
                    if not self._forward(worker, output):
                        break
        self._send(worker, kind, data)
        if not data:
            self._close(worker, kind)
        return bool(data)

    def _send(self, worker: _Worker, kind: int, data: bytes) -> None:
        self._stream.send(PIPE, worker.number, kind, [data])

    def _close(self, worker: _Worker, kind: int) -> None:
        descriptor = worker.pipes.pop(kind)
        self._poll.unregister(descriptor)
        del self._pipes[descriptor]
        os.close(descriptor)
        if not worker.pipes:
            del self._workers[worker.number]


class _Worker:
    """A worker as its agent sees it: the reading ends of its pipes, and its devices until it has ended."""

    def __init__(self, number: int, devices: list[str]) -> None:
        self.number = number
        self.devices = devices
        self.pipes: dict[int, int] = {}
        self._pid = 0  # while it runs, and the forkserver has told it
        self._signal = 0  # that is to be sent when the pid is known
        self._has_ended = False

    def take_status(self, records: bytes) -> bool:
        """Take records of the status pipe; return True if the worker has ended."""
        for pid, exit_code in STATUS.iter_unpack(records[: len(records) // STATUS.size * STATUS.size]):
            self._has_ended = exit_code != RUNNING
            self._pid = 0 if self._has_ended else pid
            if self._pid and self._signal:
                self.send_signal(self._signal)
        if self._has_ended or not records:
            self.devices = []
        return self._has_ended

    def send_signal(self, number: int) -> None:
        """Signal the worker and its process group, as soon as it is there."""
        self._signal = number
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, number)  # the process too: right after the fork it does not lead a group yet
                os.killpg(self._pid, number)


def main() -> NoReturn:
    """Run the agent in the environment that a launcher made for it.

    Raises:
        OSError: The master is gone, or cannot be reached from here.
    """
    signals.reset()
    cores = os.environ.get(os.environ.pop("PYMPIPOOL_CORES_VARIABLE", ""), "")
    config = WorkerConfig.from_environ(os.environ)
    forkserver = _start_forkserver()
    stream, keepalive, _ = open_connections(config)
    ring.start_watchdog(keepalive.fileno())
    Agent(stream, forkserver).run(int(cores) if cores.isdigit() else _available_cores())


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

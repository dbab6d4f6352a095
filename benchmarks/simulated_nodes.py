"""Nodes that only pretend to run workers: they show how master and relay scale, on one machine.

    benchmarks.scale ── Executor(backend="simulated") ── relay ── agents of 100 nodes, forks of one process
                                                                     each answers the calls of its 100 workers by itself

An agent here has the protocol of a real one, its encryption included. A call takes the time that the executor was made for, and
returns None: what it is, is not looked at. The time that messages are on their way can be added.

The nodes stand for other machines, but use the cores of this one: what they do for a call is as little as possible, and calls that
come together are answered together. It still counts in what is measured.
"""

from __future__ import annotations

import heapq
import os
import select
import struct
import sys
from collections import deque
from time import monotonic
from typing import Any, NoReturn

from pympipool._core import ring
from pympipool._util import signals
from pympipool.backends.agent.agents import Agents
from pympipool.backends.agent.launcher import Launcher
from pympipool.backends.agent.spawner import AgentSpawner
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.local.backend import LocalBackend
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.program import program_command
from pympipool.backends.relay_process import Relay
from pympipool.serialization.payload import dump
from pympipool.transport import host_stream
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import KEY_BYTES, RUNNING, STATUS, decode_body, encode_body, encode_hello
from pympipool.transport.host_stream import DATA, MESSAGES, RECALLS, REQUEST
from pympipool.transport.tcp.agent_stream import Frame
from pympipool.transport.tcp.stream import CONTROL, HELLO, READY, RECALLED, RESUME, Message, MessageParser, encode_head
from pympipool.worker.agent_connection import AgentConnection

NODES, WORKERS, CALL_S, LATENCY_S = "SIMULATED_NODES", "SIMULATED_WORKERS", "SIMULATED_CALL_S", "SIMULATED_LATENCY_S"
NONE = dump(None, "the result")

TOGETHER_S = 0.0005
"""Seconds by which answers are late at most, so that a node wakes up once for many."""

_CALL = struct.Struct("<HHIIIIQQ")
"""The head of a frame, and that of the message in it."""

_BEGUN_HERE = (ring.CALL, ring.FUNCTION)
_FRAME = struct.Struct("<HHII")
_FRAME_BYTES = _FRAME.size
_ANSWER = struct.pack(f"<{len(NONE)}Q", *map(len, NONE)) + b"".join(NONE)
_ANSWER_BYTES = _CALL.size - _FRAME_BYTES + len(_ANSWER)


class SimulatedLauncher(Launcher):
    """Starts all nodes as one process, which forks."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def start(self, request: Any, environment: Any, hosts: Any) -> ChildProcess:
        command = program_command("benchmarks.simulated_nodes", "simulated_nodes")
        return ChildProcess(command, {**environment, **self._variables}, None)


class SimulatedBackend(LocalBackend):
    """A backend whose workers only pretend."""

    name = "simulated"
    nodes, workers, call_s, latency_s = 1, 1, 0.0, 0.0

    def __init__(self) -> None:
        super().__init__()
        values = {NODES: self.nodes, WORKERS: self.workers, CALL_S: self.call_s, LATENCY_S: self.latency_s}
        self._relay = Relay(local_only=True)
        self._agents = Agents(SimulatedLauncher({name: str(value) for name, value in values.items()}), self._relay)

    def uses_agents(self, resources: Any) -> bool:
        return True

    def for_block(self, resources: Any) -> AgentSpawner:
        return AgentSpawner(resources, self._agents, LocalSpawner())

    def close(self) -> None:
        super().close()
        self._relay.close()


class Node:
    """The agent of one node."""

    def __init__(self, config: WorkerConfig, name: str) -> None:
        self.name = name
        self.call_s, self.latency_s = float(os.environ[CALL_S]), float(os.environ[LATENCY_S])
        report = {"host": name, "pid": os.getpid(), "cores": int(os.environ[WORKERS]), "gpus": 0, "is_joining": False}
        self._connection = AgentConnection(config, report)
        self.frames = self._connection.frames
        self._workers: dict[int, Worker] = {}
        self._due: list[tuple[float, int, bytes | bytearray]] = []  # a heap of frames that are to be sent, and when
        self._count = 0
        self.frames.take_small = self._begin_small

    def _begin_small(self, incoming: bytearray, position: int) -> int:
        """Begin small calls to idle workers, with as little of this machine's time as possible."""
        out = bytearray()
        end = len(incoming)
        delay_s = self.call_s + 2 * self.latency_s
        run_ns = int(self.call_s * 1e9)
        now = monotonic()
        while end - position >= _CALL.size:
            kind, stream, number, size, message, parts, call, _ = _CALL.unpack_from(incoming, position)
            worker = self._workers.get(number)
            is_small = (kind, stream) == (DATA, MESSAGES) and worker is not None and worker.is_idle(now)
            if not is_small or message not in _BEGUN_HERE or position + _FRAME_BYTES + size > end:
                break
            sizes = struct.unpack_from(f"<{parts}Q", incoming, position + _CALL.size)
            if size != _CALL.size - _FRAME_BYTES + 8 * parts + sum(sizes):  # several messages, or a part of one
                break
            if message == ring.CALL:  # what a function is, is not looked at
                if delay_s:
                    worker.run(now + self.call_s, call)
                out += _CALL.pack(DATA, MESSAGES, number, _ANSWER_BYTES, ring.RESULT, len(NONE), call, run_ns)
                out += _ANSWER
            position += _FRAME_BYTES + size
        if out and delay_s:
            self._send_at(now + delay_s, out)
        elif out:
            self._append(out)
        return position

    def _append(self, frames: bytes | bytearray) -> None:
        segment = self.frames.segment()
        segment += frames
        self.frames.note_appended(len(frames))

    def run(self) -> NoReturn:
        """Serve until the master is gone."""
        frames, keepalive = self.frames.fileno(), self._connection.keepalive.fileno()
        while True:
            timeout_s = max(0.0, self._due[0][0] - monotonic()) + TOGETHER_S if self._due else None
            timeout_s = 0 if self.frames.is_buffered else timeout_s
            # not by poll, whose milliseconds would make calls longer still
            writing = [frames] if self.frames.is_waiting else []
            readable, _, _ = select.select([frames, keepalive], writing, [], timeout_s)
            if keepalive in readable:
                os._exit(0)
            for frame in self.frames.receive():
                self._take(frame)
            now = monotonic()
            while self._due and self._due[0][0] <= now:
                self._append(heapq.heappop(self._due)[2])
            self.frames.flush()

    def _take(self, frame: Frame) -> None:
        kind, stream, number, data = frame
        if kind == REQUEST:
            request = decode_body(data)
            if request[0] == "fork":
                self._workers[number] = Worker(self, number)
            elif number in self._workers:
                self._workers.pop(number).end(-request[2])
        elif number in self._workers and kind == DATA:
            if stream == RECALLS:
                self._workers[number].recall()
            elif stream == MESSAGES and not self._workers[number].take(data):
                self._workers.pop(number).end(0)

    def send_at(self, time_s: float, number: int, message: bytes) -> None:
        """Send a message of a worker later."""
        self._send_at(time_s, _FRAME.pack(DATA, MESSAGES, number, len(message)) + message)

    def _send_at(self, time_s: float, frames: bytes | bytearray) -> None:
        self._count += 1
        heapq.heappush(self._due, (time_s, self._count, frames))


class Worker:
    """A worker that only pretends to run calls."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._number = number
        self._parser = MessageParser()
        self._running: deque[tuple[float, int]] = deque()  # when calls end, and their ids
        self._skips = False
        node.frames.put(DATA, host_stream.STATUS, number, STATUS.pack(number, RUNNING))
        self.send(_message(HELLO, encode_hello(bytes(KEY_BYTES), number, 0)))

    def is_idle(self, now: float) -> bool:
        """Return True if it runs no call, and has received no part of a message."""
        while self._running and self._running[0][0] <= now:
            self._running.popleft()
        return not self._running and self._parser.is_empty and not self._skips

    def run(self, end_s: float, call: int) -> None:
        """Take note of a call that it runs until some time."""
        self._running.append((end_s, call))

    def send(self, message: bytes) -> None:
        """Send a message now."""
        self._node.frames.put(DATA, MESSAGES, self._number, message)

    def take(self, data: bytes) -> bool:
        """Take what the master has sent; return False at the end."""
        return bool(data) and all(self._take_message(message) for message in self._parser.feed(data))

    def _take_message(self, message: Message) -> bool:
        kind, call, _, _ = message
        if kind == ring.CALL:
            self._begin(call)
        elif kind == CONTROL:
            ready = ("ready", {"pid": self._number, "host": self._node.name, "rank": 0})
            self.send(_message(READY, encode_body(ready)))
        elif kind == RESUME:
            self._skips = False
        return kind != ring.END

    def _begin(self, call: int) -> None:
        if self._skips:
            return
        node, now = self._node, monotonic()
        while self._running and self._running[0][0] <= now:
            self._running.popleft()
        end_s = (self._running[-1][0] if self._running else now) + node.call_s
        answer = encode_head(ring.RESULT, call, int(node.call_s * 1e9), [len(part) for part in NONE])
        answer += b"".join(NONE)
        if end_s + 2 * node.latency_s <= now:
            self.send(answer)
        else:
            self._running.append((end_s, call))
            node.send_at(end_s + 2 * node.latency_s, self._number, answer)

    def recall(self) -> None:
        """Return the calls that have not begun. Those that were sent ahead are short, so here none waits long."""
        if len(self._running) == 1:
            self._skips = True
            self.send(encode_head(RECALLED, self._running[0][1], 0, [0]))

    def end(self, exit_code: int) -> None:
        """Tell the master that the worker has ended."""
        frames = self._node.frames
        frames.put(DATA, MESSAGES, self._number)
        frames.put(DATA, host_stream.STATUS, self._number, STATUS.pack(self._number, exit_code))
        for stream in (host_stream.STDOUT, host_stream.STDERR, host_stream.STATUS):
            frames.put(DATA, stream, self._number)


def _message(kind: int, part: bytes) -> bytes:
    return encode_head(kind, 0, 0, [len(part)]) + part


def main() -> NoReturn:
    """Fork an agent for each node, and wait until all have ended."""
    signals.reset()
    config = WorkerConfig.from_environ(os.environ)
    parent = os.getpid()
    for number in range(int(os.environ[NODES])):
        if os.fork() == 0:
            ring.end_with_parent(parent)
            Node(config, f"node{number + 1}").run()
    for _ in range(int(os.environ[NODES])):
        os.wait()
    sys.exit(0)

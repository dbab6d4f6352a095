"""A minimal master for one worker: listener, link and process, without pool, dispatcher and futures."""

from __future__ import annotations

import selectors
import time
from typing import Any

from pympipool._core import ring
from pympipool._core.channel import MasterChannel
from pympipool.backends.spawner import LaunchRequest, Spawner
from pympipool.pool.script_context import script_context
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception
from pympipool.transport.control_server import Connection
from pympipool.transport.shm import ShmLink
from support.ranks_channel import RanksChannel
from support.unseen_listener import UnseenListener

LIMIT_S = 50.0

_NAMES = {ring.RESULT: "result", ring.ERROR: "error"}


class TinyMaster:
    """A master that starts one worker and talks to it. Every wait has a time limit.

    Args:
        link_ranks: The number of ranks that use the link: one, or all.
        sends_settings: Answer the hello of each rank with its settings.

    Attributes:
        frames: frames from the ranks, [(rank, frame), ...].
        gone: ranks that have closed their connection.
    """

    NUMBER = 7

    def __init__(
        self,
        spawner: Spawner,
        *,
        ranks: int = 1,
        environment: dict[str, str] | None = None,
        folder: str | None = None,
        link_ranks: int = 1,
        sends_settings: bool = True,
        **settings: Any,
    ) -> None:
        self.settings = {
            "cwd": None,
            **script_context(),
            "initializer": None,
            "init_function": None,
            "thread_name_prefix": "",
            "worker_id": 0,
            "max_calls": 0,
            "announces_last": False,
            "direct_output": False,
            "inheritance": 0,
            "left_results": None,
            **settings,
        }
        self.ranks = ranks
        self.sends_settings = sends_settings
        self.listener = UnseenListener()
        self.channel: MasterChannel | RanksChannel | None = RanksChannel() if link_ranks > 1 else None
        self.doorbells = self.channel.doorbells if self.channel else ring.doorbell_segment()
        self.link = ShmLink(self.doorbells, link_ranks)
        self.connections: dict[int, Connection] = {}
        self.frames: list[tuple[int, tuple[Any, ...]]] = []
        self.gone: list[int] = []
        self.output = {"stdout": b"", "stderr": b""}
        self.next_id = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        variables = self.listener.environment(self.NUMBER, ranks)
        order = LaunchRequest(self.NUMBER, ranks, {**variables, **(environment or {})}, folder)
        try:
            self.process = spawner.start(order)
        except BaseException:
            self.listener.close()
            raise
        for name, pipe in (("stdout", self.process.stdout), ("stderr", self.process.stderr)):
            self.selector.register(pipe, selectors.EVENT_READ, lambda name=name, pipe=pipe: self._read(name, pipe))

    # ---- events ----

    def until(self, condition: Any, what: str) -> None:
        """Handle events until condition() is true."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{what} did not happen; frames {self.frames}, output {self.output}"
            for key, _ in self.selector.select(min(left_s, 1.0)):
                key.data()

    def _accept(self) -> None:
        connection = self.listener.accept()
        if connection is not None:
            self.selector.register(connection, selectors.EVENT_READ, lambda: self._greet(connection))

    def _greet(self, connection: Connection) -> None:
        greeting = connection.handshake()
        if greeting is None:
            return
        worker, rank = greeting
        assert worker == self.NUMBER
        assert rank not in self.connections
        self.connections[rank] = connection
        self.selector.modify(connection, selectors.EVENT_READ, lambda: self._take(rank, connection))
        if self.sends_settings:
            connection.send(("setup", self.settings), self.link.descriptors(rank))

    def _take(self, rank: int, connection: Connection) -> None:
        try:
            self.frames += [(rank, frame) for frame in connection.receive_available()]
        except (EOFError, OSError):
            self.gone.append(rank)
            self.selector.unregister(connection)

    def _read(self, name: str, pipe: Any) -> None:
        data = pipe.read(1 << 16)
        if data == b"":
            self.selector.unregister(pipe)
        self.output[name] += data or b""

    # ---- actions ----

    def said(self, word: str) -> list[tuple[Any, ...]]:
        """Return the frames with this word."""
        return [frame for _, frame in self.frames if frame[0] == word]

    def ready(self) -> TinyMaster:
        """Wait until all ranks are ready."""
        self.until(lambda: self.said("start_failed") or len(self.said("ready")) == self.ranks, "ready")
        for frame in self.said("start_failed"):
            raise load_exception(frame[1])
        if self.channel:
            self.channel.open(self.link.segment)
        else:
            self.channel = MasterChannel(self.link.segment, self.doorbells)
        self.link.handed_over()
        return self

    def failure(self) -> BaseException:
        """Wait for a rank that cannot start, and return its error."""
        self.until(lambda: self.said("start_failed"), "a failure")
        return load_exception(self.said("start_failed")[0][1])

    def send(self, function: Any, *args: Any, **kwargs: Any) -> int:
        """Send a call with its function."""
        self.next_id += 1
        self.channel.send(ring.CALL, self.next_id, 0, payload.dump_call(0, function, args, kwargs))
        return self.next_id

    def send_function(self, number: int, function: Any) -> None:
        """Send a function that calls may refer to."""
        self.channel.send(ring.FUNCTION, 0, number, payload.dump(function))

    def send_call(self, number: int, *args: Any, **kwargs: Any) -> int:
        """Send a call that refers to a function."""
        self.next_id += 1
        self.channel.send(ring.CALL, self.next_id, number, payload.dump_call(number, None, args, kwargs))
        return self.next_id

    def end(self) -> int | None:
        """Send END, wait for the worker to exit, and return its exit code."""
        self.channel.send(ring.END, 0, 0, [b""])
        return self.wait()

    def wait(self) -> int | None:
        """Wait for the worker to exit and for the rest of its output, and return its exit code."""
        code = self.process.wait(LIMIT_S)
        assert code is not None, f"the worker does not end; frames {self.frames}, output {self.output}"
        watched = self.selector.get_map()
        self.until(lambda: self.process.stdout not in watched and self.process.stderr not in watched, "end of output")
        return code

    def receive(self, timeout_s: float = LIMIT_S) -> tuple[str, int, int, Any]:
        """Return the next ("result" or "error", id, run time in ns, value or exception)."""
        message = self.channel.receive(timeout_s)
        assert message is not None, f"no answer; output {self.output}"
        kind, call, tag, parts = message
        load = payload.load if kind == ring.RESULT else load_exception
        return _NAMES[kind], call, tag, load(parts)

    def result(self) -> Any:
        """Return the value of the next answer, which must be a result."""
        kind, _, _, value = self.receive()
        if kind == "error":
            raise value
        return value

    def close(self) -> None:
        """Kill the worker and close everything immediately."""
        for connection in self.connections.values():
            connection.close()
        self.listener.close()
        self.process.kill()
        assert self.process.wait(LIMIT_S) is not None
        self.process.kill()
        self.process.close()
        self.selector.close()
        self.link.handed_over()

    def __enter__(self) -> TinyMaster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""The worker's end of a control connection.

    WorkerConfig.from_environ(environ)  reads what the master has put into the environment (bootstrap.py)
    connect(config)                     returns a WorkerControl if the master is on this host, else a TcpControl
    WorkerControl.connect(config)       checks that the listener belongs to the same user; on Windows, that it knows the key
      .send_hello(config, rank)         hello
      .receive_setup()                  settings, and the descriptors of the link if this rank uses it
      .open_channel(descriptors)        the channel of the link
      .send_ready() .send_start_failed() .send_rank_error() .send_last_call() .send_exiting()   besides results

All operations block: a rank has nothing else to do meanwhile, and its watchdog ends it when the master is gone.
"""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock

from pympipool._util.cmodules import socket
from pympipool._util.platform import IS_WINDOWS, close_descriptor
from pympipool.serialization import drop_released
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import ProtocolError, encode_frame, with_length
from pympipool.transport.shm import open_channel

if IS_WINDOWS:
    from pympipool.transport import local_windows as local
else:
    from pympipool.transport import local_unix as local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from pympipool._core.channel import Channel
    from pympipool._core.private_copies import Usage
    from pympipool.transport.frames import Frame
    from pympipool.transport.tcp.client import TcpChannel, TcpControl

    Control: TypeAlias = "WorkerControl | TcpControl"
    Link: TypeAlias = "Channel | TcpChannel"


def connect(config: WorkerConfig) -> WorkerControl | TcpControl:
    """Connect to the master: over its Unix socket if that works, which proves that it is on this host.

    Otherwise through the agent that has started this process, or over TCP.

    Raises:
        OSError: The master is gone, or cannot be reached from here.
        PermissionError: Another user listens at the address.
    """
    if not config.tcp_addresses:
        return WorkerControl.connect(config)
    if config.address:  # else it is known that the master is on another host
        try:
            control = WorkerControl.connect(config)
        except (ConnectionRefusedError, FileNotFoundError):  # no such socket on this host
            pass
        else:
            for descriptor in config.agent_sockets:
                os.close(descriptor)
            return control
    from pympipool.transport.tcp.client import TcpControl

    return TcpControl.through_agent(config) if config.agent_sockets else TcpControl.connect(config)


class WorkerControl:
    """The connection of this rank to the master."""

    def __init__(self, connection: socket.socket) -> None:
        self._end = local.WorkerEnd(connection)
        self._lock = allocate_lock()
        self._request_lock = allocate_lock()
        self._is_answer_due = False  # to a request, which an exception may have interrupted
        self._address = ""
        self._has_link = False
        self._written: Usage | None = None  # how much of their large arguments the calls have written

    @classmethod
    def connect(cls, config: WorkerConfig) -> WorkerControl:
        """Connect to the listener, and check that it belongs to the same user.

        Raises:
            OSError: The master is gone.
            PermissionError: Another user listens at the address.
        """
        control = cls(local.connect(config.address))
        control._address = config.address
        return control

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._end.socket.fileno()

    def watched_master(self) -> int:
        """Return what tells the watchdog, or multiprocessing, that the master has ended; for the caller to keep."""
        return local.watched_master(self._address, self.fileno())

    def send_hello(self, config: WorkerConfig, rank: int, *, is_relayed: bool = False) -> None:
        """Send the hello: the key, the worker's number and this rank, for which the relay may stand in."""
        with self._lock:
            self._end.greet(config, rank, is_relayed=is_relayed)

    def receive_setup(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the settings, which come when all ranks have connected, and for the descriptors that come with them.

        Raises:
            EOFError: The master hung up, so it does not accept this rank.
            ProtocolError: The frame is not a setup.
        """
        frame, descriptors = self._end.receive_frame()
        if frame[0] != "setup" or len(frame) != 2:
            raise ProtocolError(f"the master sent a {frame[0]!r} frame where a setup was expected")
        return frame[1], descriptors

    def request_resource_tracker(self) -> int | None:
        """Return the descriptor of the resource tracker of the master's multiprocessing; None if it has none to share."""
        _, descriptors = self._request("resource_tracker")
        return descriptors[0] if descriptors else None

    def request_script_object(self, name: str) -> bytes | None:
        """Return the pickle of a class or function that the script has under this name; None if there is none."""
        (_, pickled), _ = self._request("script_object", name)
        return pickled  # type: ignore[no-any-return]

    def request_shared(self, key: bytes) -> int | None:
        """Return a descriptor of the memory of shared data; None if they have been released.

        Raises:
            OSError: This process has no descriptor free.
        """
        return shared_descriptor(*self._request("shared", key))

    def load_stored_parts(self, call: int, sizes: Sequence[int]) -> list[memoryview]:
        """Return large parts of a call, which lie in shared memory once for all ranks. What a rank writes there is its own.

        Args:
            call: Its id.
            sizes: Of these parts, in their order.

        Raises:
            MemoryError, OSError: This process has no memory, no descriptor, or no room for a mapping.
        """
        from pympipool._core.private_copies import Usage, private_part

        _, descriptors = self._request("stored_parts", call)
        try:
            if len(descriptors) != len(sizes):  # the system drops those for which there is no room
                raise OSError(
                    errno.EMFILE,
                    f"process {os.getpid()} has got {len(descriptors)} of {len(sizes)} descriptors for large arguments of a call:"
                    " unless the script has given the call up, raise the limit of open files (ulimit -n) there and in the script",
                )
            if self._written is None:
                self._written = Usage(of_writing=True)
            return [
                private_part(descriptor, size_bytes, self._written)
                for descriptor, size_bytes in zip(descriptors, sizes, strict=True)
            ]
        finally:
            for descriptor in descriptors:
                close_descriptor(descriptor)

    def drop_released(self) -> None:
        """Drop the shared data that have ended. Between calls, for ranks that have no channel; the channel does so by itself."""
        drop_released()

    def hand_over_shared(self, key: bytes, descriptor: int, part_keys: list[bytes]) -> bool:
        """Have the master keep what the running call has put into shared memory for its result.

        Args:
            key: Names it.
            descriptor: Of its memory.
            part_keys: Name those that are part of it, which the master keeps already.

        Returns:
            False if this rank sends its answers through another one: then the master does not know which call it runs.

        Raises:
            OSError: The master cannot keep it.
        """
        if not self._has_link:
            return False
        (_, problem), _ = self._request("keep_shared", key, part_keys, descriptors=(descriptor,))
        if problem:
            raise OSError(f"the master cannot keep shared data: {problem}")
        return True

    def _request(self, *frame: Any, descriptors: tuple[int, ...] = ()) -> tuple[Frame, list[int]]:
        """Send a request; return the master's answer. Calls may have threads: one of them asks at a time.

        A signal handler of the call may raise at any step. If it does while this thread waits, the next request skips the answer.
        """
        data = encode_frame(frame)
        with self._request_lock:
            if self._is_answer_due:
                for unwanted in self._take_answer()[1]:
                    close_descriptor(unwanted)
            try:
                self._is_answer_due = True
                try:
                    self._send(data, descriptors)
                except OSError as error:
                    self._is_answer_due = not _is_of_system(error)  # else nothing was sent
                    raise
            except BaseException:
                if self._is_answer_due:
                    self.hang_up()
                raise
            return self._take_answer()

    def _take_answer(self) -> tuple[Frame, list[int]]:
        self._end.socket.recv(1, socket.MSG_PEEK)  # waits
        try:
            answer = self._end.receive_frame()
            self._is_answer_due = False
        except BaseException:
            self.hang_up()  # there may be more to come of this answer
            raise
        return answer

    def open_channel(self, descriptors: Sequence[int], rank: int = 0) -> Channel:
        """Return the channel on which calls arrive and results are sent (see `shm.open_channel`)."""
        channel = open_channel(descriptors, rank)
        channel.times_imports = rank == 0
        channel.on_notice = drop_released
        channel.load_stored = self.load_stored_parts
        self._has_link = True
        return channel

    def send_ready(self, rank: int) -> None:
        """Tell the master that serving begins."""
        self._send(encode_frame(("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank})))

    def send_start_failed(self, parts: Sequence[Any], function: str = "") -> None:
        """Tell the master why this rank cannot serve: the parts of an exception.

        Args:
            function: The parameter of the user's function that has raised it; "": none.
        """
        self._send(encode_frame(("start_failed", [bytes(part) for part in parts], function)))

    def send_rank_error(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Tell the master that this rank's call raised, while the other ranks may wait for it in a collective.

        Raises:
            ValueError: The exception is larger than a frame may be. Nothing was sent.
        """
        self._send(encode_frame(("rank_error", rank, call, [bytes(part) for part in parts])))

    def send_last_call(self) -> None:
        """Tell the master that this process begins its last call, and will then exit."""
        self._send(encode_frame(("last_call",)))

    def send_exiting(self, why: str) -> None:
        """Tell the master that this process ends now without having been told to, and why."""
        self._send(encode_frame(("exiting", why)))

    def forward(self, body: bytes | bytearray) -> None:
        """Send the body of a frame that another process has encoded."""
        self._send(with_length(body))

    def release(self) -> None:
        """Leave the connection to the system, which ends it with the process: Python would warn of an open one."""
        self._end.release()

    def hang_up(self) -> None:
        """End the connection. Its descriptor stays open for other threads that still use it. From any thread."""
        try:
            self._end.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection has ended already

    def close(self) -> None:
        """Hang up. A worker never does so: its watchdog waits on the connection to the end."""
        self._end.socket.close()

    def _send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        with self._lock:  # a call may have threads, and one of them may ask for the resource tracker
            try:
                self._end.send(data, descriptors)
            except BaseException as error:
                if not _is_of_system(error):  # but of a signal handler
                    self.hang_up()  # a part of the frame may have been sent
                raise


def _is_of_system(error: BaseException) -> bool:
    """Return True for an error of sending. Signal handlers raise such, too, but most often a TimeoutError, or without a number."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, TimeoutError)


def shared_descriptor(answer: Frame, descriptors: list[int]) -> int | None:
    """Return the descriptor of shared data from the master's answer; None if they have been released.

    Raises:
        OSError: This process has no descriptor free.
    """
    _, is_there = answer
    if is_there and not descriptors:  # the system drops those for which there is no room
        raise OSError(
            errno.EMFILE,
            f"process {os.getpid()} has no descriptor free for shared data: raise the limit (ulimit -n)",
        )
    return descriptors[0] if descriptors else None

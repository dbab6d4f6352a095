"""The template: a warm process of one thread that forks a worker for each order.

    master ── order, three descriptors ──> template ── fork ──> worker: serves one call, ends
           <── pid, later exit code (status pipe of that worker) ──┘

It has imported what every worker needs, and nothing else: no thread, lock or open file of the user's program is in
it, because it was started afresh, and nothing of the call before, because no call runs in it. When the master
hangs up it ends; its workers have watchdogs of their own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from array import array
from typing import NoReturn

from pympipool.transport.frames import LENGTH_BYTES, STATUS, decode_body, decode_length

DESCRIPTORS = 3
"""That come with an order: stdout, stderr, status pipe."""


class Template:
    """The template's loop: orders in, forks, ends reported.

    Args:
        master: the connection over which orders come.
    """

    def __init__(self, master: socket.socket) -> None:
        self.master = master
        self.environment = dict(os.environ)
        self.statuses: dict[int, int] = {}  # pid of a worker -> its status pipe
        self.wake = os.pipe()
        for descriptor in self.wake:
            os.set_blocking(descriptor, False)

    def serve(self) -> NoReturn:
        """Forks workers until the master hangs up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake[1])
        waiter = select.poll()
        waiter.register(self.master, select.POLLIN)
        waiter.register(self.wake[0], select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in waiter.poll()]
            if self.wake[0] in ready:
                os.read(self.wake[0], 4096)
                self._report_ends()
            if self.master.fileno() in ready:
                self._take_order()

    def _take_order(self) -> None:
        order = _receive_order(self.master)
        if order is None:
            os._exit(0)
        environment, cwd, (stdout, stderr, status) = order
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(BrokenPipeError):
                os.write(stderr, f"cannot fork a worker: {error}\n".encode())
            _tell(status, 0, 1)
            os.close(status)
        else:
            if pid == 0:
                os.close(status)
                self._let_go()
                _set_environment(environment, self.environment)
                _become_worker(cwd, stdout, stderr)
            self.statuses[pid] = status
            _tell(status, pid)
        os.close(stdout)
        os.close(stderr)

    def _let_go(self) -> None:
        """In the child: closes what is the template's."""
        signal.set_wakeup_fd(-1)
        for descriptor in (*self.statuses.values(), *self.wake):
            os.close(descriptor)
        self.master.close()

    def _report_ends(self) -> None:
        """Tells the master of the workers that have ended."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind; as a zombie it still keeps the id
            _, end = os.waitpid(pid, 0)
            status = self.statuses.pop(pid)
            _tell(status, os.waitstatus_to_exitcode(end))
            os.close(status)


def _tell(status: int, *numbers: int) -> None:
    """Writes numbers to the pipe that tells of one worker, unless nobody reads it any more: what to do then the next order says."""
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"".join(STATUS.pack(number) for number in numbers))


def main() -> NoReturn:
    """Runs the template on the connection whose descriptor the environment names."""
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_FORKSERVER")))
    _preload()
    Template(master).serve()


def _preload() -> None:
    """Imports what workers need, each or some of them, and keeps the collector from touching it in each of them."""
    import traceback  # noqa: F401

    import pympipool.errors
    import pympipool.serialization.by_value
    import pympipool.transport.control_client
    import pympipool.worker.serial  # noqa: F401

    gc.collect()
    gc.freeze()


def _receive_order(master: socket.socket) -> tuple[dict[str, str], str | None, list[int]] | None:
    """The environment, working directory and descriptors of the next worker; None when the master is gone."""
    size = array("i").itemsize * DESCRIPTORS
    try:
        head, ancillary, _, _ = master.recvmsg(LENGTH_BYTES, socket.CMSG_SPACE(size))
        descriptors = array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        head += _receive(master, LENGTH_BYTES - len(head))
        environment, cwd = decode_body(_receive(master, decode_length(head)))
    except (EOFError, OSError):
        return None
    return environment, cwd, descriptors.tolist()


def _receive(master: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        more = master.recv(size_bytes - len(data))
        if not more:
            raise EOFError("the master hung up")
        data += more
    return data


def _set_environment(wanted: dict[str, str], ours: dict[str, str]) -> None:
    """Changes what differs from ours. It is little, and setting all would take half as long as the fork."""
    for name in ours.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if ours.get(name) != value:
            os.environ[name] = value


def _become_worker(cwd: str | None, stdout: int, stderr: int) -> NoReturn:
    """In the child: takes on what the order says, and runs the worker's program."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect("stdout", stdout, 1)
        _redirect("stderr", stderr, 2)
        sys.path[:] = os.environ["PYMPIPOOL_PATH"].split(os.pathsep)
        if cwd is not None:
            os.chdir(cwd)
        from pympipool.worker import main as serve

        serve()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _redirect(name: str, pipe: int, descriptor: int) -> None:
    """Makes the pipe a standard descriptor, with a fresh stream over it: the template's knows what it was before."""
    os.dup2(pipe, descriptor)
    os.close(pipe)
    stream = open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _end(code: int) -> NoReturn:
    """Ends a forked worker as the interpreter would end, with threads, exit functions and streams."""
    import atexit

    try:
        _wait_for_threads()
        atexit._run_exitfuncs()
        _finalize_mpi()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait_for_threads() -> None:
    """As the interpreter does, for those that are no daemons: thread pools still run what they were given, for example."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _finalize_mpi() -> None:
    """As mpi4py does when the interpreter ends, which os._exit leaves out: a library has files in /dev/shm to remove."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()


if __name__ == "__main__":
    main()

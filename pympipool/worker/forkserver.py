"""The forkserver: a warm process of one thread that forks a worker for each request.

    master ── a byte, descriptors ───────> forkserver ── fork ──> worker: serves calls, exits
           <── exit code ──────────────────────┘                    │
           <── pid (status pipe of that worker) ────────────────────┘

A request is in a file, whose descriptor comes first: so the master never waits for the forkserver to read. The others
are stdout, stderr and the status pipe of the worker. The worker reports its pid itself, so the pid has arrived when the
pipe ends, even if the forkserver is killed right after the fork.

The forkserver has imported what every worker needs, and nothing else. What calls import is imported in forks of it, which
serve requests like it (see preloading.py). Because it was started as a fresh interpreter, it has no
thread, lock or open file of the user's program. Because it runs no calls, a worker finds nothing of earlier calls. When
the master hangs up, the forkserver exits; its workers have watchdogs of their own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from pympipool._util import signals
from pympipool._util.platform import HAS_WAITID
from pympipool.transport.fork_requests import read_body, receive_request
from pympipool.transport.frames import RUNNING, STATUS, decode_body
from pympipool.worker.imports import report_imports, reseed
from pympipool.worker.preloading import Preloading


class Request(NamedTuple):
    """A request of the master for a worker.

    Attributes:
        environment, cwd: Those of the worker.
        path: `sys.path`.
        preload: Names of modules to import before forks; None: those that calls have imported.
        descriptors: The request itself, and stdout, stderr and status pipe of the worker; from an agent also the worker's two
            connections to it.
    """

    environment: dict[str, str]
    cwd: str | None
    path: list[str]
    preload: tuple[str, ...] | None
    descriptors: list[int]


class Forkserver:
    """The forkserver's loop: reads requests, forks workers, reports their ends.

    Args:
        master: The connection over which requests come.
        reporter: In a preloaded process, the socket for reports of what calls import.
        target: In a preloaded process, the number of its target.
    """

    def __init__(self, master: socket.socket, reporter: socket.socket | None = None, target: int = 0) -> None:
        self.master = master
        self.environment = dict(os.environ)
        self.status_pipes: dict[int, int] = {}  # by the pid of the worker
        self.wakeup_pipe = os.pipe()
        self.poll = select.poll()
        self.is_preloaded = self.is_warm = reporter is not None
        self.is_open = True
        self.target = target
        self.known_modules = frozenset(sys.modules)
        self.preloading: Preloading | None = None
        if reporter is None:
            self.preloading = Preloading(
                self._watch, self.poll.unregister, self._serve_preloaded, self._close_inherited
            )
            reporter = self.preloading.reporter
        self.reporter = reporter
        for descriptor in self.wakeup_pipe:
            os.set_blocking(descriptor, False)

    def serve(self) -> NoReturn:
        """Fork workers until the master hangs up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup_pipe[1])
        master = self.master.fileno()
        self._watch(master)
        self._watch(self.wakeup_pipe[0])
        if not self.is_warm:
            _preload_own()  # before the first request, which may be on its way
        while self.is_open or self.status_pipes:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.wakeup_pipe[0]:
                    os.read(descriptor, 4096)
                    self._reap_workers()
                elif descriptor == master:
                    self._serve_request()
                elif self.preloading is not None:
                    self.preloading.on_readable(descriptor)
        os._exit(0)

    def _watch(self, descriptor: int) -> None:
        self.poll.register(descriptor, select.POLLIN)

    def _serve_preloaded(self, requests: socket.socket, target: int) -> NoReturn:
        """Serve requests in a preloaded process, which was forked for that."""
        gc.collect()
        gc.freeze()
        Forkserver(requests, self.reporter, target).serve()

    def _serve_request(self) -> None:
        """Fork a worker, or have it forked by a preloaded process."""
        request = _receive_request(self.master)
        if request is None:
            self.is_open = False
            self.poll.unregister(self.master)
            if not self.is_preloaded:  # the master is gone, and so will the workers be
                os._exit(0)
            return
        if not self.is_warm:
            sys.path[:] = request.path  # workers must import the same modules as the master
            _preload()
            self.is_warm = True
            self.known_modules = frozenset(sys.modules)
        target = None
        if self.preloading is not None:
            target = self.preloading.target_for(request.environment, request.path, request.preload)
            self._write_notices(request.descriptors[2])
        if target is not None and target.forward(request.descriptors):
            os.close(request.descriptors[3])
        else:
            self._fork_worker(request, self.target if target is None else target.number)
        for descriptor in request.descriptors[:3] + request.descriptors[4:]:
            os.close(descriptor)
        if target is not None and self.preloading is not None:
            self.preloading.start_missing(target)

    def _write_notices(self, stderr: int) -> None:
        """Write what the user must know of preloaded modules to the stderr of a worker."""
        assert self.preloading is not None
        while self.preloading.notices:
            with contextlib.suppress(OSError):
                os.write(stderr, self.preloading.notices.pop(0).encode())

    def _fork_worker(self, request: Request, target: int) -> None:
        _, stdout, stderr, status_pipe, *agent_sockets = request.descriptors
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(BrokenPipeError):
                os.write(stderr, f"cannot fork a worker: {error}\n".encode())
            _write_status(status_pipe, 0, 1)
            os.close(status_pipe)
        else:
            if pid == 0:
                if not _write_status(status_pipe, os.getpid(), RUNNING):
                    os._exit(0)  # another forkserver has got the request
                os.close(status_pipe)
                os.close(request.descriptors[0])
                self._close_inherited()
                _set_environment(request.environment, self.environment)
                if agent_sockets:
                    os.environ["PYMPIPOOL_AGENT"] = " ".join(map(str, (os.getpid(), *agent_sockets)))
                if self.is_preloaded:
                    reseed()
                _run_worker(request.cwd, stdout, stderr, lambda: self._report_imports(request, target))
            self.status_pipes[pid] = status_pipe

    def _report_imports(self, request: Request, target: int) -> None:
        """Tell from a worker what its call has imported, if that is to be learned."""
        if request.preload is None:
            report_imports(self.reporter, target, self.known_modules)

    def _close_inherited(self) -> None:
        """Close in the forked worker what belongs to the forkserver."""
        signal.set_wakeup_fd(-1)
        for descriptor in (*self.status_pipes.values(), *self.wakeup_pipe):
            os.close(descriptor)
        self.master.close()
        if self.preloading is not None:
            self.preloading.close()

    def _reap_workers(self) -> None:
        """Reap the workers that have exited, and report their exit codes to the master."""
        while True:
            try:
                pid, wait_status = _reap_one()
            except ChildProcessError:
                return
            if pid == 0:
                return
            status_pipe = self.status_pipes.pop(pid, None)
            if status_pipe is not None:  # otherwise a preloaded process
                _write_status(status_pipe, pid, os.waitstatus_to_exitcode(wait_status))
                os.close(status_pipe)


def _reap_one() -> tuple[int, int]:
    """Reap a child that has ended, and kill what it has started.

    Returns:
        Its pid and its wait status; (0, 0) if no child has ended.

    Raises:
        ChildProcessError: There are no children.
    """
    if not HAS_WAITID:
        pid, wait_status = os.waitpid(-1, os.WNOHANG)
        if pid != 0:
            _kill_group(pid)
        return pid, wait_status
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return 0, 0
    _kill_group(ended.si_pid)  # the id cannot be reused while the worker is a zombie
    return os.waitpid(ended.si_pid, 0)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _write_status(status_pipe: int, pid: int, exit_code: int) -> bool:
    """Write a record to a worker's status pipe.

    Returns:
        False if the pipe is closed: the master has exited, or has given the worker up.
    """
    try:
        os.write(status_pipe, STATUS.pack(pid, exit_code))
    except BrokenPipeError:
        return False
    return True


def main() -> NoReturn:
    """Run the forkserver on the connection whose descriptor is in the environment."""
    signals.reset()
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_FORKSERVER")))
    Forkserver(master).serve()


def _preload_own() -> None:
    """Import what all workers need of this package and the standard library, whatever the master's `sys.path` is."""
    import traceback  # noqa: F401

    import pympipool.errors
    import pympipool.transport.control_client
    import pympipool.worker.batches
    import pympipool.worker.serial  # noqa: F401


def _preload() -> None:
    """Import what some workers need of others, and keep the garbage collector from touching in each worker what is imported."""
    import pympipool.serialization.by_value  # noqa: F401

    gc.collect()
    gc.freeze()


def _receive_request(master: socket.socket) -> Request | None:
    """Return the next request; None when the master is gone."""
    descriptors = receive_request(master)
    if descriptors is None:
        return None
    environment, cwd, path, preload = decode_body(read_body(descriptors[0]))
    return Request(environment, cwd, path, preload, descriptors)


def _set_environment(wanted: dict[str, str], ours: dict[str, str]) -> None:
    """Change only variables that differ from ours. They are few; setting all would take half as long as the fork."""
    for name in ours.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if ours.get(name) != value:
            os.environ[name] = value


def _run_worker(cwd: str | None, stdout: int, stderr: int, after_call: Callable[[], None]) -> NoReturn:
    """Set up the forked process as requested, run the worker program, and exit."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect("stdout", stdout, 1)
        _redirect("stderr", stderr, 2)
        if cwd is not None:
            os.chdir(cwd)
        from pympipool.worker import main as serve

        serve()
        after_call()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(code)


def _redirect(name: str, pipe: int, descriptor: int) -> None:
    """Make the pipe a standard descriptor, with a new stream: the old one knows what its descriptor was before."""
    os.dup2(pipe, descriptor)
    os.close(pipe)
    stream = open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _exit(code: int) -> NoReturn:
    """Exit a forked worker as the interpreter would: wait for threads, run exit functions, flush streams."""
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
    """Wait for all threads but daemons, as the interpreter does: thread pools, for example, finish what they were given."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _finalize_mpi() -> None:
    """Call MPI_Finalize, as mpi4py does at exit but not at os._exit: an MPI library has files in /dev/shm to remove."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()


if __name__ == "__main__":
    main()

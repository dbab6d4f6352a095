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
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pympipool._util import fork_hooks, signals
from pympipool._util.cmodules import signal
from pympipool._util.platform import HAS_WAITID
from pympipool.transport.bootstrap import NUMBER, WorkerConfig, forget_variables
from pympipool.transport.fork_requests import read_template, receive_request
from pympipool.transport.frames import RUNNING, STATUS, decode_body
from pympipool.transport.local_unix import may_listen
from pympipool.worker import ignore_signal
from pympipool.worker.forked import make_streams, run
from pympipool.worker.imports import report_imports, reseed
from pympipool.worker.preloading import Preloading
from pympipool.worker.setup import set_up_malloc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from pympipool.worker.preloading import Target


class Template(NamedTuple):
    """What many workers have in common, as the master has described it.

    Attributes:
        body: The description.
        environment, cwd: Those of the workers; the environment lacks the number.
        path: `sys.path`.
        preload: Names of modules to import before forks; None: those that calls have imported.
        config: The configuration in the environment; None: there is none, or the program that the workers start needs it there.
    """

    body: bytes
    environment: dict[str, str]
    cwd: str | None
    path: list[str]
    preload: tuple[str, ...] | None
    config: WorkerConfig | None


class Forkserver:
    """The forkserver's loop: reads requests, forks workers, reports their ends.

    Args:
        master: The connection over which requests come.
        reporter: In a preloaded process, the socket for reports of what calls import.
        target: In a preloaded process, the number of its target.
    """

    def __init__(self, master: socket.socket, reporter: socket.socket | None = None, target: int | None = None) -> None:
        self.master = master
        self.status_pipes: dict[int, int] = {}  # by the pid of the worker
        self.wakeup_pipe = os.pipe()
        self.own = [self.wakeup_pipe[1]]  # descriptors that workers close
        self.poll = select.poll()
        self.is_preloaded = self.is_warm = reporter is not None
        self.is_open = True
        self.target = target
        self.known_modules = frozenset(sys.modules)
        self.template: Template | None = None
        self.streams: Sequence[TextIO] = ()  # of workers
        self.served: Target | None = None  # that of the template
        self.preloading: Preloading | None = None
        if reporter is None:
            self.preloading = Preloading(self._watch, self._unwatch, self._serve_preloaded, self._close_inherited)
            reporter = self.preloading.reporter
        self.reporter = reporter
        for descriptor in self.wakeup_pipe:
            os.set_blocking(descriptor, False)

    def serve(self) -> NoReturn:
        """Fork workers until the master hangs up."""
        signals.reset()  # modules that were imported may have changed them
        signal.signal(signal.SIGINT, ignore_signal)
        signal.signal(signal.SIGCHLD, ignore_signal)
        signal.set_wakeup_fd(self.wakeup_pipe[1])
        master = self.master.fileno()
        self._watch(master)
        self._watch(self.wakeup_pipe[0])
        if not self.is_warm:
            gc.disable()  # until all is imported
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
        self.own.append(descriptor)

    def _unwatch(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        self.own.remove(descriptor)

    def _serve_preloaded(self, requests: socket.socket, target: int) -> NoReturn:
        """Serve requests in a preloaded process, which was forked for that."""
        gc.collect()
        gc.freeze()
        forkserver = Forkserver(requests, self.reporter, target)
        forkserver.streams = self.streams
        forkserver.serve()

    def _serve_request(self) -> None:
        """Take a template, or fork a worker, or have it forked by a preloaded process."""
        request = receive_request(self.master)
        if request is None:
            self.is_open = False
            self.poll.unregister(self.master)  # it stays open
            if not self.is_preloaded:  # the master is gone, and so will the workers be
                os._exit(0)
            return
        is_template, number, descriptors = request
        if is_template:
            self._take_template(read_template(descriptors))
            return
        assert self.template is not None
        target = self.served
        if self.preloading is not None:
            self._write_notices(descriptors[1])
        if target is not None and target.forward(self.template.body, number, descriptors):
            os.close(descriptors[2])
        else:
            self._fork_worker(self.template, number, descriptors, self.target if target is None else target.number)
        for descriptor in descriptors[:2] + descriptors[3:]:
            os.close(descriptor)
        if target is not None and self.preloading is not None:
            self.preloading.start_missing(target)

    def _take_template(self, body: bytes) -> None:
        """Prepare what the workers have in common that are requested next."""
        self.template = template = _decode_template(body)
        if not self.is_warm:
            sys.path[:] = template.path  # workers must import the same modules as the master
            set_up_malloc(os.environ)
            self.streams = _preload()
            self.is_warm = True
            self.known_modules = frozenset(sys.modules)
        if self.preloading is not None:
            self.served = self.preloading.target_for(template.environment, template.path, template.preload)

    def _write_notices(self, stderr: int) -> None:
        """Write what the user must know of preloaded modules to the stderr of a worker."""
        assert self.preloading is not None
        while self.preloading.notices:
            with contextlib.suppress(OSError):
                os.write(stderr, self.preloading.notices.pop(0).encode())

    def _fork_worker(self, template: Template, number: int, descriptors: list[int], target: int | None) -> None:
        stdout, stderr, status_pipe, *agent_sockets = descriptors
        config = template.config
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
                self._close_inherited()
                fork_hooks.restore()
                if self.is_preloaded:
                    reseed()
                if config is None:
                    _complete_environment(number, agent_sockets)
                else:
                    config.worker, config.agent_sockets = number, tuple(agent_sockets)
                after_call = partial(self._report_imports, template, target)
                run(config, template.cwd, self.streams, (stdout, stderr), after_call)
            self.status_pipes[pid] = status_pipe

    def _report_imports(self, template: Template, target: int | None) -> None:
        """Tell from a worker what its call has imported, if that is to be learned."""
        if template.preload is None and target is not None:
            report_imports(self.reporter, target, self.known_modules)

    def _close_inherited(self) -> None:
        """Close in the forked worker what belongs to the forkserver."""
        signal.set_wakeup_fd(-1)
        for descriptor in (*self.own, *self.status_pipes.values()):
            os.close(descriptor)

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
    forget_variables(os.environ)
    master = socket.socket(fileno=int(os.environ.pop("PYMPIPOOL_FORKSERVER")))
    Forkserver(master).serve()


def _preload_own() -> None:
    """Import what all workers need of this package and the standard library, whatever the master's `sys.path` is."""
    import traceback  # noqa: F401

    import pympipool.errors
    import pympipool.transport.control_client
    import pympipool.worker.batches
    import pympipool.worker.serial  # noqa: F401


def _preload() -> list[TextIO]:
    """Import what some workers need of others, and keep the garbage collector from touching in each worker what is imported.

    Returns:
        The streams of workers.
    """
    import pympipool.serialization.by_value  # noqa: F401

    streams = make_streams()
    fork_hooks.set_aside()
    gc.freeze()  # without a collection: imports leave next to nothing
    gc.enable()
    return streams


def _decode_template(body: bytes) -> Template:
    """Return a template, and give this process its environment, so that forks have it.

    Args:
        body: How it has arrived.
    """
    environment, cwd, path, preload = decode_body(body)
    config, wanted = None, environment
    if "PYMPIPOOL_JOB" not in environment:
        rest = {**environment, NUMBER: "0"}
        with contextlib.suppress(ValueError):  # the worker tells it
            config = WorkerConfig.from_environ(rest)
            wanted = rest
    if config is not None and config.tcp_addresses and not may_listen(config.address):
        config.address = ""  # no worker needs to try it
    _set_environment(wanted)
    return Template(body, environment, cwd, path, preload, config)


def _set_environment(wanted: dict[str, str]) -> None:
    """Change the variables that differ."""
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _complete_environment(number: int, agent_sockets: list[int]) -> None:
    """Set in a forked process what differs between workers, for a program that has its configuration from there."""
    os.environ[NUMBER] = str(number)
    if agent_sockets:
        os.environ["PYMPIPOOL_AGENT"] = " ".join(map(str, (os.getpid(), *agent_sockets)))


if __name__ == "__main__":
    main()

"""Preloaded processes: forks of the forkserver that have imported what calls import, and fork workers in its place.

    worker ── names of the modules that its call imported ──> forkserver
    forkserver ── fork ──> preloaded process: imports these modules, checks itself ── READY ──> forkserver
    forkserver ── request ──> preloaded process ── fork ──> worker, in which these modules are imported already

A call in a process of its own would import numpy again each time, which takes longer than most calls. The forkserver itself
imports nothing that calls import: what cannot be undone happens in a process that can be ended. Until a preloaded process
is ready, and whenever none is wanted, the forkserver forks workers itself.

A preloaded process serves requests of one environment, because libraries read variables when they are imported. It is
given up if a module fails to import in it, or leaves it in a state in which a fork is not safe: with a second thread, an
open device, or MPI. Then another process is started without that module.
"""

from __future__ import annotations

import os
import socket
import sys

from pympipool._core.ring import end_with_parent
from pympipool._util.platform import SEND_FLAGS
from pympipool.transport.fork_requests import RequestSender
from pympipool.worker.imports import LEARNED_MODULES_MIN, REPORT_MAX_BYTES, import_all, package_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn, TypeAlias

    Key: TypeAlias = "tuple[frozenset[tuple[str, str]], tuple[Any, ...], tuple[str, ...] | None]"

READY = b"\0"
"""What a preloaded process sends when it can serve requests. Anything else tells why it cannot."""

PROCESSES_MAX = 4
"""Number of environments for which there are preloaded processes. Calls in further ones are served without."""

STARTS_MAX = 12
"""Number of preloaded processes that are started for one environment, one after the other, as more modules become known."""


class Preloading:
    """The preloaded processes of a forkserver, and the modules that they are to import.

    Args:
        register, unregister: Called with each descriptor whose readability must be told to `on_readable`, and again when
            not any more.
        serve: Serves requests that come over a socket, in a forked process, and does not return.
        close_inherited: Closes in a forked process what belongs to the forkserver.
    """

    def __init__(
        self,
        register: Callable[[int], None],
        unregister: Callable[[int], None],
        serve: Callable[[socket.socket, int], NoReturn],
        close_inherited: Callable[[], None],
    ) -> None:
        self._register, self._unregister = register, unregister
        self._serve, self._close_inherited = serve, close_inherited
        self._targets: dict[Key, Target] = {}
        self._processes: dict[int, _PreloadedProcess] = {}  # by descriptor
        self._reports, self.reporter = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reporter.setblocking(False)
        self.notices: list[str] = []
        register(self._reports.fileno())

    def target_for(
        self, environment: Mapping[str, str], path: Sequence[Any], preload: tuple[str, ...] | None
    ) -> Target | None:
        """Return the target of a request; None if nothing is to be imported for it.

        Args:
            preload: Modules to import; None: those that earlier calls have imported.
        """
        if "PYMPIPOOL_JOB" in environment:  # job.py runs no calls itself
            return None
        if preload == () or not os.path.isdir("/proc/self/task"):  # without that there are no checks
            return None
        variables = frozenset(item for item in environment.items() if not item[0].startswith("PYMPIPOOL_"))
        key = (variables, tuple(path), preload)
        try:
            target = self._targets.get(key)
        except TypeError:  # an entry of the path is not hashable
            return None
        if target is None and len(self._targets) < PROCESSES_MAX:
            target = self._targets[key] = Target(len(self._targets), key, list(preload or ()))
        return target

    def start_missing(self, target: Target) -> None:
        """Start the process of a target that has none. No request may be open: the process would inherit its descriptors."""
        if target.process is None:
            self._start(target)

    def on_readable(self, descriptor: int) -> None:
        """Read a report of a worker, or what a preloaded process has to tell."""
        if descriptor == self._reports.fileno():
            self._learn(self._reports.recv(REPORT_MAX_BYTES + 64))
            return
        process = self._processes.get(descriptor)
        if process is None:  # ended while an earlier event was handled
            return
        message = process.receive()
        if message == READY:
            self._replace(process)
            return
        self._forget(process)
        target = process.target
        if target.process is process:
            target.process = None
            self._start(target)
        elif target.starting is process:
            target.starting = None
            if not message:  # an import has ended it, and would end the next one
                target.modules = []
            else:
                problem = message.decode(errors="replace")
                target.refuse(problem)
                if target.preload:
                    self.notices.append(f"preload: {problem}; calls import it themselves\n")
                self._start(target)

    def _learn(self, report: bytes) -> None:
        """Take note of the modules that a call has imported."""
        number, *names = report.decode(errors="replace").split("\n")
        target = next(target for target in self._targets.values() if target.number == int(number))
        if target.learn(names):
            self._start(target)

    def _start(self, target: Target) -> None:
        """Start a preloaded process for a target, if it has modules to import and none is starting."""
        if target.starting is not None or not target.modules or target.starts >= STARTS_MAX:
            return
        target.starts += 1
        parent = os.getpid()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # a shortage; the next request tries again
            return
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return
        if pid == 0:
            try:
                ours.close()
                end_with_parent(parent)
                self._close_inherited()
                self._import(target, theirs)
                self._serve(theirs, target.number)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        theirs.close()
        ours.setblocking(False)
        process = _PreloadedProcess(ours, target)
        target.starting = process
        target.preloaded = len(target.modules)
        self._processes[ours.fileno()] = process
        self._register(ours.fileno())

    def _import(self, target: Target, forkserver: socket.socket) -> None:
        """Import a target's modules in a new process, and tell the forkserver if requests can be served."""
        variables, path, _ = target.key
        wanted = dict(variables)
        for name in os.environ.keys() - wanted.keys():
            del os.environ[name]  # those of workers too, the key among them: they come again with each request
        for name, value in wanted.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        sys.path[:] = path
        problem = import_all(target.modules, strict=target.preload is not None)
        forkserver.send(problem.encode() or READY, SEND_FLAGS)
        if problem:
            os._exit(1)

    def _replace(self, process: _PreloadedProcess) -> None:
        """Let a process that is ready serve from now on. Its predecessor ends after its workers."""
        target = process.target
        before, target.process, target.starting = target.process, process, None
        if before is not None:
            self._forget(before)
        if target.preloaded < len(target.modules):
            self._start(target)

    def _forget(self, process: _PreloadedProcess) -> None:
        self._unregister(process.socket.fileno())
        del self._processes[process.socket.fileno()]
        process.socket.close()


class Target:
    """The requests of one environment, and the process that serves them.

    Attributes:
        modules: What a preloaded process imports, in this order.
        process: The one that serves; None: there is none.
        starting: The one that imports.
        preloaded: The number of modules that the one that started last imports.
        starts: The number of processes that were started.
    """

    def __init__(self, number: int, key: Key, modules: list[str]) -> None:
        self.number = number
        self.key = key
        self.preload = key[2]
        self.modules = modules
        self.process: _PreloadedProcess | None = None
        self.starting: _PreloadedProcess | None = None
        self.preloaded = 0
        self.starts = 0
        self._known = set(modules)
        self._refused: set[str] = set()

    def learn(self, names: Iterable[str]) -> bool:
        """Add modules that a call has imported; return True if a process that has imported them is worth its start."""
        new = [name for name in names if name not in self._known and package_of(name) not in self._refused]
        if len(new) < LEARNED_MODULES_MIN:
            return False
        self.modules += new
        self._known.update(new)
        return True

    def refuse(self, problem: str) -> None:
        """Leave out a package from now on.

        Args:
            problem: "name of a module: what is wrong with it".
        """
        root = package_of(problem.partition(":")[0])
        self._refused.add(root)
        self.modules = [name for name in self.modules if package_of(name) != root]

    def forward(self, template: bytes, number: int, descriptors: Sequence[int]) -> bool:
        """Let the preloaded process serve a request; return False if there is none, or it does not take requests."""
        if self.process is None:
            return False
        try:
            self.process.requests.send(template, number, descriptors)
        except OSError:
            return False
        return True


class _PreloadedProcess:
    """A preloaded process as the forkserver sees it: the socket over which it gets requests."""

    def __init__(self, own_end: socket.socket, target: Target) -> None:
        self.socket = own_end
        self.requests = RequestSender(own_end)
        self.target = target

    def receive(self) -> bytes:
        """Return what it tells; b"" if it has ended."""
        try:
            return self.socket.recv(4096)
        except OSError:
            return b""

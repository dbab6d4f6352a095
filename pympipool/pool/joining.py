"""`Executor.write_join_file`: hosts that were started elsewhere, such as those of a second job, serve an executor.

caller's thread ── write_join_file ──> supervisor's thread: relay listens ──> Agents.invite ──> file
                <── Future ───────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool._core.future import Future
from pympipool._util.service_threads import must_not_wait
from pympipool.execution.engine import Engine
from pympipool.pool.base import BasePool

if TYPE_CHECKING:
    import os

    from pympipool.backends.base import Backend
    from pympipool.backends.hosts.join_file import JoinFile
    from pympipool.pool.supervisor import Supervisor
    from pympipool.resources import Resources

CHECK_INTERVAL_S = 0.01
"""Seconds between two checks whether the relay listens."""

TIMEOUT_S = 60.0
"""Seconds after which nothing is waited for any more: longer than a relay may take to start."""


def write_join_file(engine: object, backend: Backend, resources: Resources, path: str | os.PathLike[str]) -> None:
    """Write a file by which hosts join, and wait until it is there.

    Args:
        engine: That of the executor.
        backend: Its backend.
        resources: What its workers need.
        path: The path of the file.

    Raises:
        ValueError: There are no agents.
        OSError: It cannot be written.
        WorkerStartError: The relay to other hosts does not start.
        RuntimeError: The executor ends meanwhile; or this is a thread of the executor, which must not wait.
    """
    from pympipool.backends.hosts.join_file import JoinFile

    if not isinstance(engine, Engine):
        raise _no_agents(backend)
    if resources.hostname_localhost:
        raise ValueError("hostname_localhost is True, so that hosts that join could not connect: leave it out")
    if getattr(backend, "is_on_one_host", False):
        raise ValueError(
            "the executor is in a flux instance of one host and opens no port, so that other hosts could not connect: use"
            " Executor(hosts=['localhost'])"
        )
    engine.check_open()
    if must_not_wait():
        raise RuntimeError(
            "write_join_file waits for a thread of an executor, and was called in one: call it in a thread of the script"
        )
    assert isinstance(engine.pool, BasePool)
    invitation = _Invitation(engine.pool.supervisor, backend, resources, JoinFile(path))
    engine.pool.loop.call(invitation.send)
    try:
        invitation.done.result(TIMEOUT_S)
    except BaseException as error:
        invitation.is_withdrawn = True  # the file is not written when nobody waits for it any more
        if not isinstance(error, TimeoutError):
            raise
        raise RuntimeError(
            f"{path} was not written: the executor has ended, or its host is too busy; try again"
        ) from None


def _no_agents(backend: Backend) -> ValueError:
    return ValueError(
        f"hosts can join an executor with hosts, as Executor(hosts=['localhost:1']), or one in a job of SLURM, PBS, LSF or Grid"
        f" Engine or in your own flux instance, whose workers need no step or job of their own; the backend of this one is"
        f" {backend.name!r}"
    )


class _Invitation:
    """A file that is to be written as soon as the relay listens."""

    def __init__(self, supervisor: Supervisor, backend: Backend, resources: Resources, join_file: JoinFile) -> None:
        self.done: Future[None] = Future()
        self.is_withdrawn = False
        self._supervisor = supervisor
        self._backend, self._resources = backend, resources
        self._file = join_file

    def send(self) -> None:
        """Write it, or try again soon."""
        if self.is_withdrawn:
            return
        request = self._supervisor.helper_request
        try:
            agents = self._backend.agents_for(
                self._resources
            )  # in this thread, as pools do, so that there is one of it
            if agents is None:
                raise _no_agents(self._backend)
            agents.attach(self._supervisor)
            if not agents.relay.prepare(request, is_urgent=True):
                self._supervisor.loop.call_later(CHECK_INTERVAL_S, self.send)
                return
            agents.invite(request, self._file)
        except BaseException as error:  # belongs to the caller
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

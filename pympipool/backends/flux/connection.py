"""The flux instance, as far as our jobs in it are concerned: one thread that talks with it.

    FluxConnection.submit(jobspec, listener) ─► job id ─► events of the job:
                                            start ─► shell.init ─► what it prints ─► listener.take_output
                                            finish, exception, the last one ───────► listener.take_end
    FluxConnection.end(job) ──────────────────► cancelled; after a while SIGKILL

A handle of flux may only be used by the thread that made it, so all that other threads want is done there
(`_call`). Jobs are submitted through the user's `flux.job.FluxExecutor` where there is one, else by this thread; what becomes
of them is learned from their event logs in either case.
"""

from __future__ import annotations

import base64
import functools
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from pympipool.errors import WorkerStartError

CANCEL_S = 1.0
"""How long a job may take to end when it is cancelled, before it gets SIGKILL; measured: 10 ms."""

LAST_OUTPUT_S = 5.0
"""How long after the last event of a job its output may take; measured: 1 ms."""

WARNING = 4
"""The level of warnings in the log of flux's shell (as in syslog, but for FATAL, which is 0)."""

FAILED = 1
"""The exit code of a job that never ran, and so has none; `flux job attach` says the same."""


class Listener(Protocol):
    """Who wants to know what becomes of a job; called in the instance's thread."""

    def take_output(self, stream: str, data: bytes) -> None:
        """The job has printed something, or flux has something to say about it.

        Args:
            stream: "stdout" or "stderr".
        """

    def take_end(self, exit_code: int, failure: str | None) -> None:
        """The job has ended, and all that it has printed was taken.

        Args:
            exit_code: Its own; 128 + N for signal N.
            failure: The type of the exception with which flux ended it ("alloc", "cancel", ...); "submit": flux did not
                take it.
        """


class Job:
    """One job, and what is known of it in the instance's thread."""

    __slots__ = ("ended", "exit_code", "failure", "future", "id", "last_resort", "listener", "open_logs", "unwanted")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.future: Any = None  # of the user's FluxExecutor
        self.id: int | None = None
        self.exit_code = FAILED
        self.failure: str | None = None
        self.open_logs = 0
        self.unwanted = False
        self.ended = False
        self.last_resort: Any = None


class FluxConnection:
    """The flux instance that this process can reach: that of `FLUX_URI`, else that of the system."""

    def __init__(self) -> None:
        self._jobs: set[Job] = set()
        self._lost: str | None = None
        self._lock = threading.Lock()  # for these two
        self._calls: deque[Callable[[], None]] = deque()
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._handle: Any = None
        self._thread = threading.Thread(target=self._run, name="pympipool_flux", daemon=True)
        self._thread.start()

    # ---- for any thread ----

    def submit(self, jobspec: str, listener: Listener, executor: Any = None) -> Job:
        """Submits a job, and does not wait for flux to take it.

        Args:
            jobspec: As JSON.
            listener: Is told what becomes of it.
            executor: The `flux.job.FluxExecutor` to submit it to.

        Raises:
            WorkerStartError: The executor takes no more jobs, or the instance is gone.
        """
        job = Job(listener)
        with self._lock:
            if self._lost is not None:
                raise WorkerStartError(f"the flux instance is gone: {self._lost}")
            if executor is not None:
                job.future = _submit_to(executor, jobspec)
            self._jobs.add(job)
        if job.future is None:
            self._call(functools.partial(self._submit, job, jobspec))
        else:
            # The first is not called if the submission fails just now; often both are.
            job.future.add_jobid_callback(lambda _: self._call(functools.partial(self._take_id, job)))
            job.future.add_done_callback(lambda _: self._call(functools.partial(self._take_id, job)))
        return job

    def end(self, job: Job) -> None:
        """Has flux end a job, whether or not it has begun; does nothing when it has ended."""
        self._call(functools.partial(self._end, job))

    def signal(self, job: Job, number: int) -> None:
        """Has flux send a signal to a job; does nothing when it is not running."""
        self._call(functools.partial(self._signal, job, number))

    def close(self) -> None:
        """Ends the thread; jobs that have not ended are not listened to any more."""
        self._call(self._stop)
        self._thread.join()

    def _call(self, function: Callable[[], None]) -> None:
        """Has function() called in the instance's thread, soon; not when that has ended."""
        self._calls.append(function)
        try:
            self._sender.send(b"\0")
        except OSError:
            pass  # it is awake already, or has ended

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self._talk()
        except Exception as error:
            self._lose(str(error) or type(error).__name__)
        else:
            self._lose("it is not needed any more")
        finally:
            self._handle = None
            self._calls.clear()
            self._receiver.close()
            self._sender.close()

    def _talk(self) -> None:
        import flux
        from flux.constants import FLUX_POLLIN

        self._handle = flux.Flux()
        with self._handle.fd_watcher_create(self._receiver.fileno(), self._run_calls, FLUX_POLLIN):
            if self._handle.reactor_run() < 0:
                raise ConnectionError("its broker does not answer any more")

    def _stop(self) -> None:
        self._handle.reactor_stop()

    def _run_calls(self, *_: Any) -> None:
        try:
            self._receiver.recv(4096)
        except BlockingIOError:
            pass
        while self._calls:
            self._calls.popleft()()

    def _lose(self, why: str) -> None:
        """Nothing more will be heard of any job."""
        with self._lock:
            self._lost = why
            jobs = list(self._jobs)
        for job in jobs:
            self._give_up(job, "lost", f"the flux instance is gone: {why}")

    # ---- a job begins ----

    def _submit(self, job: Job, jobspec: str) -> None:
        from flux.job.submit import submit_async

        if job.unwanted:
            self._reap(job)
            return
        try:
            submit_async(self._handle, jobspec).then(self._on_submitted, job)
        except OSError as error:
            self._give_up(job, "submit", str(error))

    def _on_submitted(self, future: Any, job: Job) -> None:
        from flux.job.submit import submit_get_id

        try:
            self._watch(job, submit_get_id(future))
        except OSError as error:
            self._give_up(job, "submit", str(error))

    def _take_id(self, job: Job) -> None:
        """The user's FluxExecutor has submitted the job, or will never do so."""
        if job.id is not None or job.ended:
            return
        if job.future.cancelled():
            self._reap(job)
            return
        try:
            self._watch(job, job.future.jobid(0))
        except Exception as error:  # whatever has happened to the FluxExecutor
            self._give_up(job, "submit", str(error))

    def _watch(self, job: Job, number: int) -> None:
        job.id = int(number)
        self._open_log(job, "eventlog", self._on_event)
        if job.unwanted:
            self._cancel(job)

    # ---- what becomes of it ----

    def _open_log(self, job: Job, name: str, take_event: Callable[[Job, str, dict[str, Any]], None]) -> None:
        """Has take_event(job, name, context) called for each event of a log, also for those of the past."""
        from flux.job.event import event_watch_async

        job.open_logs += 1
        event_watch_async(self._handle, job.id, name).then(self._on_log, job, take_event)

    def _on_log(self, future: Any, job: Job, take_event: Callable[[Job, str, dict[str, Any]], None]) -> None:
        try:
            event = future.get_event()
        except OSError as error:
            if take_event == self._on_event:
                self._give_up(job, "lost", f"{error.strerror}; is the FluxExecutor connected to another flux instance?")
            event = None
        if event is not None:
            take_event(job, event.name, event.context)
            return
        job.open_logs -= 1
        if job.open_logs == 0:
            self._reap(job)
        elif take_event == self._on_event:
            job.last_resort = self._later(LAST_OUTPUT_S, functools.partial(self._reap, job))

    def _on_event(self, job: Job, name: str, context: dict[str, Any]) -> None:
        if name == "start":
            self._open_log(job, "guest.exec.eventlog", self._on_shell_event)
        elif name == "finish":
            job.exit_code = _exit_code(context["status"])
        elif name == "exception" and context["severity"] == 0 and job.failure is None:
            job.failure = context["type"]
            self._say(job, f"{job.failure}: {context.get('note') or 'no reason is given'}")

    def _on_shell_event(self, job: Job, name: str, _context: dict[str, Any]) -> None:
        if name == "shell.init":  # before that there is no log of what it prints
            self._open_log(job, "guest.output", self._on_output)

    def _on_output(self, job: Job, name: str, context: dict[str, Any]) -> None:
        if name == "data" and "data" in context:
            job.listener.take_output(context["stream"], _decode(context))
        elif name == "log" and context["level"] <= WARNING:
            self._say(job, context["message"])

    def _say(self, job: Job, words: str) -> None:
        """Lets flux's words appear where the job's own would."""
        if not job.unwanted:
            name = "job" if job.id is None else f"job {_f58(job.id)}"
            job.listener.take_output("stderr", f"flux: {name}: {words}\n".encode(errors="replace"))

    def _give_up(self, job: Job, failure: str, words: str) -> None:
        job.failure = job.failure or failure
        self._say(job, words)
        self._reap(job)

    def _reap(self, job: Job) -> None:
        if job.ended:
            return
        job.ended = True
        with self._lock:
            self._jobs.discard(job)
        if job.last_resort is not None:
            job.last_resort.stop()
        job.listener.take_end(job.exit_code, job.failure)

    # ---- its end ----

    def _end(self, job: Job) -> None:
        if job.unwanted or job.ended:
            return
        job.unwanted = True
        if job.id is not None:
            self._cancel(job)
        elif job.future is not None:
            job.future.cancel()  # as long as flux has not been asked for it

    def _cancel(self, job: Job) -> None:
        from flux.job.kill import cancel_async

        cancel_async(self._handle, job.id).then(_ignore_failure)
        self._later(CANCEL_S, functools.partial(self._signal, job, signal.SIGKILL))

    def _signal(self, job: Job, number: int) -> None:
        from flux.job.kill import kill_async

        if job.id is not None and not job.ended:
            kill_async(self._handle, job.id, number).then(_ignore_failure)

    def _later(self, delay_s: float, function: Callable[[], None]) -> Any:
        """Has function() called in the instance's thread after a time; what is returned can be stopped."""
        return self._handle.timer_watcher_create(delay_s, lambda *_: function()).start()


def _submit_to(executor: Any, jobspec: str) -> Any:
    try:
        return executor.submit(jobspec)
    except RuntimeError as error:
        raise WorkerStartError(
            f"{executor!r} takes no more jobs ({error}): it must stay open as long as the pympipool.Executor"
        ) from error


def _ignore_failure(future: Any) -> None:
    try:
        future.get()
    except OSError:
        pass  # the job has ended meanwhile, or the instance has, which its handle notices


def _exit_code(status: int) -> int:
    """From a status as of wait(2).

    Examples:
        >>> _exit_code(768), _exit_code(9)
        (3, 137)
    """
    number = status & 0x7F
    return 128 + number if number else status >> 8 & 0xFF


def _decode(context: dict[str, Any]) -> bytes:
    r"""What a job has printed, from an event of its output.

    Examples:
        >>> _decode({"data": "x", "repeat": 3}), _decode({"data": "/w==", "encoding": "base64"})
        (b'xxx', b'\xff')
    """
    data: str = context["data"]
    plain = base64.b64decode(data) if context.get("encoding") == "base64" else data.encode(errors="surrogateescape")
    return plain * int(context.get("repeat", 1))


def _f58(number: int) -> str:
    from flux.job import JobID

    name: str = JobID(number).f58
    return name

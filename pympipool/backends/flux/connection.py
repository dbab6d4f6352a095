"""The connection to the flux instance: one thread that submits the jobs of an executor and follows them.

    FluxConnection.submit(jobspec, listener) ─► job id ─► events of the job:
                                            start ─► shell.init ─► the job's output ─► listener.on_output
                                            finish, exception, the last event ───────► listener.on_end
    FluxConnection.cancel(job) ──────────────────► cancelled; after a timeout SIGKILL

A handle of flux may only be used by the thread that made it, so that thread does the work of all other threads
(`_call`). Jobs are submitted through the user's `flux.job.FluxExecutor` if there is one, else by this thread. In either
case the thread follows their event logs.
"""

from __future__ import annotations

import base64
import functools
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pympipool._util.platform import SEND_FLAGS
from pympipool._util.service_threads import ServiceThread
from pympipool.errors import WorkerStartError

CLOSE_TIMEOUT_S = 5.0
"""Seconds that the thread may take to end. It takes longer only if flux does not answer, and then it is left alone."""

CANCEL_TIMEOUT_S = 1.0
"""Seconds that a job of a worker may take to end after it is cancelled; then it gets SIGKILL. Measured: 10 ms."""

OUTPUT_TIMEOUT_S = 5.0
"""Seconds that the output of a job may take to arrive after its last event. Measured: 1 ms."""

WARNING = 4
"""The level of warnings in the log of flux's shell. The levels are those of syslog, except that FATAL is 0."""

NEVER_RAN = 1
"""The exit code that stands for a job that never ran, and so has none. `flux job attach` returns the same."""


class Listener(Protocol):
    """The receiver of a job's output and end. Its methods are called in the connection's thread."""

    def on_output(self, stream: str, data: bytes) -> None:
        """Take what the job has printed, or a message of flux about the job.

        Args:
            stream: "stdout" or "stderr".
        """

    def on_end(self, exit_code: int, failure: str | None) -> None:
        """Take the end of the job. All of its output has been taken before.

        Args:
            exit_code: The job's own; 128 + N for signal N.
            failure: The type of the exception with which flux ended the job ("alloc", "cancel", ...); "submit" if flux
                did not accept it.
        """


class Job:
    """A job as the connection's thread knows it."""

    __slots__ = (
        "cancel_timeout_s",
        "cancelled",
        "critical_ranks",
        "end_timer",
        "ended",
        "exit_code",
        "failure",
        "future",
        "has_started",
        "id",
        "listener",
        "open_logs",
    )

    def __init__(self, listener: Listener, cancel_timeout_s: float, critical_ranks: str | None) -> None:
        self.listener = listener
        self.cancel_timeout_s = cancel_timeout_s
        self.critical_ranks = critical_ranks
        self.future: Any = None  # of the user's FluxExecutor
        self.id: int | None = None
        self.has_started = False
        self.exit_code = NEVER_RAN
        self.failure: str | None = None
        self.open_logs = 0
        self.cancelled = False
        self.ended = False
        self.end_timer: Any = None


class FluxConnection:
    """The connection to the flux instance that this process can reach: that of `FLUX_URI`, else that of the system."""

    def __init__(self) -> None:
        self._jobs: set[Job] = set()
        self._lost: str | None = None
        self._lock = threading.Lock()  # protects _jobs and _lost
        self._calls: deque[Callable[[], None]] = deque()
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._handle: Any = None
        self._thread = ServiceThread("pympipool_flux", self._run)
        self._thread.start()

    # ---- for any thread ----

    def submit(
        self,
        jobspec: str,
        listener: Listener,
        executor: Any = None,
        *,
        urgency: int | None = None,
        cancel_timeout_s: float = CANCEL_TIMEOUT_S,
        critical_ranks: str | None = None,
    ) -> Job:
        """Submit a job, and do not wait until flux accepts it.

        Args:
            jobspec: As JSON.
            listener: Receives the output and the end of the job.
            executor: The `flux.job.FluxExecutor` to submit it to.
            urgency: The urgency of the job, up to 31; None: flux's default, 16.
            cancel_timeout_s: Seconds that the job may take to end after it is cancelled.
            critical_ranks: The shells, one on each host, without which flux ends the whole job, as a set of ids. None: all.

        Raises:
            WorkerStartError: The executor takes no more jobs, or the instance is gone.
        """
        job = Job(listener, cancel_timeout_s, critical_ranks)
        options = {} if urgency is None else {"urgency": urgency}
        with self._lock:
            if self._lost is not None:
                raise WorkerStartError(f"the flux instance is gone: {self._lost}")
            if executor is not None:
                job.future = _submit_to(executor, jobspec, options)
            self._jobs.add(job)
        if job.future is None:
            self._call(functools.partial(self._submit, job, jobspec, options))
        else:
            # The first callback is not called if the submission fails at this moment. Often both are called.
            job.future.add_jobid_callback(lambda _: self._call(functools.partial(self._on_job_id, job)))
            job.future.add_done_callback(lambda _: self._call(functools.partial(self._on_job_id, job)))
        return job

    def cancel(self, job: Job) -> None:
        """Have flux end a job, whether or not it has begun. Does nothing after its end."""
        self._call(functools.partial(self._request_cancel, job))

    def signal(self, job: Job, number: int) -> None:
        """Have flux send a signal to a job. Does nothing if the job is not running."""
        self._call(functools.partial(self._signal, job, number))

    def close(self) -> None:
        """End the thread. Jobs that have not ended are no longer followed."""
        self._call(self._stop)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _call(self, function: Callable[[], None]) -> None:
        """Have function() called in the connection's thread, soon. Does nothing after the thread's end."""
        self._calls.append(function)
        try:
            self._sender.send(b"\0", SEND_FLAGS)
        except OSError:
            pass  # the thread is awake already, or has ended

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self._run_reactor()
        except BaseException as error:  # also what a `__del__` raises that the garbage collector runs here
            self._on_lost(str(error) or type(error).__name__)
        else:
            self._on_lost("the executor has closed its connection")
        finally:
            self._handle = None
            self._calls.clear()
            self._receiver.close()
            self._sender.close()

    def _run_reactor(self) -> None:
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

    def _on_lost(self, reason: str) -> None:
        """Fail all jobs: no more events will arrive."""
        with self._lock:
            self._lost = reason
            jobs = list(self._jobs)
        for job in jobs:
            self._fail(job, "lost", f"the flux instance is gone: {reason}")

    # ---- the start of a job ----

    def _submit(self, job: Job, jobspec: str, options: Mapping[str, int]) -> None:
        from flux.job.submit import submit_async

        if job.cancelled:
            self._finish(job)
            return
        try:
            submit_async(self._handle, jobspec, **options).then(self._on_submitted, job)
        except OSError as error:
            self._fail(job, "submit", str(error))

    def _on_submitted(self, future: Any, job: Job) -> None:
        from flux.job.submit import submit_get_id

        try:
            self._follow(job, submit_get_id(future))
        except OSError as error:
            self._fail(job, "submit", str(error))

    def _on_job_id(self, job: Job) -> None:
        """Follow a job that the user's FluxExecutor has submitted, or fail one that it will never submit."""
        if job.id is not None or job.ended:
            return
        if job.future.cancelled():
            self._finish(job)
            return
        try:
            self._follow(job, job.future.jobid(0))
        except Exception as error:  # any failure of the FluxExecutor
            self._fail(job, "submit", str(error))

    def _follow(self, job: Job, job_id: int) -> None:
        job.id = int(job_id)
        self._open_log(job, "eventlog", self._on_event)
        if job.cancelled:
            self._cancel(job)

    # ---- the events of a job ----

    def _open_log(self, job: Job, name: str, on_event: Callable[[Job, str, dict[str, Any]], None]) -> None:
        """Have on_event(job, name, context) called for each event of a log, past ones included."""
        from flux.job.event import event_watch_async

        job.open_logs += 1
        event_watch_async(self._handle, job.id, name).then(self._on_log, job, on_event)

    def _on_log(self, future: Any, job: Job, on_event: Callable[[Job, str, dict[str, Any]], None]) -> None:
        try:
            event = future.get_event()
        except OSError as error:
            if on_event == self._on_event:
                self._fail(job, "lost", f"{error.strerror}; is the FluxExecutor connected to another flux instance?")
            event = None
        if event is not None:
            on_event(job, event.name, event.context)
            return
        job.open_logs -= 1
        if job.open_logs == 0:
            self._finish(job)
        elif on_event == self._on_event:
            job.end_timer = self._call_later(OUTPUT_TIMEOUT_S, functools.partial(self._finish, job))

    def _on_event(self, job: Job, name: str, context: dict[str, Any]) -> None:
        if name == "start":
            job.has_started = True
            self._open_log(job, "guest.exec.eventlog", self._on_shell_event)
            if job.critical_ranks is not None:
                payload = {"id": job.id, "ranks": job.critical_ranks}
                self._handle.rpc("job-exec.critical-ranks", payload).then(_ignore_failure)
        elif name == "finish":
            job.exit_code = _exit_code(context["status"])
        elif name == "exception" and context["severity"] == 0 and job.failure is None:
            job.failure = context["type"]
            self._report(job, f"{job.failure}: {context.get('note') or 'no reason is given'}")

    def _on_shell_event(self, job: Job, name: str, _context: dict[str, Any]) -> None:
        if name == "shell.init":  # before this event the log of the job's output does not exist
            self._open_log(job, "guest.output", self._on_output)

    def _on_output(self, job: Job, name: str, context: dict[str, Any]) -> None:
        if name == "data" and "data" in context:
            job.listener.on_output(context["stream"], _decode(context))
        elif name == "log" and context["level"] <= WARNING:
            self._report(job, context["message"])

    def _report(self, job: Job, message: str) -> None:
        """Write a message of flux to where the job's own error messages go."""
        if not job.cancelled:
            name = "job" if job.id is None else f"job {_f58(job.id)}"
            job.listener.on_output("stderr", f"flux: {name}: {message}\n".encode(errors="replace"))

    def _fail(self, job: Job, failure: str, message: str) -> None:
        job.failure = job.failure or failure
        self._report(job, message)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        if job.ended:
            return
        job.ended = True
        with self._lock:
            self._jobs.discard(job)
        if job.end_timer is not None:
            job.end_timer.stop()
        job.listener.on_end(job.exit_code, job.failure)

    # ---- the cancelling of a job ----

    def _request_cancel(self, job: Job) -> None:
        if job.cancelled or job.ended:
            return
        job.cancelled = True
        if job.id is not None:
            self._cancel(job)
        elif job.future is not None:
            job.future.cancel()  # works as long as the FluxExecutor has not submitted it

    def _cancel(self, job: Job) -> None:
        from flux.job.kill import cancel_async

        cancel_async(self._handle, job.id).then(_ignore_failure)
        self._call_later(job.cancel_timeout_s, functools.partial(self._signal, job, signal.SIGKILL))

    def _signal(self, job: Job, number: int) -> None:
        from flux.job.kill import kill_async

        if job.id is not None and not job.ended:
            kill_async(self._handle, job.id, number).then(_ignore_failure)

    def _call_later(self, delay_s: float, function: Callable[[], None]) -> Any:
        """Have function() called in the connection's thread after a delay. Return the timer, which can be stopped."""
        return self._handle.timer_watcher_create(delay_s, lambda *_: function()).start()


def _submit_to(executor: Any, jobspec: str, options: Mapping[str, int]) -> Any:
    try:
        return executor.submit(jobspec, **options)
    except RuntimeError as error:
        raise WorkerStartError(
            f"{executor!r} takes no more jobs ({error}): it must stay open as long as the pympipool.Executor"
        ) from error


def _ignore_failure(future: Any) -> None:
    try:
        future.get()
    except OSError:
        pass  # the job has ended meanwhile, or the instance has gone, which its handle notices


def _exit_code(status: int) -> int:
    """Return the exit code in a status of wait(2); 128 + N for signal N.

    Examples:
        >>> _exit_code(768), _exit_code(9)
        (3, 137)
    """
    number = status & 0x7F
    return 128 + number if number else status >> 8 & 0xFF


def _decode(context: dict[str, Any]) -> bytes:
    r"""Return what a job has printed, from an event of its output.

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

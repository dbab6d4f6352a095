"""Jobs of flux: each task is one, in the instance that the script is in, or can reach.

    submit ─► a job for each task, with the name of the submission ─► the number of the "job": their ids, joined by commas
    states ─► job-list of the script's instance, then of that in which they were submitted (flux_jobs.py), also on another host
              (flux_elsewhere.py)

Jobs go on when their script has ended, but not when their instance has. Then their calls are submitted again.
"""

from __future__ import annotations

import math
import os
import shlex
import socket
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from pympipool._util.service_threads import ServiceThread
from pympipool.backends.flux import backend
from pympipool.backends.flux.availability import size_of_instance
from pympipool.backends.flux.jobspec import make_jobspec, pmi_of
from pympipool.backends.program import without_outer_job
from pympipool.detached import flux_elsewhere, flux_jobs
from pympipool.detached.flux_jobs import Job, States
from pympipool.detached.records_file import HUNG_LIMIT_S
from pympipool.detached.schedulers import JobRequest, State, TaskState
from pympipool.detached.spool import Spool
from pympipool.detached.templates import render, text_of
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.detached.records import Records
    from pympipool.resources import Resources

__all__ = ["FluxScheduler", "check"]

T = TypeVar("T")

ANSWER_TIMEOUT_S = 60.0
"""Seconds that flux may take to answer."""

SUBMIT_TIMEOUT_S = 300.0
"""Seconds that flux may take to accept the jobs of a submission."""

ELSEWHERE_PAUSE_S = 30.0
"""Seconds in which an instance on another host is not asked again about the same jobs: each question is a login."""

UNREACHED_PAUSE_S = 10.0
"""The same after that has failed; it doubles each time, as long as the last answer counts."""

TASKS_MAX = 1000
"""Largest number of jobs of a submission."""

NAME = "pympipool-"
"""How the names of jobs begin; the id of the submission follows."""

ENDS_WITH_SCRIPT = (
    "this script is the first program of its flux instance, which ends with it, and so do its detached jobs: start the instance"
    " first (flux alloc, flux start), and the script in it"
)

_GONE = TaskState(State.LOST, "its flux instance has ended")
_NOT_HERE = (
    "the flux instance that this script is in does not know it, and another one, on {host}, cannot be asked ({error}): have"
    " `ssh -o BatchMode=yes {host} true` work, run the script there, or in the instance of the job (flux proxy); if its instance"
    " has ended, run the script again, which submits it again"
)
_NOT_SUBMITTED = TaskState(State.LOST, "its script was killed before it was submitted")


@dataclass
class _Elsewhere:
    """What is known of an instance on another host.

    Attributes:
        seen: What it has answered last. That counts for `HUNG_LIMIT_S` if it cannot be asked any more.
        seen_s: When that was.
        asked: The jobs that it was asked about.
        again_s: When it may be asked again.
        failures: How often it could not be asked, since then.
        error: Why.
    """

    seen: States = field(default_factory=dict)
    seen_s: float = -math.inf
    asked: set[Job] = field(default_factory=set)
    again_s: float = -math.inf
    failures: int = 0
    error: str = ""


class FluxScheduler:
    """Submits jobs to flux.

    Args:
        records: The records of the jobs.
        directory: The cache directory.

    Raises:
        WorkerStartError: flux cannot be used here.
    """

    name = "flux"
    settle_s = 5.0
    longest_pause_s = 5.0

    def __init__(self, records: Records, directory: str) -> None:
        self._durations = size_of_instance().durations
        self._records = records
        self._root = os.path.join(directory, "detached")
        self._answer: Future[Any] | None = None  # to the last question
        self._instances: dict[str, tuple[str, str]] = {}  # host and URI by the name of the jobs
        self._ended: dict[Job, TaskState] = {}  # these do not change any more
        self._elsewhere: dict[str, _Elsewhere] = {}  # instances on other hosts, by their URIs
        self._sought_s: dict[
            str, float
        ] = {}  # since when the jobs of submissions are looked for that nobody can be asked about
        self._ends_with_script = False

    @property
    def problem(self) -> str:
        """Why jobs may not go on."""
        if self._ends_with_script:
            return ENDS_WITH_SCRIPT
        silent = [there for there, known in self._elsewhere.items() if known.error and known.seen]
        return "; ".join(
            f"{there} has answered before, and does not any more: it is asked again for {HUNG_LIMIT_S:g} s"
            for there in silent
        )

    def most_tasks(self) -> int:
        """Return the largest number of jobs of a submission."""
        return TASKS_MAX

    def task_id(self, job: str, task: int) -> str:
        """Return the id of the job of a task."""
        return job.split(",")[task]

    def submit(self, request: JobRequest, lock: int) -> str:
        """Submit a job for each task; return their ids.

        Raises:
            WorkerStartError: flux refuses one of them, or does not answer.
        """
        jobspecs = _jobspecs(request, self._durations.seconds(request.resources))

        def submit(handle: Any) -> list[str]:
            self._ends_with_script = flux_jobs.ends_with_script(handle)
            request.spool.write_instance(handle.attr_get("hostname"), handle.attr_get("local-uri"))
            return flux_jobs.submit(handle, jobspecs, request.at_once, request.resources.priority)

        try:
            return ",".join(self._ask(submit, SUBMIT_TIMEOUT_S))
        except OSError as error:
            raise WorkerStartError(f"flux refuses a detached job: {error.strerror or error}") from error

    def find(self, submission: str) -> str | None:
        """Return the ids of those jobs of a submission that were submitted before its script was killed.

        Raises:
            WorkerStartError: An instance that may have some cannot be asked now.
        """
        job = Job("", NAME + submission)
        states = self._in_instances("find", [job])
        if job in states and states[job].state is State.UNKNOWN:
            since_s = self._sought_s.setdefault(submission, monotonic())
            if monotonic() - since_s <= HUNG_LIMIT_S:  # else they count as gone
                raise WorkerStartError(f"the jobs of {submission} cannot be looked for: {states[job].words}")
        found = {int(state.words): one.id for one, state in states.items() if one.id}
        known = self._records.submission(submission)
        if not found or known is None:
            return None
        return ",".join(found.get(task, "") for task in range(known.tasks))

    def states(self, jobs: Collection[str]) -> dict[tuple[str, int], TaskState] | None:
        """Ask for all jobs of the user at once."""
        tasks = {}
        for one in self._records.submissions():
            if one.job is not None and one.job in jobs:
                tasks.update({(one.job, task): made for task, made in enumerate(_jobs_of(one.job, one.id))})
        wanted = set(tasks.values())
        try:
            states = self._in_instances("look", {one for one in wanted - self._ended.keys() if one.id})
        except WorkerStartError:
            return None
        self._ended = {one: state for one, state in self._ended.items() if one in wanted}
        self._ended |= {one: state for one, state in states.items() if state.state in (State.ENDED, State.FAILED)}
        states |= self._ended
        states |= dict.fromkeys([one for one in wanted if not one.id], _NOT_SUBMITTED)
        return {task: states[one] for task, one in tasks.items() if one in states}

    def cancel(self, job: str, tasks: Collection[int] | None) -> None:
        """Cancel the jobs of some tasks, or of all of them.

        Raises:
            WorkerStartError: flux does not answer, or an instance cannot be asked from here.
        """
        unreached = set()
        for one in self._records.submissions():
            if one.job == job:
                jobs = _jobs_of(job, one.id)
                chosen = jobs if tasks is None else [jobs[task] for task in tasks]
                states = self._in_instances("cancel", [one for one in chosen if one.id])
                unreached |= {state.words for state in states.values() if state.state is State.UNKNOWN}
        if unreached:
            raise WorkerStartError(f"job {job} is not cancelled: {'; '.join(sorted(unreached))}")

    def _in_instances(self, name: str, jobs: Collection[Job]) -> States:
        """Ask the script's instance about jobs, and about others that in which they were submitted.

        Args:
            name: A function of `flux_jobs`.
            jobs: The jobs.
        """
        function: Callable[[Any, Collection[Job]], States] = getattr(flux_jobs, name)

        def ask(handle: Any, asked: Collection[Job]) -> tuple[str, States]:
            try:
                return handle.attr_get("local-uri"), function(handle, asked)
            except OSError as error:
                if name == "find":  # it may have them
                    raise WorkerStartError(f"flux does not tell its jobs: {error.strerror or error}") from error
                raise

        states: States = {}
        elsewhere: dict[tuple[str, str], list[Job]] = {}
        own = ""
        if jobs:
            try:
                own, states = self._ask(partial(ask, asked=jobs))
            except OSError as error:
                if name == "find" and not isinstance(error, (FileNotFoundError, ConnectionError)):
                    raise WorkerStartError(f"flux cannot be asked for its jobs: {error.strerror or error}") from error
                # else it has ended
        for one in set(jobs) - states.keys():
            host, uri = self._instance(one)
            if host and (host != socket.gethostname() or uri != own):
                elsewhere.setdefault((host, uri), []).append(one)
        for (host, uri), rest in elsewhere.items():
            try:
                if host == socket.gethostname():
                    states |= self._ask(partial(ask, asked=rest), uri=uri)[1]
                else:
                    states |= self._ask_on(host, uri, name, rest)
            except (FileNotFoundError, ConnectionError):
                states |= dict.fromkeys(rest, _GONE)
        return states

    def _ask_on(self, host: str, uri: str, name: str, jobs: Collection[Job]) -> States:
        """Ask an instance on another host; one that could not be asked, not again for a while.

        Of one that has answered before, what it has answered counts meanwhile: a network that fails for some seconds ends no job.

        Raises:
            FileNotFoundError: It has ended.
        """
        there = flux_elsewhere.ssh_uri(host, uri)
        known = self._elsewhere.setdefault(there, _Elsewhere())
        is_new = not known.error and not known.asked.issuperset(jobs)
        if name == "cancel" or is_new or monotonic() >= known.again_s:
            try:
                states = flux_elsewhere.ask(there, name, jobs)
            except WorkerStartError as failure:
                known.error = str(failure)
                now_s = monotonic()
                left_s = known.seen_s + HUNG_LIMIT_S - now_s  # then jobs fail within some seconds: it is asked before
                pause_s = min(UNREACHED_PAUSE_S * 2 ** min(known.failures, 9), max(left_s, UNREACHED_PAUSE_S))
                known.again_s, known.failures = now_s + pause_s, known.failures + 1
            else:
                if name != "look":
                    return states
                now_s = monotonic()
                known = _Elsewhere(states, now_s, set(jobs), now_s + ELSEWHERE_PAUSE_S)
                self._elsewhere[there] = known
        if known.error and monotonic() - known.seen_s > HUNG_LIMIT_S:
            known.seen = {}
        seen = known.seen if name == "look" else {}
        if not known.error:
            return {job: seen[job] for job in jobs if job in seen}
        unknown = TaskState(State.UNKNOWN, _NOT_HERE.format(host=host, error=known.error))
        return {job: seen.get(job, unknown) for job in jobs}

    def _instance(self, job: Job) -> tuple[str, str]:
        """Return the host, and the URI there, of the broker to which a job was submitted."""
        known = self._instances.get(job.name)
        if known is None:
            known = Spool(self._root, job.name.removeprefix(NAME)).read_instance()
            if known[0]:  # else the file may come late
                self._instances[job.name] = known
        return known

    def _ask(self, function: Callable[[Any], T], timeout_s: float = ANSWER_TIMEOUT_S, uri: str | None = None) -> T:
        """Call a function with a handle of an instance, in a thread: the broker of the instance may hang.

        Raises:
            WorkerStartError: flux does not answer.
            OSError: It refuses, or there is no such instance.
        """
        if self._answer is not None and not self._answer.done():
            raise WorkerStartError("flux still does not answer: its broker hangs")
        answer: Future[T] = Future()

        def run() -> None:
            try:
                import flux

                answer.set_result(function(flux.Flux() if uri is None else flux.Flux(uri)))
            except BaseException as error:  # also what a `__del__` raises that the garbage collector runs here
                answer.set_exception(error)

        ServiceThread("pympipool_ask_flux", run).start()
        self._answer = answer
        try:
            return answer.result(timeout_s)
        except FutureTimeoutError:
            raise WorkerStartError(f"flux does not answer within {timeout_s:g} s") from None


def _jobs_of(job: str, submission: str) -> list[Job]:
    return [Job(one, NAME + submission) for one in job.split(",")]


def _jobspecs(request: JobRequest, duration_s: float) -> list[dict[str, Any]]:
    """Return the jobspec of each task.

    Raises:
        WorkerStartError: A dependency was not submitted; or for several ranks, mpi4py or an MPI library is missing.
    """
    variables = without_outer_job({**os.environ, **request.resources.threads_environment(), **request.environment})
    variables.pop("PYMPIPOOL_KEY", None)
    made = make_jobspec(
        replace(request.resources, submission_template=None),
        _program(request),
        name=NAME + request.spool.submission,
        environment=variables,
        cwd=request.cwd,
        pmi=pmi_of(request.resources),
        duration_s=duration_s,
    )
    system = made["attributes"]["system"]
    system["dependencies"] = [{"scheme": "afterok", "value": one} for one in _ids_of(request.after)]
    return [_of_task(made, task, request.spool.log_path(task)) for task in range(request.tasks)]


def _program(request: JobRequest) -> list[str]:
    """Return the program of a task, which gets its number: with a template, a script that runs it."""
    if request.resources.submission_template is None:
        return list(request.command)
    path = os.path.join(request.spool.path, "job.sh")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700), "w") as file:
        file.write(render(request.resources, f'{shlex.join(request.command)} "$1"', request))
    return [path]


def _ids_of(after: Collection[tuple[str, int | None]]) -> list[str]:
    ids = [one for job, task in after for number, one in enumerate(job.split(",")) if task in (None, number)]
    if not all(ids):
        raise WorkerStartError("a dependency of a detached job was not submitted, as its script was killed")
    return sorted(set(ids))


def _of_task(jobspec: Mapping[str, Any], task: int, log: str) -> dict[str, Any]:
    """Return the jobspec of a task of a submission."""
    (program,) = jobspec["tasks"]
    system = jobspec["attributes"]["system"]
    file = {"type": "file", "path": log}
    options = {**system["shell"]["options"], "output": {"mode": "append", "stdout": file, "stderr": file}}
    return {
        **jobspec,
        "tasks": [{**program, "command": [*program["command"], str(task)]}],
        "attributes": {"system": {**system, "shell": {"options": options}}},
    }


def check(resources: Resources) -> None:
    """Raise ValueError for resources that jobs of flux do not have."""
    if resources.flux_log_files:
        raise ValueError(
            "flux_log_files is True; `pympipool jobs logs` shows what a detached job has printed: leave it out"
        )
    backend.check_resources(replace(resources, submission_template=None))
    if resources.submission_template is not None:
        text_of(resources.submission_template)

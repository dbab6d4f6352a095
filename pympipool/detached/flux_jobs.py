"""What is asked of a flux instance about the jobs of detached calls. A handle of flux is for the thread that has made it.

submit    jobspecs ─► ids        look    ids ─► states        cancel    those that have not ended
find      name ─► jobs whose script was killed while it submitted them
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from pympipool.detached.schedulers import State, TaskState
from pympipool.errors import describe_exit

__all__ = ["Job", "States", "cancel", "ends_with_script", "find", "look", "submit"]


class Job(NamedTuple):
    """A job. Another instance may have one of the same id, but not of the same name."""

    id: str
    name: str


States: TypeAlias = dict[Job, TaskState]


_PENDING, _RUNNING, _INACTIVE = 14, 48, 64
"""States of jobs, which are bits: RFC 21 of flux."""

_RESULTS = {1: "COMPLETED", 2: "FAILED", 4: "CANCELED", 8: "TIMEOUT"}
"""How a job has ended (RFC 21)."""

_ATTRIBUTES = ["name", "state", "result", "waitstatus"]
_ATTRIBUTES += [f"exception_{name}" for name in ("occurred", "severity", "type", "note")]


def submit(handle: Any, jobspecs: Sequence[dict[str, Any]], at_once: int | None, urgency: int | None) -> list[str]:
    """Submit jobs; return their ids.

    Args:
        handle: That of the instance.
        jobspecs: One for each job.
        at_once: How many of them run at a time: each of the others waits for the end of one of them. None: all.
        urgency: As of flux; None: its default.

    Raises:
        OSError: flux refuses one of the jobs. Then the others are cancelled.
    """
    from flux.job.submit import submit_async, submit_get_id

    ids: list[str] = []
    options = {} if urgency is None else {"urgency": urgency}
    step = at_once or len(jobspecs)
    for begin in range(0, len(jobspecs), step):
        before = ids[begin - step : begin] if begin else []
        answers = []
        for number, jobspec in enumerate(jobspecs[begin : begin + step]):
            if before:
                _add_dependency(jobspec, "afterany", before[number])
            answers.append(submit_async(handle, json.dumps(jobspec), **options))
        refusal = None
        for answer in answers:
            try:
                ids.append(_f58(submit_get_id(answer)))
            except OSError as error:
                refusal = error
        if refusal is not None:
            _cancel(handle, ids)
            raise refusal
    return ids


def _add_dependency(jobspec: dict[str, Any], scheme: str, job: str) -> None:
    system = jobspec["attributes"]["system"]
    system["dependencies"] = [*system.get("dependencies", ()), {"scheme": scheme, "value": job}]


def look(handle: Any, jobs: Collection[Job]) -> States:
    """Return the states of those jobs that the instance knows."""
    payload = {"max_entries": 0, "attrs": _ATTRIBUTES, "constraint": _ours({"states": [_PENDING | _RUNNING]})}
    found = {_f58(job["id"]): job for job in handle.rpc("job-list.list", payload).get()["jobs"]}
    answers = {
        one.id: handle.rpc("job-list.list-id", {"id": _number(one.id), "attrs": _ATTRIBUTES})
        for one in jobs
        if one.id not in found
    }
    for one, answer in answers.items():
        with suppress(FileNotFoundError):
            found[one] = answer.get()["job"]
    return {one: as_state(found[one.id]) for one in jobs if found.get(one.id, {}).get("name") == one.name}


def cancel(handle: Any, jobs: Collection[Job]) -> States:
    """Cancel jobs; return the states that they had."""
    states = look(handle, jobs)
    _cancel(handle, [one.id for one, state in states.items() if state.state in (State.WAITING, State.RUNNING)])
    return states


def _cancel(handle: Any, ids: Sequence[str]) -> None:
    from flux.job.kill import cancel_async

    for answer in [cancel_async(handle, _number(one)) for one in ids]:
        with suppress(OSError):  # it has just ended
            answer.get()


def find(handle: Any, jobs: Collection[Job]) -> States:
    """Return all jobs of the names of these, which have no ids.

    The words of a state are the number of the task, which is the last argument of the program.
    """
    (name,) = {one.name for one in jobs}
    payload = {"max_entries": 0, "attrs": ["name"], "constraint": _ours({"name": [name]})}
    ids = [job["id"] for job in handle.rpc("job-list.list", payload).get()["jobs"]]
    answers = [handle.rpc("job-info.lookup", {"id": one, "keys": ["jobspec"], "flags": 0}) for one in ids]
    jobspecs = [json.loads(answer.get()["jobspec"]) for answer in answers]
    tasks = [jobspec["tasks"][0]["command"][-1] for jobspec in jobspecs]
    return {Job(_f58(one), name): TaskState(State.WAITING, task) for one, task in zip(ids, tasks, strict=True)}


def _ours(constraint: dict[str, Any]) -> dict[str, Any]:
    return {"and": [{"userid": [os.getuid()]}, constraint]}


def ends_with_script(handle: Any) -> bool:
    """Return True if this process is the first program of the instance, which ends with it."""
    return bool(
        handle.attr_get("broker.pid") == str(os.getppid()) and handle.attr_get("hostname") == socket.gethostname()
    )


def as_state(job: Mapping[str, Any]) -> TaskState:
    """Return the state of a task, from what job-list says of its job.

    Examples:
        >>> as_state({"state": 64, "result": 2, "waitstatus": 768})
        TaskState(state=<State.FAILED: 'failed'>, words='FAILED: it ended with exit code 3')
        >>> as_state({"state": 8}).state
        <State.WAITING: 'waiting'>
    """
    state = job["state"]
    if not state & _INACTIVE:
        return TaskState(State.RUNNING if state & _RUNNING else State.WAITING)
    result = _RESULTS.get(job.get("result", 0), "FAILED")
    words = result
    if job.get("exception_occurred") and job.get("exception_severity") == 0:
        note = job.get("exception_note")
        words += f" ({job['exception_type']}{f': {note}' if note else ''})"
    elif job.get("waitstatus"):
        words += f": it {describe_exit(os.waitstatus_to_exitcode(job['waitstatus']))}"
    return TaskState(State.ENDED if result == "COMPLETED" else State.FAILED, words)


def _f58(number: int) -> str:
    from flux.job import JobID

    plain: str = JobID(number).f58plain
    return plain


def _number(job: str) -> int:
    from flux.job import JobID

    return int(JobID(job))

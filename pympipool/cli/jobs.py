"""`pympipool jobs`: look at the jobs of detached calls, cancel them, and read what they have printed."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import localtime, strftime
from typing import TYPE_CHECKING, Any, NamedTuple

from pympipool._util.formatting import format_count
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.detached.records import Records, Submission
    from pympipool.detached.schedulers import Scheduler
    from pympipool.detached.spool import Spool

HELP = "list, cancel or read the jobs of calls that outlive their script"

FAILED = 1

_COUNTED = {"ended": "failed", "will never start": "failed", "was lost": "unknown"}
"""States of tasks, for calls that have left no result, and how they are counted."""


class Jobs(NamedTuple):
    """The jobs of a cache directory.

    Attributes:
        path: The directory.
        records: Their records.
    """

    path: str
    records: Records

    def spool(self, submission: str) -> Spool:
        """Return the folder of a submission."""
        from pympipool.detached.spool import Spool

        return Spool(os.path.join(self.path, "detached"), submission)

    def scheduler(self, name: str) -> Scheduler:
        """Return a scheduler.

        Raises:
            WorkerStartError: It cannot be used here.
        """
        from pympipool.detached.schedulers import make_scheduler

        return make_scheduler(name, self.records, self.path)

    def find(self, beginning: str) -> Submission:
        """Return a submission by its id, the first digits of it, or the number of its job.

        Raises:
            ValueError: There is none, or more than one.
        """
        found = [
            one
            for one in self.records.submissions()
            if one.id.startswith(beginning) or beginning in (one.job or "").split(",")
        ]
        if len(found) != 1:
            raise ValueError(f"{len(found)} submissions have the id {beginning!r}; see `pympipool jobs list`")
        return found[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool jobs`."""
    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "-d", "--directory", default="cache", help="the cache_directory of the Executor (default: %(default)s)"
    )
    choices = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, action: Callable[[Jobs, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = choices.add_parser(name, help=text, description=text, parents=[directory])
        made.set_defaults(action=action)
        return made

    listed = add("list", _list, "list the jobs that no script has fetched all results of, the oldest first")
    listed.add_argument("--json", action="store_true", help="for programs: an object in each line")
    cancelled = add("cancel", _cancel, "cancel jobs; results that they have left stay")
    cancelled.add_argument("id", nargs="*", help="the id of a submission, its first digits, or the number of its job")
    cancelled.add_argument("--all", action="store_true", help="cancel all of them")
    logs = add("logs", _logs, "show what the tasks of a job have printed")
    logs.add_argument("id", help="the id of a submission, its first digits, or the number of its job")
    logs.add_argument("--task", type=int, help="only this task of it")


def run(options: argparse.Namespace) -> int:
    """Do what was asked for. Return 1 if that failed, otherwise 0."""
    try:
        with _opened(options.directory) as jobs:
            code: int = options.action(jobs, options)
            return code
    except (OSError, ValueError, WorkerStartError) as error:
        print(f"pympipool jobs: {error}", file=sys.stderr)
        return FAILED


@contextmanager
def _opened(directory: str) -> Iterator[Jobs]:
    from pympipool.caching import directory as directories
    from pympipool.caching.file_waits import FileLockedError
    from pympipool.detached.records import open_records

    checked = directories.prepare(directory, create=False)
    root = os.path.join(checked.path, "detached")
    if not os.path.exists(os.path.join(root, "jobs.sqlite")):
        raise FileNotFoundError(f"{checked.path!r} has no jobs; name the cache_directory of an Executor(detached=True)")
    records = open_records(root, is_shared=checked.is_shared)
    try:
        yield Jobs(checked.path, records)
    except FileLockedError as locked:
        raise OSError(str(locked)) from locked
    except sqlite3.Error as error:
        raise OSError(f"{checked.path!r}: {error}") from error
    finally:
        records.close()


def _list(jobs: Jobs, options: argparse.Namespace) -> int:
    submissions = jobs.records.submissions()
    states = _states(jobs, submissions)
    for one in submissions:
        data = _as_data(jobs, one, states.get(one.scheduler))
        print(json.dumps(data) if options.json else _line(data))
    if not options.json:
        print(format_count(len(submissions), "submission"))
    jobs.records.check_writable()
    return 0


def _states(jobs: Jobs, submissions: list[Submission]) -> dict[str, Any]:
    """Return the states of all tasks by scheduler; without those that do not answer."""
    states: dict[str, Any] = {}
    for name in {one.scheduler for one in submissions}:
        try:
            found = jobs.scheduler(name).states({one.job for one in submissions if one.job and one.scheduler == name})
        except WorkerStartError as error:
            print(f"pympipool jobs: {error}", file=sys.stderr)
            continue
        if found is not None:
            states[name] = found
    return states


def _as_data(jobs: Jobs, submission: Submission, states: Any) -> dict[str, Any]:
    spool = jobs.spool(submission.id)
    try:
        calls = spool.read_common()["calls"]
    except (OSError, ValueError):
        calls = 0
    ended = {number: end for number in spool.ended() if (end := spool.end(number)) is not None}
    counts = dict.fromkeys(("done", "failed", "running", "waiting", "unknown"), 0)
    for number in range(calls):
        if number in ended:
            counts["failed" if ended[number].is_error else "done"] += 1
            continue
        state = None if states is None else states.get((submission.job, number // submission.chunk))
        counts["unknown" if state is None else _COUNTED.get(state.state.value, state.state.value)] += 1
    return {
        "id": submission.id,
        "scheduler": submission.scheduler,
        "job": submission.job,
        "function": submission.function,
        "created": submission.created,
        "calls": calls,
        **counts,
    }


def _line(data: dict[str, Any]) -> str:
    made = strftime("%Y-%m-%d %H:%M", localtime(data["created"]))
    names = [name for name in ("done", "failed", "running", "waiting", "unknown") if data[name]]
    counts = ", ".join(f"{data[name]} {name}" for name in names)
    first, _, others = (data["job"] or "").partition(",")
    job = f" {first}{',...' if others else ''}" if first not in ("", data["id"]) else ""
    calls = format_count(data["calls"], "call")
    return f"{data['id'][:12]}  {made}  {data['scheduler']}{job}  {data['function']}()  {calls}: {counts}"


def _cancel(jobs: Jobs, options: argparse.Namespace) -> int:
    if bool(options.id) == options.all:
        raise ValueError("name submissions, or --all")
    chosen = jobs.records.submissions() if options.all else [jobs.find(one) for one in options.id]
    code = 0
    for one in chosen:
        try:
            if one.job is not None:
                jobs.scheduler(one.scheduler).cancel(one.job, None)
        except (OSError, WorkerStartError) as error:  # keeps no other job running
            print(f"pympipool jobs: {one.id[:12]}: {error}", file=sys.stderr)
            code = FAILED
            continue
        ended = jobs.spool(one.id).ended()
        waiting = [key for key, claim in jobs.records.calls_of(one.id).items() if claim.number not in ended]
        jobs.records.drop(one.id, waiting)
        print(f"{one.id[:12]}: {format_count(len(waiting), 'call')} cancelled")
    for submission in jobs.records.take_finished(older_s=float("inf")):
        jobs.spool(submission).remove()
    return code


def _logs(jobs: Jobs, options: argparse.Namespace) -> int:
    submission = jobs.find(options.id)
    spool = jobs.spool(submission.id)
    for task in range(submission.tasks) if options.task is None else [options.task]:
        try:
            with open(spool.log_path(task), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        for line in text.splitlines():
            print(f"{task}: {line}" if submission.tasks > 1 and options.task is None else line)
    return 0

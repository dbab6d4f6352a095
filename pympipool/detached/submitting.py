"""Calls of a script become jobs: those that no job computes yet are submitted, in a way that survives a kill at any moment.

    1. make the folder of the submission, and lock it: the lock passes on to the program that submits
    2. claim the calls, in one transaction: a call that another submission computes already stays there. One whose job has ended
       since has its result in the cache
    3. write the calls, submit, note the number of the job, unlock

If the script is killed in between, the next one finds the lock free. Then the scheduler is asked for a job with the name of the
submission. If there is none, the submission is taken back, with its folder: a job that comes up late finds nothing to do.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any

from pympipool._util.import_path import import_path, package_folder
from pympipool.backends.program import program_command
from pympipool.detached.records import Submission
from pympipool.detached.schedulers import JobRequest
from pympipool.detached.spool import ID_BYTES, Spool
from pympipool.execution.dependencies import has_result, is_cancelled
from pympipool.serialization.inputs import entry_and_origin

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.caching.store import Store
    from pympipool.detached.futures import DetachedFuture
    from pympipool.detached.records import Claim, Records
    from pympipool.detached.schedulers import Scheduler
    from pympipool.resources import Resources

__all__ = ["Call", "Group", "InputFailed", "NotYet", "Submitter"]


class NotYet(Exception):
    """A call waits for another one whose job is not known yet."""


class InputFailed(Exception):
    """An input of a call has failed, or was cancelled. The argument is its future."""


class Call:
    """A call that the script waits for.

    Args:
        key: The key of the call.
        function: The name of the function.
        arguments: The arguments, as text.
        parts: The pickled call.
        inputs: The futures among the arguments.
        resources: What the call needs.
        future: The future of the call.
    """

    __slots__ = ("arguments", "function", "future", "inputs", "key", "parts", "resources")

    def __init__(
        self,
        key: bytes,
        function: str,
        arguments: str,
        parts: list[Any],
        inputs: list[Any],
        resources: Resources,
        future: DetachedFuture,
    ) -> None:
        self.key = key
        self.function = function
        self.arguments = arguments
        self.parts = parts
        self.inputs = inputs
        self.resources = resources
        self.future = future


class Group:
    """Calls that are submitted together.

    Args:
        calls: The calls.
        resources: What each call needs.
        chunk: How many of them a task runs.

    Attributes:
        tries: How often it was tried to submit them.
    """

    def __init__(self, calls: list[Call], resources: Resources, chunk: int = 1) -> None:
        self.calls = calls
        self.resources = resources
        self.chunk = chunk
        self.tries = 0


class Submitter:
    """Submits the calls of one executor.

    Args:
        records: The records of the jobs.
        store: The cache.
        scheduler: Runs the jobs.
        root: The folder of all submissions.
        at_once: How many tasks of an array run at a time; None: as many as the scheduler likes.
        cores: How many cores jobs may use at a time, for "local".
    """

    def __init__(
        self, records: Records, store: Store, scheduler: Scheduler, root: str, at_once: int | None, cores: int
    ) -> None:
        self._records = records
        self._store = store
        self._scheduler = scheduler
        self.root = root
        self._at_once = at_once
        self._cores = cores

    def pieces(self, group: Group) -> Iterator[Group]:
        """Yield a group in pieces that can be one array each: whose calls wait for the same, and not too many."""
        by_inputs: dict[frozenset[bytes], list[Call]] = {}
        for call in group.calls:
            by_inputs.setdefault(frozenset(entry_and_origin(one)[0].key for one in call.inputs), []).append(call)
        for calls in by_inputs.values():
            rest = iter(calls)
            while piece := list(islice(rest, self._scheduler.most_tasks() * group.chunk)):
                made = Group(piece, group.resources, group.chunk)
                made.tries = group.tries
                yield made

    def places_of_inputs(self, inputs: Sequence[Future[Any]]) -> dict[bytes, tuple[str, int]]:
        """Return submission and number of those inputs that are not in the cache, by key.

        Raises:
            NotYet: The job of one is not known yet.
            InputFailed: One has failed.
            LookupError: One has ended, and its result is in another cache.
        """
        places = {}
        for future in inputs:
            key = entry_and_origin(future)[0].key
            if future.done():
                if is_cancelled(future) or not has_result(future):
                    raise InputFailed(future)
                if self._store.find(key) is None:
                    raise LookupError(
                        "an argument is the result of a call with another cache_directory: pass its result()"
                    )
                continue
            claim = self._records.find(key)
            if claim is None or claim.failure is not None:
                raise NotYet
            places[key] = claim.submission, claim.number
        return places

    def submit(self, piece: Group, places: dict[bytes, tuple[str, int]]) -> dict[bytes, Claim]:
        """Have a job compute those calls that no job computes.

        Args:
            piece: Calls that have the same inputs.
            places: Where these are (see `places_of_inputs`).

        Returns:
            Who computes each call, by key; without those that are in the cache meanwhile.

        Raises:
            NotYet: The job of an input is not known yet.
            WorkerStartError: The scheduler refuses the job.
            OSError: There is no room, for example; or the directory was removed.
        """
        self._records.check_in_place()
        after = self._after(places.values())
        spool = Spool(self.root, secrets.token_hex(ID_BYTES))
        lock = spool.create()
        try:
            claims, own = self._claim(piece, spool)
            if own:
                try:
                    self._write(piece, spool, own, places)
                    request = self._request(piece, spool, len(own), after)
                    job = self._scheduler.submit(request, lock)
                except BaseException:
                    self._records.abandon(spool.submission)
                    raise
                self._records.note_job(spool.submission, job)
        finally:
            try:
                if self._records.submission(spool.submission) is None:
                    spool.remove()
            finally:
                os.close(lock)  # else no script would ever take the submission back
        return claims

    def _claim(self, piece: Group, spool: Spool) -> tuple[dict[bytes, Claim], dict[int, Call]]:
        """Return who computes each call, by key, and the calls that are to be submitted, by their numbers."""
        calls = {call.key: call for call in piece.calls}
        submission = Submission(
            id=spool.submission,
            scheduler=self._scheduler.name,
            host=socket.gethostname(),
            function=piece.calls[0].function,
            created=time(),
            tasks=0,
            chunk=piece.chunk,
            job=None,
            spec="{}",
        )
        claims = self._records.claim(
            submission,
            [(key, call.arguments) for key, call in calls.items()],
            partial(self._store.find_all, now=True),
        )
        own = {claim.number: calls[key] for key, claim in claims.items() if claim.submission == spool.submission}
        return claims, own

    def _write(self, piece: Group, spool: Spool, own: dict[int, Call], places: dict[bytes, tuple[str, int]]) -> None:
        resources = piece.resources
        by_key = {key.hex(): place for key, place in places.items()}
        for number, call in own.items():
            spool.write_call(number, by_key, call.parts)
        if places:
            self._records.note_needs(spool.submission, {submission for submission, _ in places.values()})
        spool.write_common(
            {
                "function": piece.calls[0].function,
                "scheduler": self._scheduler.name,
                "calls": len(own),
                "chunk": piece.chunk,
                "ranks": resources.cores,
                "gpus_per_rank": resources.gpus_per_core,
                "result_of": resources.result_of,
                "run_time_max": resources.run_time_max,
                "cwd": resources.cwd,
                "argv": list(sys.argv),
                "path": [entry for entry in import_path() if isinstance(entry, str)],
            }
        )

    def _request(self, piece: Group, spool: Spool, calls: int, after: Sequence[tuple[str, int | None]]) -> JobRequest:
        directory = os.path.dirname(self.root)
        assert piece.resources.cwd is not None, "the engine notes it"
        return JobRequest(
            spool=spool,
            tasks=-(-calls // piece.chunk),
            resources=piece.resources,
            command=[*_program(piece.resources, self._scheduler.name), directory, spool.submission],
            environment={"PYMPIPOOL_PATH": package_folder()},
            cwd=piece.resources.cwd,
            after=after,
            at_once=self._at_once,
            cores_at_once=self._cores,
        )

    def _after(self, places: Iterable[tuple[str, int]]) -> list[tuple[str, int | None]]:
        """Return the tasks that must have ended before. Those that have ended already are not among them: SLURM forgets them."""
        after: dict[tuple[str, int | None], None] = {}
        for submission_id, number in places:
            end = Spool(self.root, submission_id).end(number)
            if end is not None and not end.is_error:
                continue
            submission = self._records.submission(submission_id)
            if submission is None or submission.job is None or end is not None:
                raise NotYet
            after[submission.job, None if submission.tasks == 1 else number // submission.chunk] = None
        return list(after)

    def recover(self, submission: str, waited_s: float) -> str | None:
        """Find the job of a submission whose number was not noted.

        Args:
            waited_s: For how long it has been looked for.

        Returns:
            The number of the job; None if it is not known yet; "" if there is none, and the submission was taken back.
        """
        spool = Spool(self.root, submission)
        lock = None
        try:
            with suppress(FileNotFoundError):  # the script was killed when it removed the folder
                lock = spool.try_lock()
                if lock is None:
                    return None  # it is being submitted
            found = self._records.submission(submission)
            if found is None:
                return ""
            job = found.job or spool.read_id() or self._scheduler.find(submission)
            if job is not None:
                self._records.note_job(submission, job)
                return job
            if waited_s < self._scheduler.settle_s:
                return None
            self._records.abandon(submission)
            spool.remove()
            return ""
        finally:
            if lock is not None:
                os.close(lock)


def _program(resources: Resources, scheduler: str) -> list[str]:
    module = "rank" if resources.cores > 1 and scheduler != "local" else "run"
    return program_command(f"pympipool.detached.{module}")

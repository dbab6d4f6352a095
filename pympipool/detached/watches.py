"""The submissions in which a script waits for calls: their folders are looked at, and their scheduler is asked.

    look() ─► a call has ended: its future gets the result or the exception
    ask()  ─► a task has ended, and left no result ─► after a while, as files may come late: its futures fail
              a submission has no job ─► its script was killed: the job is found, or the calls are submitted again

A result ends a future, whatever the scheduler says. All of this runs in the thread of the watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from subprocess import SubprocessError
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._util.service_threads import ServiceLogger
from pympipool.caching.file_waits import FileLockedError
from pympipool.detached import outcomes, records_file
from pympipool.detached.schedulers import State
from pympipool.detached.spool import Spool, unknown_spools
from pympipool.detached.submitting import Call, Group
from pympipool.errors import JobError, WorkerStartError
from pympipool.serialization.exceptions import summarize_parts

if TYPE_CHECKING:
    from pympipool.caching.store import Store
    from pympipool.detached.records import Claim, Records, Submission
    from pympipool.detached.schedulers import Scheduler, TaskState
    from pympipool.detached.submitting import Submitter

__all__ = ["Watches"]

LOGGER = ServiceLogger("pympipool.detached")

LATE_S = 2.0
"""How long the result of a task may be late that has ended, on a file system of this host."""

LATE_SHARED_S, FAILED_SHARED_S = 60.0, 10.0
"""The same on a file system of several hosts, which show files late: of a task that has ended, and of one that has failed."""

FORGOTTEN_S = 15.0
"""How long a scheduler must have answered without a task until it counts as forgotten."""

FAILURES_KEPT_S = 30 * 86_400.0
"""How long the logs of failed jobs are kept whose calls no script submits again."""


class Watch:
    """The calls that this script waits for in one submission.

    Args:
        spool: Its folder.
        submission: What is noted of it; None if it has ended meanwhile.
    """

    def __init__(self, spool: Spool, submission: Submission | None) -> None:
        self.spool = spool
        self.chunk = 1 if submission is None else submission.chunk
        self.is_array = submission is not None and submission.tasks > 1
        self.job = None if submission is None else submission.job
        self.calls: dict[int, list[Call]] = {}
        self.since_s = monotonic()
        self.missing_s: dict[int, float] = {}  # since when a task that has ended, or is not known, has no result
        self.unreadable_s: dict[int, float] = {}  # since when a result is there that cannot be read
        self.cancelled: dict[int, list[bytes]] = {}  # keys of cancelled calls by their tasks, which may have others
        self.to_cancel: set[int] = set()  # tasks that do not
        self.kept: list[bytes] = []  # keys of calls that no job needs to compute any more
        self.failures: dict[bytes, str] = {}  # why calls have failed, by their keys; to be noted
        self.change: tuple[Any, float] = (
            None,
            0.0,
        )  # the last one that the submitting script has made, and when it was seen


class Watches:
    """The submissions in which a script waits for calls.

    Args:
        records: The records of the jobs.
        store: The cache.
        scheduler: Runs the jobs.
        submitter: Submits calls.
        submit_again: Gets calls that are to be submitted anew.
        on_end: Called for each call that has ended.
    """

    def __init__(
        self,
        records: Records,
        store: Store,
        scheduler: Scheduler,
        submitter: Submitter,
        submit_again: Callable[[Group], object],
        on_end: Callable[[Call], object],
    ) -> None:
        self._records = records
        self._store = store
        self._scheduler = scheduler
        self._submitter = submitter
        self._submit_again = submit_again
        self._on_end = on_end
        self._watches: dict[str, Watch] = {}
        self._silent_since_s: float | None = None

    def silence_s(self) -> float:
        """Return for how long the scheduler has given no answer (s)."""
        return 0.0 if self._silent_since_s is None else monotonic() - self._silent_since_s

    def __bool__(self) -> bool:
        return bool(self._watches)

    def follow(self, call: Call, claim: Claim | None) -> None:
        """Wait for the end of a call in its submission; without one, its result is in the cache."""
        if claim is None:
            if outcomes.answer_from_cache(self._store, call):
                self._on_end(call)
            else:  # it was removed meanwhile
                self._submit_again(Group([call], call.resources))
            return
        watch = self._watches.get(claim.submission)
        if watch is None:
            submission = self._records.submission(claim.submission)
            watch = Watch(Spool(self._submitter.root, claim.submission), submission)
            self._watches[claim.submission] = watch
        watch.calls.setdefault(claim.number, []).append(call)

    def cancel(self, calls: Collection[Call]) -> None:
        """Cancel the tasks of calls whose futures were cancelled, except those that have other calls that the script waits for."""
        for watch in self._watches.values():
            for number, waiting in list(watch.calls.items()):
                rest = [call for call in waiting if call not in calls]
                if rest:
                    watch.calls[number] = rest
                else:
                    del watch.calls[number]
                    watch.cancelled.setdefault(number // watch.chunk, []).append(waiting[0].key)
            needed = {number // watch.chunk for number in watch.calls}
            watch.to_cancel |= watch.cancelled.keys() - needed
        self.send_cancels()

    def send_cancels(self) -> None:
        """Have the scheduler cancel tasks: the last ones first, which else would start in the place of those that end.

        Raises:
            OSError, WorkerStartError: Some could not be cancelled. They are told again by the next call.
        """
        failure: Exception | None = None
        for watch in reversed(self._watches.values()):
            if watch.to_cancel and watch.job is not None:
                try:
                    self._cancel(watch, sorted(watch.to_cancel, reverse=True))
                except (OSError, SubprocessError, WorkerStartError) as error:  # keeps no other job running
                    failure = error
                    continue
                for task in watch.to_cancel:
                    watch.kept += watch.cancelled.pop(task)
                watch.to_cancel.clear()
        if failure is not None:
            raise failure

    def has_cancels(self) -> bool:
        """Return True if the scheduler was not told of all tasks that are to be cancelled."""
        return any(watch.to_cancel and watch.job is not None for watch in self._watches.values())

    def _cancel(self, watch: Watch, tasks: Sequence[int]) -> None:
        """Cancel tasks of a job: SLURM knows numbers of tasks only of arrays."""
        self._scheduler.cancel(watch.job or "", tasks if watch.is_array else None)

    def forget_known(self) -> None:
        """Forget calls whose results are in the cache: their script was killed, or kept from writing, before it noted that.

        Folders are removed that a script has left which was killed before it noted their submission.
        """
        claims = self._records.claims()
        known = self._store.find_all([key for _, key in claims])
        of_submission: dict[str, list[bytes]] = {}
        for submission, key in claims:
            if key in known:
                of_submission.setdefault(submission, []).append(key)
        for submission, keys in of_submission.items():
            self._records.drop(submission, keys)
        if known:
            self._remove_finished()
        for spool in unknown_spools(self._submitter.root, lambda one: self._records.submission(one) is not None):
            spool.remove()

    def _remove_finished(self) -> None:
        for submission in self._records.take_finished(FAILURES_KEPT_S):
            Spool(self._submitter.root, submission).remove()

    def look(self) -> None:
        """End the futures of calls that have ended."""
        for watch in list(self._watches.values()):
            for number in sorted(watch.spool.ended() & watch.calls.keys()):
                self._end(watch, number)
        self._tidy()

    def _end(self, watch: Watch, number: int) -> None:
        end, calls = watch.spool.end(number), watch.calls[number]
        if end is None:
            return
        key = calls[0].key
        try:
            if end.is_error:
                parts = watch.spool.read_result(number, end)
                wanted = end.is_raised and any(call.resources.cache_exceptions for call in calls)
                is_kept = wanted and outcomes.keep_exception(self._store, end, calls[0], parts)
                for call in calls:
                    outcomes.fail_with_exception(call, parts)
                if is_kept:
                    watch.kept.append(key)
                else:
                    watch.failures[key] = ": ".join(summarize_parts(parts))
            else:
                parts, is_kept = None, True
                if self._store.find(key) is None:
                    parts, is_kept = outcomes.keep_result(self._store, watch.spool, number, end, calls[0])
                for call in calls:
                    outcomes.answer_from_cache(self._store, call, parts)
                if not all(call.future.done() for call in calls):
                    return
                if is_kept:
                    watch.kept.append(key)
        except (OSError, ValueError) as problem:  # another script has made it a result of the cache, or files come late
            since_s = watch.unreadable_s.setdefault(number, monotonic())
            if monotonic() - since_s > self._late_s(State.ENDED):
                self._fail(watch, number, f"its result cannot be read: {problem}")
            return
        self._forget(watch, number)

    def _forget(self, watch: Watch, number: int) -> None:
        for call in watch.calls.pop(number):
            self._on_end(call)

    def _tidy(self) -> None:
        """Forget what has ended, and remove the folders of submissions that nothing needs any more."""
        ended = False
        for submission, watch in list(self._watches.items()):
            for key in list(watch.failures):
                self._records.fail(submission, key, watch.failures[key])
                del watch.failures[key]
            if watch.kept:
                self._records.drop(submission, watch.kept)
                watch.kept = []
            if not watch.calls and not watch.to_cancel:
                del self._watches[submission]
                ended = True
        if ended:
            self._remove_finished()

    def ask(self) -> None:
        """Ask the scheduler for all jobs, and end the futures of calls whose tasks have ended without a result.

        Raises:
            WorkerStartError: A job that was not noted cannot be looked for now.
        """
        try:
            self._records.check_in_place()
        except FileNotFoundError as removed:
            self.fail_all(str(removed))
            return
        failure: WorkerStartError | None = None
        for watch in list(self._watches.values()):
            if watch.job is None:
                try:
                    with self._failing_if_locked([watch]):
                        self._find_job(watch)
                except WorkerStartError as error:  # the others are asked about
                    failure = error
        watches = [watch for watch in self._watches.values() if watch.job is not None]
        with self._failing_if_locked(watches):
            states = self._scheduler.states({watch.job for watch in watches if watch.job is not None})
            self._compare_all(states)
        self._tidy()
        if failure is not None:
            raise failure

    def _compare_all(self, states: Mapping[tuple[str, int], TaskState] | None) -> None:
        if states is None:
            LOGGER.info("%s does not answer; detached jobs are asked for again", self._scheduler.name)
            self._silent_since_s = self._silent_since_s or monotonic()
            return
        self._silent_since_s = None
        for watch in list(self._watches.values()):
            with self._failing_if_locked([watch]):
                for number in list(watch.calls) if watch.job is not None else ():
                    self._compare(watch, number, states.get((watch.job or "", number // watch.chunk)))

    @contextmanager
    def _failing_if_locked(self, watches: Collection[Watch]) -> Iterator[None]:
        """End the futures of calls about which nothing can be known, if another process has locked the records for too long."""
        try:
            yield
        except FileLockedError:
            words = self._records.lock_problem(records_file.HUNG_LIMIT_S)
            if not words:
                raise
            self._fail_all(watches, words)

    def fail_all(self, words: str) -> None:
        """End the futures of all calls."""
        self._fail_all(list(self._watches.values()), words)

    def _fail_all(self, watches: Collection[Watch], words: str) -> None:
        """End the futures of all calls of some submissions, and look at these no more."""
        for watch in watches:
            submission = watch.spool.submission
            for number in list(watch.calls):
                for call in watch.calls[number]:
                    outcomes.fail(call, JobError(call.function, job=watch.job or submission, words=words))
                self._forget(watch, number)
            self._watches.pop(submission, None)

    def _find_job(self, watch: Watch) -> None:
        """Find the job of a submission that another script submits, or was killed while it did."""
        job = self._submitter.recover(watch.spool.submission, monotonic() - watch.since_s)
        if job:
            watch.job = job
        elif job is not None:
            watch.to_cancel.clear()
            for number in list(watch.calls):
                self._look_elsewhere(watch, number, submits=True)
        elif watch.change[0] != (change := watch.spool.last_change()):
            watch.change = change, monotonic()
        elif monotonic() - watch.change[1] > records_file.HUNG_LIMIT_S:
            silence = f"has done nothing for {records_file.HUNG_LIMIT_S:g} s"
            words = f"another script submits it, and {silence}: {watch.spool.describe_lock()}"
            for number in list(watch.calls):
                self._fail(watch, number, words)

    def _compare(self, watch: Watch, number: int, state: TaskState | None) -> None:
        for call in watch.calls[number]:
            call.future.is_running = state is not None and state.state is State.RUNNING
        if state is not None and state.state in (State.WAITING, State.RUNNING):
            watch.missing_s.pop(number, None)
            return
        since_s = watch.missing_s.setdefault(number, monotonic())
        waited_s = monotonic() - since_s
        if state is None or state.state is State.UNKNOWN:
            if waited_s > max(FORGOTTEN_S, self._late_s(State.ENDED)):
                words = f"{self._scheduler.name} does not know it any more" if state is None else state.words
                self._fail(watch, number, words)
        elif state.state is State.LOST:
            if waited_s > max(FORGOTTEN_S, self._late_s(State.ENDED)):
                self._records.drop(watch.spool.submission, [watch.calls[number][0].key])
                self._look_elsewhere(watch, number, submits=True)
        elif "ependency" in state.words and any(not one.done() for call in watch.calls[number] for one in call.inputs):
            return  # it is to end with the error of the input
        elif state.state is State.NEVER:
            self._cancel(watch, [number // watch.chunk])
            self._fail(watch, number, state.words)
        elif waited_s > self._late_s(state.state):
            self._fail(watch, number, state.words or state.state.value)

    def _late_s(self, state: State) -> float:
        if not self._store.is_shared:
            return LATE_S
        return LATE_SHARED_S if state is State.ENDED else FAILED_SHARED_S

    def _fail(self, watch: Watch, number: int, words: str) -> None:
        """End the futures of a call that has ended without a result."""
        if watch.spool.end(number) is not None and "cannot be read" not in words:
            return  # it has come just now
        key, submission = watch.calls[number][0].key, watch.spool.submission
        claim = self._records.find(key)
        if claim is None or claim.submission != submission:
            self._look_elsewhere(watch, number, submits=False)
            return
        watch.failures[key] = words = claim.failure or words
        task = number // watch.chunk
        for call in watch.calls[number]:
            job = self._scheduler.task_id(watch.job or "", task)
            outcomes.fail_without_result(call, job, words, watch.spool.log_path(task), watch.spool.last_lines(task))
        self._forget(watch, number)

    def _look_elsewhere(self, watch: Watch, number: int, *, submits: bool) -> None:
        """Go on with a call whose submission was taken back, or has been dealt with by another script.

        Args:
            submits: Submit it again if no job computes it.
        """
        calls = watch.calls.pop(number)
        claim = self._records.find(calls[0].key)
        for call in calls:
            if outcomes.answer_from_cache(self._store, call):
                self._on_end(call)
            elif claim is not None and claim.submission != watch.spool.submission:
                self.follow(call, claim)
            elif submits:
                self._submit_again(Group([call], call.resources))
            else:
                error = JobError(call.function, job=watch.job or "", words="it was cancelled by another script")
                outcomes.fail(call, error)
                self._on_end(call)

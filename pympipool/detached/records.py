"""The records of a cache directory's jobs: which job computes which call. One file of SQLite, which only scripts write.

    submissions   a job, or an array of jobs, that some script has submitted
    calls         each call that is queued, runs, or has failed, by its key: so two scripts submit it once
    needs         which submission gets results of which other one: their files stay as long
    tasks         the tasks of the backend "local", which no scheduler keeps

Jobs neither read nor write it. While a process that was stopped holds its lock, nothing is noted (see `FileWait`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from time import time
from typing import Any, NamedTuple

from pympipool.caching.file_waits import FileLockedError
from pympipool.detached.records_file import RecordsFile, describe_damage

__all__ = ["Claim", "Records", "Submission", "open_records"]

_TABLES = """
CREATE TABLE IF NOT EXISTS submissions (
    id TEXT PRIMARY KEY, scheduler TEXT NOT NULL, host TEXT NOT NULL, function TEXT NOT NULL, created REAL NOT NULL,
    tasks INTEGER NOT NULL, chunk INTEGER NOT NULL, job TEXT, spec TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS calls (
    key BLOB PRIMARY KEY, submission TEXT NOT NULL, number INTEGER NOT NULL, arguments TEXT NOT NULL, failure TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_submission ON calls (submission);
CREATE TABLE IF NOT EXISTS needs (submission TEXT NOT NULL, needed TEXT NOT NULL, PRIMARY KEY (submission, needed));
CREATE TABLE IF NOT EXISTS tasks (
    submission TEXT NOT NULL, task INTEGER NOT NULL, state TEXT NOT NULL, words TEXT NOT NULL DEFAULT '', pid INTEGER,
    PRIMARY KEY (submission, task));
"""


class Submission(NamedTuple):
    """A job, or an array of jobs.

    Attributes:
        id: Its id, which is a part of the name of the job.
        scheduler: The name of the scheduler.
        host: The host of the script that has submitted it.
        function: The name of the function.
        created: When it was submitted (s since 1970).
        tasks: The number of tasks of the array.
        chunk: The number of calls of a task.
        job: The number that the scheduler has given it; None if that is not known.
        spec: What the scheduler "local" has to know, as JSON.
    """

    id: str
    scheduler: str
    host: str
    function: str
    created: float
    tasks: int
    chunk: int
    job: str | None
    spec: str


class Claim(NamedTuple):
    """Which job computes a call.

    Attributes:
        submission: The id of the submission.
        number: The number of the call in it.
        failure: Why it has failed, once some script has been told; None before.
        arguments: The arguments, as text.
    """

    submission: str
    number: int
    failure: str | None
    arguments: str


def open_records(folder: str, *, is_shared: bool) -> Records:
    """Return the records of the jobs of a cache directory.

    Args:
        folder: The folder of the submissions.
        is_shared: Other hosts may use it too.

    Raises:
        OSError: Another process has locked them, they are damaged, or they cannot be made.
        ValueError: Another version of pympipool has made them.
    """
    try:
        return Records(folder, is_shared=is_shared)
    except FileLockedError as locked:
        raise BlockingIOError(str(locked)) from locked
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot open the records of the jobs in {folder!r}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise OSError(describe_damage(folder, error)) from error


class Records(RecordsFile):
    """The records of the jobs of a cache directory. Any thread may use them.

    Args:
        folder: The folder of the submissions.
        is_shared: Other hosts may use it too.

    Raises: As of `RecordsFile`.
    """

    def __init__(self, folder: str, *, is_shared: bool) -> None:
        super().__init__(folder, is_shared=is_shared, tables=_TABLES)

    # ---- submissions ----

    def claim(
        self,
        submission: Submission,
        calls: Collection[tuple[bytes, str]],
        find_results: Callable[[Sequence[bytes]], Collection[bytes]],
    ) -> dict[bytes, Claim]:
        """Have a submission compute those calls that no job computes; all that is needed is decided in one step.

        Args:
            calls: Key and arguments (as text) of each.
            find_results: Returns which of some keys have results in the cache. It is asked about calls that no job computes: that
                of one may have ended a moment ago.

        Returns:
            Who computes each call, by key; without those that have results. The numbers of a new submission have no gaps.
        """
        claims: dict[bytes, Claim] = {}
        with self.transaction() as connection:
            rest = []
            for key, arguments in calls:
                found = connection.execute(
                    "SELECT submission, number, failure, arguments FROM calls WHERE key = ?", (key,)
                ).fetchone()
                if found is not None and found[2] is None:
                    claims[key] = Claim(*found)
                else:
                    rest.append((key, arguments))
            known = find_results([key for key, _ in rest])
            new = [
                (key, submission.id, number, arguments)
                for number, (key, arguments) in enumerate(one for one in rest if one[0] not in known)
            ]
            connection.executemany(
                "INSERT OR REPLACE INTO calls (key, submission, number, arguments) VALUES (?, ?, ?, ?)", new
            )
            claims.update((key, Claim(owner, number, None, arguments)) for key, owner, number, arguments in new)
            if new:
                tasks = -(-len(new) // submission.chunk)
                connection.execute(
                    "INSERT INTO submissions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", submission._replace(tasks=tasks)
                )
        return claims

    def note_needs(self, submission: str, needed: Iterable[str]) -> None:
        """Note of which other submissions one gets results."""
        with self.transaction() as connection:
            rows = [(submission, one) for one in set(needed) - {submission}]
            connection.executemany("INSERT OR IGNORE INTO needs VALUES (?, ?)", rows)

    def note_job(self, submission: str, job: str) -> None:
        """Note the number that the scheduler has given a submission."""
        with self.transaction() as connection:
            connection.execute("UPDATE submissions SET job = ? WHERE id = ?", (job, submission))

    def find(self, key: bytes) -> Claim | None:
        """Return which job computes a call."""
        found = self._all("SELECT submission, number, failure, arguments FROM calls WHERE key = ?", (key,))
        return Claim(*found[0]) if found else None

    def submission(self, submission: str) -> Submission | None:
        """Return a submission; None if it has ended, or was taken back."""
        found = self._all("SELECT * FROM submissions WHERE id = ?", (submission,))
        return Submission(*found[0]) if found else None

    def submissions(self) -> list[Submission]:
        """Return all submissions, the oldest first."""
        return [Submission(*row) for row in self._all("SELECT * FROM submissions ORDER BY created, id")]

    def calls_of(self, submission: str) -> dict[bytes, Claim]:
        """Return the calls of a submission that have not ended, or have failed, by key, in their order."""
        rows = self._all(
            "SELECT key, submission, number, failure, arguments FROM calls WHERE submission = ? ORDER BY number",
            (submission,),
        )
        return {key: Claim(*claim) for key, *claim in rows}

    def claims(self) -> list[tuple[str, bytes]]:
        """Return submission and key of all calls that have not ended."""
        return self._all("SELECT submission, key FROM calls WHERE failure IS NULL")

    def fail(self, submission: str, key: bytes, failure: str) -> None:
        """Note why a call has failed: some script is told now. The next one that needs it submits it again."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE calls SET failure = ? WHERE key = ? AND submission = ?", (failure, key, submission)
            )

    def drop(self, submission: str, keys: Iterable[bytes]) -> None:
        """Forget calls that have ended, or were taken back."""
        with self.transaction() as connection:
            connection.executemany(
                "DELETE FROM calls WHERE key = ? AND submission = ?", [(key, submission) for key in keys]
            )

    def take_finished(self, older_s: float) -> list[str]:
        """Forget the submissions that nothing needs any more; return their ids. Their folders are to be removed.

        Args:
            older_s: Failures of this age (s) are forgotten, too.
        """
        taken: list[str] = []
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM calls WHERE failure IS NOT NULL AND submission IN (SELECT id FROM submissions WHERE created < ?)",
                (max(time() - older_s, 0.0),),
            )
            while True:
                found = connection.execute(
                    "SELECT id FROM submissions WHERE job IS NOT NULL AND id NOT IN (SELECT submission FROM calls)"
                    " AND id NOT IN (SELECT needed FROM needs)"
                ).fetchall()
                if not found:
                    return taken
                for (submission,) in found:
                    self._forget(connection, submission)
                    taken.append(submission)

    def abandon(self, submission: str) -> None:
        """Forget a submission and its calls: its script was killed before it was submitted."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM calls WHERE submission = ?", (submission,))
            self._forget(connection, submission)

    @staticmethod
    def _forget(connection: sqlite3.Connection, submission: str) -> None:
        connection.execute("DELETE FROM submissions WHERE id = ?", (submission,))
        connection.execute("DELETE FROM tasks WHERE submission = ?", (submission,))
        connection.execute("DELETE FROM needs WHERE submission = ?", (submission,))

    # ---- tasks of the backend "local" ----

    def queue_tasks(self, submission: str, tasks: int, spec: dict[str, Any]) -> None:
        """Queue the tasks of a submission, and note its job, in one step."""
        with self.transaction() as connection:
            connection.execute("UPDATE submissions SET job = id, spec = ? WHERE id = ?", (json.dumps(spec), submission))
            rows = [(submission, task) for task in range(tasks)]
            connection.executemany("INSERT INTO tasks (submission, task, state) VALUES (?, ?, 'WAITING')", rows)

    def tasks(self, *states: str) -> list[tuple[str, int, str, str, int | None]]:
        """Return submission, number, state, words and process id of all tasks, or of those in some states, in their order."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        return self._all(
            "SELECT tasks.submission, task, state, words, pid FROM tasks JOIN submissions ON submissions.id = tasks.submission"
            f" {where} ORDER BY created, tasks.submission, task",
            states,
        )

    def change_task(
        self, submission: str, task: int, state: str, words: str = "", pid: int | None = None, *, before: str = ""
    ) -> bool:
        """Change the state of a task; return False if it is gone, or has another state than `before`."""
        with self.transaction() as connection:
            changed = connection.execute(
                "UPDATE tasks SET state = ?, words = ?, pid = ? WHERE submission = ? AND task = ? AND ? IN ('', state)",
                (state, words, pid, submission, task, before),
            )
            return changed.rowcount > 0

    def cancel_tasks(self, submission: str, tasks: Iterable[int] | None) -> None:
        """Cancel tasks that have not ended, or all of them: those that wait at once, the supervisor is to end the others."""
        statement = (
            "UPDATE tasks SET state = CASE state WHEN 'WAITING' THEN 'CANCELLED' ELSE 'CANCEL' END, words = 'CANCELLED'"
            " WHERE submission = ? AND task = coalesce(?, task) AND state IN ('WAITING', 'RUNNING')"
        )
        with self.transaction() as connection:
            connection.executemany(statement, [(submission, task) for task in ([None] if tasks is None else tasks)])

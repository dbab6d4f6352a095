"""The folder of a submission: what its jobs read, and what they leave behind.

    job.json         what all jobs of the submission have in common
    lock             locked by the script, and by the program that submits, until the job is known
    calls/N          call number N: its inputs and its pickle; written by the script
    results/N        its result, or its exception; written by the job
    values/N         a result with classes of the script, for calls that get it: these have no script
    ends/N           written last by the job: how the call has ended
    logs/T.log       what task number T of the job has printed
    id               the number that the scheduler has given the job
    instance         with flux, the host and the URI of the broker to which the jobs were submitted

Everything is written under another name and renamed, so nothing is ever read half-written. Scripts and jobs share only these
files, which may be on a network file system; no job opens the index of the cache for writing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import time
from typing import Any, NamedTuple

from pympipool._util.file_locks import describe_holder
from pympipool.caching.files import ResultFiles
from pympipool.caching.handover import UNFINISHED

__all__ = ["ID_BYTES", "End", "Spool", "unknown_spools"]

ID_BYTES = 8
"""Random bytes of the id of a submission, which is written in hexadecimal digits."""

UNKNOWN_S = 60.0
"""Age (s) of a folder without a lock that may be removed if it is not noted: a younger one may have just been made."""


class End(NamedTuple):
    """How a call has ended.

    Attributes:
        is_error: It has raised an exception.
        size_bytes: The size of the file of its result, or of its exception.
        run_ns: How long it has run (ns).
        is_raised: The function itself has raised the exception.
    """

    is_error: bool
    size_bytes: int
    run_ns: int
    is_raised: bool = False


class Spool:
    """The folder of a submission.

    Args:
        root: The folder of all submissions of a cache directory.
        submission: The id of the submission.
    """

    def __init__(self, root: str, submission: str) -> None:
        self.submission = submission
        self.path = os.path.join(root, submission)
        self._calls = ResultFiles(os.path.join(self.path, "calls"), maps=False)
        self._results = ResultFiles(os.path.join(self.path, "results"), maps=False)
        self._values = ResultFiles(os.path.join(self.path, "values"), maps=False)

    # ---- for scripts ----

    def create(self) -> int:
        """Make the folder; return the descriptor of its lock, which is locked until all processes have closed it."""
        for folder in (self.path, *(os.path.join(self.path, name) for name in ("ends", "logs"))):
            os.mkdir(folder, 0o700)
        descriptor = self.try_lock()
        assert descriptor is not None, "no other process knows the folder"
        return descriptor

    def try_lock(self) -> int | None:
        """Return the descriptor of the lock; None if another process submits.

        Raises:
            FileNotFoundError: The folder was removed.
        """
        path = os.path.join(self.path, "lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def last_change(self) -> tuple[int, ...]:
        """Return what is another value after each step of the script that submits."""
        changes = []
        for name in ("", "calls", os.path.join("calls", UNFINISHED)):
            with suppress(OSError):
                changes.append(os.stat(os.path.join(self.path, name)).st_mtime_ns)
        return tuple(changes)

    def describe_lock(self) -> str:
        """Return which process submits, and what to do if it does not go on."""
        path = os.path.join(self.path, "lock")
        return describe_holder(path) or f"a process that cannot be seen from here: lsof {path} shows it on its host"

    def write_common(self, common: dict[str, Any]) -> None:
        """Write what all jobs of the submission have in common."""
        self._write("job.json", json.dumps(common))

    def write_instance(self, host: str, uri: str) -> None:
        """Write to which broker of flux the jobs are submitted.

        Raises:
            FileNotFoundError: The submission was taken back.
        """
        self._write("instance", json.dumps([host, uri]))

    def read_instance(self) -> tuple[str, str]:
        """Return the host and the URI of the broker of flux; empty ones if they are not known."""
        with suppress(OSError, ValueError):
            host, uri = json.loads(self._read("instance"))
            return host, uri
        return "", ""

    def write_call(self, number: int, inputs: dict[str, Any], parts: Sequence[Any]) -> None:
        """Write a call.

        Args:
            inputs: Where the results are that it gets: by key, a submission and the number of a call.
            parts: Its pickle.
        """
        self._calls.write(_name(number), [json.dumps(inputs).encode(), *parts])

    def ended(self) -> set[int]:
        """Return the numbers of the calls that have ended."""
        with suppress(OSError):
            return {int(name) for name in os.listdir(os.path.join(self.path, "ends")) if name.isdigit()}
        return set()

    def read_result(self, number: int, end: End) -> list[Any]:
        """Return the parts of a result, or of an exception.

        Raises:
            OSError, ValueError: The file is not there, or is not what was written.
        """
        return self._results.read(_name(number), end.size_bytes, in_full=True)

    def result_path(self, number: int) -> str:
        """Return the file of a result."""
        return self._results.path(_name(number))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    # ---- for jobs ----

    def read_common(self) -> dict[str, Any]:
        """Return what all jobs of the submission have in common.

        Raises:
            FileNotFoundError: The submission was taken back.
        """
        common: dict[str, Any] = json.loads(self._read("job.json"))
        return common

    def read_call(self, number: int) -> tuple[dict[str, Any], list[Any]]:
        """Return where the inputs of a call are, and its pickle."""
        path = self._calls.path(_name(number))
        inputs, *parts = self._calls.read(_name(number), os.stat(path).st_size, in_full=True)
        return json.loads(bytes(inputs)), [bytearray(part) for part in parts]

    def write_end(
        self, number: int, parts: Sequence[Any], *, is_error: bool, run_ns: int, is_raised: bool = False
    ) -> None:
        """Write how a call has ended.

        Args:
            parts: Those of its result, or of its exception.
            is_error, run_ns, is_raised: As of `End`.

        Raises:
            OSError: There is no room, for example.
        """
        size = self._results.write(_name(number), parts)
        self._write(os.path.join("ends", str(number)), json.dumps([is_error, size, run_ns, is_raised]))

    def write_value(self, number: int, parts: Sequence[Any]) -> None:
        """Write a result with classes of the script for other calls; before `write_end`."""
        self._values.write(_name(number), parts)

    def read_value(self, number: int) -> list[Any] | None:
        """Return the parts of a result for another call; None if there is none, or not yet."""
        end = self.end(number)
        if end is None or end.is_error:
            return None
        path = self._values.path(_name(number))
        try:
            if os.path.exists(path):
                return self._values.read(_name(number), os.stat(path).st_size)
            return self.read_result(number, end)
        except (OSError, ValueError):  # it has become a result of the cache
            return None

    # ---- for both ----

    def end(self, number: int) -> End | None:
        """Return how a call has ended; None if that is not known yet."""
        try:
            return End(*json.loads(self._read(os.path.join("ends", str(number)))))
        except (OSError, ValueError, TypeError):
            return None

    def log_path(self, task: int) -> str:
        """Return the file to which a task prints."""
        return os.path.join(self.path, "logs", f"{task}.log")

    def last_lines(self, task: int, count: int = 10) -> list[str]:
        """Return the last lines of what a task has printed."""
        with suppress(OSError), open(self.log_path(task), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 8192, 0))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
        return []

    def write_id(self, job: str) -> None:
        """Write the number of the job: it knows that before the script does."""
        self._write("id", job)

    def read_id(self) -> str:
        """Return the number of the job; "" if it has not started."""
        with suppress(OSError):
            return self._read("id").strip()
        return ""

    def has_begun(self) -> bool:
        """Return True if a task of it has begun."""
        with suppress(OSError):
            return bool(self.read_id() or self.ended() or os.listdir(os.path.join(self.path, "logs")))
        return True

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.path, name)
        temporary = f"{path}.{os.uname().nodename}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(temporary, path)

    def _read(self, name: str) -> str:
        with open(os.path.join(self.path, name), encoding="utf-8") as file:
            return file.read()


def _name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def unknown_spools(root: str, is_known: Callable[[str], bool]) -> Iterator[Spool]:
    """Yield the folders of submissions that are not noted, and that no script is making.

    Args:
        root: The folder of all submissions.
        is_known: Tells if a submission is noted. It is asked while no script can note it.
    """
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if len(entry.name) != 2 * ID_BYTES or not entry.is_dir(follow_symlinks=False) or is_known(entry.name):
                continue
            if entry.stat().st_mtime > time() - UNKNOWN_S:
                continue
            spool = Spool(root, entry.name)
            if spool.has_begun():  # the records were removed: its job may run, and nobody has fetched its results
                continue
            lock = spool.try_lock()
            if lock is not None:
                try:
                    if not is_known(entry.name):
                        yield spool
                finally:
                    os.close(lock)

"""Scripts that run as a user's would: in a process of their own, with pympipool on their path and nothing of the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

import pympipool
from support.processes import ENDED_S, MARK, marked_processes, new_mark, still_alive


def script_environment(mark: str, **variables: str) -> dict[str, str]:
    """The environment of a script: pympipool can be imported, the tests' own modules cannot."""
    source = str(Path(pympipool.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, MARK: mark, **variables}


def _as_in_a_terminal(*, group: bool) -> None:
    """In the process to be: without the signals that a shell has its background, and nohup its command, ignore."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if group:
        os.setpgrp()


class Script:
    """A Python program that runs as a user's would. Ended, with all that it started, at the end of a `with` block.

    Args:
        source: what is in the file.
        folder: where the file is put.
        cwd: where it runs; default: folder.
        command: arguments of the interpreter; default: the name of the file.
        variables: set in its environment.
        group: whether it leads a process group of its own, as programs in a terminal do.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        *,
        cwd: Path | None = None,
        command: list[str] | None = None,
        variables: dict[str, str] | None = None,
        group: bool = False,
    ) -> None:
        self.mark = new_mark()
        self.path = folder / "script.py"
        self.path.write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, *(command or [str(self.path)])],
            cwd=cwd or folder,
            env=script_environment(self.mark, **(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(_as_in_a_terminal, group=group),
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        for process in marked_processes(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.communicate()

    def wait_for_line(self, text: str) -> str:
        """Reads what the script prints up to the line that begins with text; that line's rest."""
        for line in self.process.stdout:
            if line.startswith(text):
                return line[len(text) :].strip()
        raise AssertionError(f"the script ended without printing {text!r}:\n{self.process.stderr.read()}")

    def wait_until_asleep(self) -> None:
        """Waits until the main thread waits for something; for after `wait_for_line`."""
        process = psutil.Process(self.process.pid)
        while process.status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)  # there is no other way to learn of it

    def end(self, timeout_s: float = 150) -> tuple[int, str, str]:
        """Waits for the end; exit code, and what it printed to stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stdout, stderr

    def survivors(self, timeout_s: float = ENDED_S) -> list[str]:
        """The processes of the script that do not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)  # our child: as a zombie that nobody has taken away it would look alive
        return still_alive(marked_processes(self.mark), timeout_s)


def run_script(source: str, folder: Path, **parameters: object) -> str:
    """Runs a script to its end, which must be without error and leave no process; what it printed."""
    with Script(source, folder, **parameters) as script:
        code, stdout, stderr = script.end()
        assert code == 0, f"exit code {code}\n{stdout}\n{stderr}"
        assert script.survivors() == []
    return stdout

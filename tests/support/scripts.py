"""Scripts that run as a user's: in a process of their own, with pympipool but without the tests on their path."""

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
from support.hang_report import report
from support.processes import ENDED_S, MARK, marked_processes, new_mark, still_alive


def script_environment(mark: str, **variables: str) -> dict[str, str]:
    """Return the environment of a script: it can import pympipool, but not the modules of the tests."""
    source = str(Path(pympipool.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, MARK: mark, **variables}


def _as_in_a_terminal(*, group: bool) -> None:
    """Handle signals in a new process as in a terminal: shells and nohup make background processes ignore some."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if group:
        os.setpgrp()


def communicate(process: subprocess.Popen[str], timeout_s: float) -> tuple[str, str]:
    """Wait for the end of a process and return its output. If it hangs, kill it and tell where it was."""
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        stacks = report(process.pid)
        # The first signal makes faulthandler show the stacks, if it is enabled there, on machines without gdb.
        for number in (signal.SIGABRT, signal.SIGKILL):
            process.send_signal(number)
            try:
                outputs = process.communicate(timeout=10)
                break
            except subprocess.TimeoutExpired:  # or a child of the process has its output open
                outputs = ("", "")
        text = "\n".join(filter(None, outputs))
        raise AssertionError(f"the program did not end within {timeout_s:g} s:\n{stacks}\n{text}") from None


def run_program(command: list[str], *, timeout_s: float, **parameters: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does, with its output as text. If it hangs, tell where."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **{**pipes, **parameters}) as process:
        stdout, stderr = communicate(process, timeout_s)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class Script:
    """A Python program that runs as a user's. The end of the `with` block kills it and all that it has started.

    Args:
        source: content of the file.
        folder: folder of the file.
        cwd: working directory; default: folder.
        command: arguments of the interpreter; default: the name of the file.
        variables: added to its environment.
        group: True to start it in a process group of its own, as a terminal does.
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
        """Read the output up to a line that begins with text, and return the rest of that line."""
        for line in self.process.stdout:
            if line.startswith(text):
                return line[len(text) :].strip()
        raise AssertionError(f"the script ended without printing {text!r}:\n{self.process.stderr.read()}")

    def wait_until_asleep(self) -> None:
        """Wait until the main thread sleeps. To be called after `wait_for_line`."""
        process = psutil.Process(self.process.pid)
        while process.status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)  # there is no other way to learn of it

    def end(self, timeout_s: float = 150) -> tuple[int, str, str]:
        """Wait for the end, and return exit code, stdout and stderr."""
        stdout, stderr = communicate(self.process, timeout_s)
        return self.process.returncode, stdout, stderr

    def survivors(self, timeout_s: float = ENDED_S) -> list[str]:
        """Return descriptions of the processes of the script that do not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)  # reaps our child, which would look alive as a zombie
        return still_alive(marked_processes(self.mark), timeout_s)


def run_script(source: str, folder: Path, **parameters: object) -> str:
    """Run a script to its end and return its output. It must not fail and must leave no process behind."""
    with Script(source, folder, **parameters) as script:
        code, stdout, stderr = script.end()
        assert code == 0, f"exit code {code}\n{stdout}\n{stderr}"
        assert script.survivors() == []
    return stdout

"""A process beside pytest that reports where a test hangs, and in the end kills pytest if nothing else ends the test.

    pytest                                        watch (an orphan, so that no test sees it as a child)
    begin(test, limit)   -- ["begin", ...] -->    waits
                                                  shortly before the limit: writes a report into a file
    report()             <-- reads the file
    end()                -- ["end"] -->           waits for the next test
                                                  long after the limit: prints a report, kills pytest

pytest-timeout ends a test by an exception in the main thread. That does not work while the main thread runs C code
that looks for no signals, and the end of fixtures has no limit.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

EARLIER_S = 10.0
"""Seconds from the report to the limit of the test; a tenth of the limit at most."""

KILL_S = 300.0
"""Seconds from the limit of the test to the end of pytest. Fixtures wait up to a minute for each kind of leftover."""

REPORT_S = 120.0
"""Seconds that a report may take."""


class HangWatch:
    """The watch, as pytest sees it.

    Args:
        folder: Folder for the reports.
        stderr: Descriptor to which the last words before the end of pytest are written.
    """

    def __init__(self, folder: Path, stderr: int) -> None:
        self._report = folder / f"hang-{os.getpid()}.txt"
        read_end, self._commands = os.pipe()
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(self._report)]
        subprocess.run(command, stdin=read_end, stdout=stderr, stderr=stderr, check=True)
        os.close(read_end)
        self._due_s: float | None = None
        self._is_reported = False

    def begin(self, test: str, limit_s: float) -> None:
        """A test begins."""
        report_s = limit_s - min(EARLIER_S, limit_s / 10)
        self._due_s, self._is_reported = time.monotonic() + report_s, False
        self._send("begin", test, report_s, limit_s + KILL_S)

    def end(self) -> None:
        """The test has ended, its fixtures included."""
        if self._due_s is not None:
            self._due_s = None
            self._send("end")

    def report(self) -> str | None:
        """Return the report of the present test; None if the test had time left, or its report was returned before."""
        if self._due_s is None or time.monotonic() < self._due_s or self._is_reported:
            return None
        self._is_reported = True
        deadline_s = time.monotonic() + REPORT_S
        while not self._report.exists() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        try:
            text = self._report.read_text()
            self._report.unlink()
        except OSError:
            return "the report took too long"
        return text

    def close(self) -> None:
        """End the watch."""
        os.close(self._commands)

    def _send(self, *command: object) -> None:
        try:
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        except BrokenPipeError:  # the watch was killed
            pass


def watch(pid: int, report_file: Path) -> None:
    """Watch the process until it ends or closes the pipe."""
    from hang_report import report

    master = os.pidfd_open(pid)
    test, report_at_s, kill_at_s = "", float("inf"), float("inf")
    unread = b""
    while True:
        wake_s = min(report_at_s, kill_at_s) - time.monotonic()
        ready, _, _ = select.select([0, master], [], [], None if wake_s == float("inf") else max(wake_s, 0))
        if master in ready:
            return
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            if lines:
                report_file.unlink(missing_ok=True)
                report_at_s = kill_at_s = float("inf")
                command, *arguments = json.loads(lines[-1])
                if command == "begin":
                    test, report_s, kill_s = arguments
                    report_at_s, kill_at_s = time.monotonic() + report_s, time.monotonic() + kill_s
        elif time.monotonic() >= kill_at_s:
            print(f"\n{test} does not end, pytest is killed\n{report(pid)}", flush=True)
            signal.pidfd_send_signal(master, signal.SIGABRT)  # faulthandler prints stacks once more
            if not select.select([master], [], [], 20)[0]:
                signal.pidfd_send_signal(master, signal.SIGKILL)
            return
        elif time.monotonic() >= report_at_s:
            report_at_s = float("inf")
            unfinished = report_file.with_suffix(".new")
            unfinished.write_text(report(pid))
            unfinished.rename(report_file)


if __name__ == "__main__":
    if os.fork() == 0:  # the child is nobody's child as soon as this process has ended
        os.setsid()
        sys.path.insert(0, str(Path(__file__).parent))
        watch(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)

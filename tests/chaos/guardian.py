"""Runs the master in a process of its own with limits, deals out blows, watches, and judges.

plan(seed) ── blows ──> Striker ── signals, limits ──> master and its processes
                                  stdout, report ────> guardian ── verdict
board: progress of the master's threads, shortages
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.blows import Striker, end_all
from chaos.board import THREADS, Board
from chaos.plan import ROLES, WEIGHTS, plan
from chaos.processes import family
from chaos.record import Record
from chaos.tally import CALL_S
from support.hang_report import STACKS_S
from support.hang_report import report as hang_report
from support.leftover_files import forgotten_files, shared_memory_files
from support.processes import MARK, marked_processes, new_mark, still_alive

HANG_S = CALL_S + 30.0
"""Seconds without progress after which a thread of the master counts as hanging. No single step takes longer."""

START_S = 60.0
END_S = HANG_S + 30.0
"""Limits of the master's start, and of its end after the last blow."""

LONGEST_BESIDE_S = START_S + END_S + STACKS_S + 60.0
"""Seconds that a run may take beside those of its blows, with a report of a hang and the search for leftovers."""

LIMITS = {
    resource.RLIMIT_AS: 6 << 30,
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NPROC: 2000,
}
"""Limits of the master and of all that it starts."""

MOST_MEMORY_MB = 2500.0
MOST_PROCESSES = 80
"""The master is killed beyond these. RLIMIT_NPROC does not hold for root."""

TICK_S = 0.02
PROGRESS_BAR = re.compile(r"\r?\d+ of \d+\s?")
"""What `calls.talk` writes to stderr."""

MOST_COMPLAINTS = 30


@dataclass
class Options:
    """What the command line chooses."""

    seconds: float = 30.0
    seed: int = 0
    pause_s: float = 0.3
    call_pause_s: float = 0.0
    mpi: bool = True
    over_tcp: bool = False
    nasty: bool = True
    kinds: list[str] = field(default_factory=lambda: list(WEIGHTS))
    threads: list[str] = field(default_factory=lambda: list(THREADS))


@dataclass
class Verdict:
    """The outcome of a run. `complaints` has one of each kind, `all_complaints` counts all that the master has made."""

    counts: Counter[str]
    dealt: Counter[str]
    complaints: list[str]
    all_complaints: int
    record: Record
    seconds: float
    stderr: str


class Guardian:
    """The watch over one run."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.mark = new_mark()
        self.complaints: list[str] = []
        self.kinds_of_complaints: Counter[str] = Counter()
        self.tallies: dict[str, dict[str, int]] = {}
        self.stdout_bytes = 0
        self.board = Board.create()
        self._unread = b""
        self._has_killed = False

    def run(self) -> Verdict:
        """Run the test."""
        options = self.options
        files_before = shared_memory_files()
        reader, writer = os.pipe()
        start_s = time.monotonic()
        threads = [name for name in options.threads if name != "mpi" or options.mpi]
        settings = {
            "seed": options.seed,
            "seconds": options.seconds,
            "mpi": options.mpi,
            "over_tcp": options.over_tcp,
            "nasty": options.nasty,
            "threads": threads,
            "pause_s": options.call_pause_s,
            "report": writer,
            "board": self.board.descriptor,
        }
        with open(self.folder / "stderr", "wb") as stderr:
            self.master = subprocess.Popen(
                [sys.executable, "-m", "chaos.master", json.dumps(settings)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=(writer, self.board.descriptor),
                start_new_session=True,
                preexec_fn=set_limits,
            )
        os.close(writer)
        self.record = Record(self.master.pid)
        self.striker = Striker(self.mark, self.master.pid, self.board, LIMITS)
        try:
            if self._wait_for_begin(reader):
                self._deal_out(self.board.begin_s, reader)
            self._wait_for_end(reader)
        finally:
            self.striker.undo_all()
            self._end(reader)
        self._judge_leftovers(files_before)
        self._judge_counts()
        stderr_text = PROGRESS_BAR.sub("", (self.folder / "stderr").read_text(errors="replace"))
        return Verdict(
            self._counts(),
            self.striker.dealt,
            self.complaints,
            self.kinds_of_complaints.total(),
            self.record,
            round(time.monotonic() - start_s, 1),
            stderr_text,
        )

    def _environment(self) -> dict[str, str]:
        tests = Path(__file__).parents[1]
        paths = os.pathsep.join([str(tests.parent), str(tests)])
        temporary = self.folder / "tmp"
        temporary.mkdir()
        single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **single, "PYTHONPATH": paths, MARK: self.mark, "TMPDIR": str(temporary)}

    # ---- the run ----

    def _wait_for_begin(self, reader: int) -> bool:
        """Wait until the master is ready for blows; return False if it ends before."""
        deadline_s = time.monotonic() + START_S
        while not self.board.begin_s:
            if time.monotonic() > deadline_s:
                self._hangs(f"the master is not ready after {START_S:g} s")
            if not self._tick(reader):
                return False
        return True

    def _deal_out(self, begin_s: float, reader: int) -> None:
        """Deal out all blows."""
        roles = [role for role in ROLES if (self.options.over_tcp or role != "relay") and self._has(role)]
        blows = plan(self.options.seed, self.options.seconds, self.options.pause_s, self.options.kinds, roles)
        for blow in blows:
            while time.monotonic() < begin_s + blow.at_s:
                if not self._tick(reader):
                    return
            self.striker.strike(blow)
        while time.monotonic() < begin_s + self.options.seconds:
            if not self._tick(reader):
                return

    def _has(self, role: str) -> bool:
        """Return True if there are processes of this role in this mode."""
        of_mpi = role in ("rank", "mpiexec", "proxy")
        return not of_mpi or (self.options.mpi and not {"mpi", "driver"}.isdisjoint(self.options.threads))

    def _wait_for_end(self, reader: int) -> None:
        """The blows are over: the master must finish all calls and end."""
        self.striker.undo_all()
        deadline_s = time.monotonic() + END_S
        while self.master.poll() is None and self._tick(reader):
            if time.monotonic() > deadline_s:
                self._hangs(f"the master does not end within {END_S:g} s")

    def _tick(self, reader: int) -> bool:
        """Read what the master says, look whether it hangs, and return False when it has ended or was killed."""
        self.striker.undo_what_is_due()
        sources = [reader] if self.striker.stalls else [reader, self.master.stdout]
        ready, _, _ = select.select(sources, [], [], TICK_S)
        if self.master.stdout in ready:
            self.stdout_bytes += len(os.read(self.master.stdout.fileno(), 1 << 20))
        if reader in ready:
            self._read_report(reader)
        if self.record.is_due():
            sample = self.record.take(len(family(self.mark, self.master.pid)))
            if sample is not None and (sample.resident_mb > MOST_MEMORY_MB or sample.processes > MOST_PROCESSES):
                self.complaints.append(f"GROWN: beyond all limits: {sample}")
                self._kill()
        thread, pause_s = self.board.longest_pause()
        if pause_s > HANG_S and not self.striker.suspended:
            self._hangs(f"the thread {thread} makes no progress for {pause_s:.0f} s")
        return self.master.poll() is None

    def _read_report(self, reader: int) -> None:
        data = os.read(reader, 1 << 16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "tally" in message:
                self.tallies[message["thread"]] = message["tally"]
            elif "hang" in message:
                self._hangs(f"{message['thread']}: {message['hang']}")
            else:
                self._complain(f"{message['thread']}: {message['complaint']}")
        if not data:
            time.sleep(TICK_S)

    def _complain(self, text: str) -> None:
        """Note a complaint, unless there was one that differs in numbers only."""
        kind = re.sub(r"\d+", "", text)[:200]
        self.kinds_of_complaints[kind] += 1
        if self.kinds_of_complaints[kind] == 1 and len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(text)

    def _hangs(self, text: str) -> None:
        """Collect the stacks, and end the master."""
        if self.master.poll() is None:
            self.complaints.append(f"HANG: {text}\n{hang_report(self.master.pid)}")
            self._kill()

    def _kill(self) -> None:
        self._has_killed = True
        self.master.kill()
        self.master.wait()

    # ---- the judgement ----

    def _end(self, reader: int) -> None:
        if self.master.poll() is None:
            self._kill()
        self._read_report(reader)
        os.close(reader)
        self.master.stdout.close()
        if self.master.returncode != 0 and not self._has_killed:
            self._complain(f"the master ended with exit code {self.master.returncode}")

    def _judge_leftovers(self, files_before: set[Path]) -> None:
        left = still_alive(marked_processes(self.mark), 20.0)
        self.complaints += [f"LEFT: process {text}" for text in left]
        end_all(self.mark, self.master.pid)
        self.complaints += [f"LEFT: {path}" for path in forgotten_files(shared_memory_files, files_before, 10.0)]
        # Killed proxies of MPICH leave files that do not say which job they belong to.
        files = [path.name for path in (self.folder / "tmp").iterdir() if not path.name.startswith("hydra_hwloc_")]
        self.complaints += [f"LEFT: {name} in the folder for temporary files" for name in files]
        self.complaints += self.record.growth()

    def _counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for counts in self.tallies.values():
            total.update(counts)
        return total

    def _judge_counts(self) -> None:
        """Compare the number of failed calls with that of blows."""
        counts, dealt = self._counts(), self.striker.dealt
        kills = sum(number for blow, number in dealt.items() if blow.startswith(("kill", "stop")))
        relays = sum(number for blow, number in dealt.items() if blow.endswith("relay") and "missed" not in blow)
        # A dead worker fails the calls that depend on its call, here two, and a relay takes prefetched calls with it.
        if counts["worker died"] > 3 * kills + 60 * relays + 5:
            self.complaints.append(f"TOO MANY: {counts['worker died']} calls lost their worker, at {kills} kills")
        if counts["worker died at start"] > kills + 5:
            self.complaints.append(f"TOO MANY: {counts['worker died at start']} calls got no worker, at {kills} kills")


def set_limits() -> None:
    """Set the limits, in the new process, and ignore Ctrl-C until the script handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for limit, value in LIMITS.items():
        _, hard = resource.getrlimit(limit)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))


def chaos(options: Options) -> Verdict:
    """Run the test, and return its outcome. Only files of this run count as left behind."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        return Guardian(options, Path(folder)).run()

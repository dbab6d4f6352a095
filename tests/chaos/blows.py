"""Deals out blows to a run, from outside, and undoes those that last."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil

from chaos.board import GUARDIAN, Board
from chaos.plan import Blow
from chaos.processes import MASTER, family

YOUNG_S = {"rank": 3.0, "mpiexec": 3.0, "proxy": 3.0}
"""Age in seconds below which a process is spared by most blows: it may be starting. MPI takes a second on a busy machine."""

YOUNG_OTHERS_S = 0.7

LARGEST_ROOM_BYTES = 64 << 20
"""Maximum room that a shortage of memory leaves to the master."""

MOST_DESCRIPTORS_LEFT = 6


INSTEAD = {"worker": "forked worker", "forked worker": "worker", "proxy": "mpiexec", "mpiexec": "proxy"}
"""Roles of the processes that are hit if there is none of the role that was planned."""


class Striker:
    """Deals out blows.

    Args:
        mark: Of the processes of the run.
        master: Process id of the program under test.
        board: Gets the shortages.
        limits: The limits that the master has otherwise, by the number of the resource.

    Attributes:
        dealt: Number of blows by kind and role; "missed: ..." if there was no process to hit.
        stalls: True while nobody is to read the master's stdout.
        suspended: True while the master is stopped.
    """

    def __init__(self, mark: str, master: int, board: Board, limits: dict[int, int]) -> None:
        self.mark = mark
        self.master = psutil.Process(master)
        self.board = board
        self.limits = limits
        self.dealt: Counter[str] = Counter()
        self.stalls = False
        self.suspended = False
        self._short: set[int] = set()
        self._later: list[tuple[float, Callable[[], None]]] = []

    def strike(self, blow: Blow) -> None:
        """Deal out a blow."""
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            STRIKERS[blow.kind](self, blow)

    def undo_what_is_due(self) -> None:
        """Undo the blows that have lasted long enough."""
        now_s = time.monotonic()
        due = [undo for at_s, undo in self._later if at_s <= now_s]
        self._later = [(at_s, undo) for at_s, undo in self._later if at_s > now_s]
        for undo in due:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                undo()

    def undo_all(self) -> None:
        """Undo all blows now."""
        self._later = [(0.0, undo) for _, undo in self._later]
        self.undo_what_is_due()

    def _after(self, seconds: float, undo: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, undo))

    # ---- kinds of blows ----

    def _kill_or_stop(self, blow: Blow) -> None:
        age_s = YOUNG_S.get(blow.role, YOUNG_OTHERS_S) if blow.spares_young else 0.0
        found = family(self.mark, self.master.pid).items()
        for role in (blow.role, INSTEAD.get(blow.role)):
            processes = [process for process, its_role in found if its_role == role]
            targets = sorted((p for p in processes if p.create_time() <= time.time() - age_s), key=lambda p: p.pid)
            if targets:
                break
        else:
            self.dealt[f"missed: {blow.kind} {blow.role}"] += 1
            return
        target = targets[int(blow.choice * len(targets))]
        self.dealt[f"{blow.kind} {role}"] += 1
        if blow.kind == "kill":
            target.send_signal(signal.SIGKILL)
        else:
            target.send_signal(signal.SIGSTOP)
            self._after(blow.lasts_s, lambda: target.send_signal(signal.SIGCONT))

    def _interrupt(self, blow: Blow) -> None:
        self.dealt[blow.kind] += 1
        self.master.send_signal(signal.SIGINT)
        if blow.kind == "interrupt twice":
            self._after(blow.lasts_s, lambda: self.master.send_signal(signal.SIGINT))

    def _suspend(self, blow: Blow) -> None:
        if self.suspended:
            return
        self.dealt[blow.kind] += 1
        self.suspended = True
        self.master.send_signal(signal.SIGSTOP)
        self._after(blow.lasts_s, self._continue)

    def _continue(self) -> None:
        self.master.send_signal(signal.SIGCONT)
        self.suspended = False
        self.board.forgive_pauses()

    def _few_descriptors(self, blow: Blow) -> None:
        left = int(blow.choice * MOST_DESCRIPTORS_LEFT)
        self._shorten(blow, resource.RLIMIT_NOFILE, self.master.num_fds() + left)

    def _little_memory(self, blow: Blow) -> None:
        room = int(blow.choice * LARGEST_ROOM_BYTES)
        self._shorten(blow, resource.RLIMIT_AS, self.master.memory_info().vms + room)

    def _shorten(self, blow: Blow, limit: int, value: int) -> None:
        if limit in self._short:
            return
        self.dealt[blow.kind] += 1
        self._short.add(limit)
        self.board.begin_shortage(GUARDIAN)
        resource.prlimit(self.master.pid, limit, (min(value, self.limits[limit]), self.limits[limit]))
        self._after(blow.lasts_s, lambda: self._enlarge(limit))

    def _enlarge(self, limit: int) -> None:
        """Give the limit back, also to the processes that were started meanwhile and have inherited it."""
        self._short.discard(limit)
        full = (self.limits[limit], self.limits[limit])
        are_short = True
        while are_short:  # again if there were any: they may have started others since they were listed
            are_short = False
            for process in [self.master, *family(self.mark, self.master.pid)]:
                with contextlib.suppress(OSError):
                    are_short |= resource.prlimit(process.pid, limit, full) != full
        if not self._short:
            self.board.end_shortage(GUARDIAN)

    def _stall(self, blow: Blow) -> None:
        if not self.stalls:
            self.dealt[blow.kind] += 1
            self.stalls = True
            self._after(blow.lasts_s, self._read_again)

    def _read_again(self) -> None:
        self.stalls = False


STRIKERS = {
    "kill": Striker._kill_or_stop,
    "stop": Striker._kill_or_stop,
    "interrupt": Striker._interrupt,
    "interrupt twice": Striker._interrupt,
    "suspend script": Striker._suspend,
    "few descriptors": Striker._few_descriptors,
    "little memory": Striker._little_memory,
    "reader stalls": Striker._stall,
}
"""The methods by the kinds of blows."""


def end_all(mark: str, master: int) -> list[str]:
    """Kill all processes of the run, and return descriptions of those that lived, the master aside."""
    left = []
    for process, role in family(mark, master).items():
        with contextlib.suppress(psutil.Error, OSError):
            if role != MASTER:
                left.append(f"LEFT: {role} {process.pid} ({process.status()})")
            os.kill(process.pid, signal.SIGKILL)
    return left

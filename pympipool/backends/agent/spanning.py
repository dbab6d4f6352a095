"""A worker whose ranks are on several hosts: an mpiexec on one of them, and a proxy of it on each, all started by agents.

    SpanningProcess ── mpiexec ─────────────────> agent of the first host ── mpiexec
                    <── the command of each proxy ──────────────────────────────┘ ▲
                    ── its command ─────────────> agent of each host ── proxy ────┘ over the network: how to start its ranks
                                                                          └── ranks, which connect to the master

The proxies have the environment of the worker, with the key, from their agents, and the ranks have it from their proxy. The
mpiexec, whose connections are not encrypted, does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pympipool._util import exit_codes
from pympipool.backends.agent.jobs import words_of_proxy
from pympipool.backends.agent.process import LOST_DELIVERY_DELAY_S, AgentJobProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import RUNNING
from pympipool.transport.frames import STATUS as RECORD
from pympipool.transport.host_stream import STATUS, STDERR, STDOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.agent.host import AgentHost

    MakeHead = Callable[[Sequence[tuple[AgentHost, int]]], bytes]
    MakeProxy = Callable[[list[str], int], bytes]

OF_MPIEXEC = 1 << 31
"""Is added to the number of a worker for its mpiexec: an agent may have both, the mpiexec and a proxy."""

PART_GRACE_S = 2.0
"""Seconds that mpiexec and proxies have to end by themselves after the first of them. Usually it takes some hundredths."""

_LAST_WORDS = re.compile(
    rb"^(?:Ctrl-C caught\.\.\. cleaning up processes|\[(?:mpiexec|proxy:[\d:]+)@[^\n]*)\n", re.MULTILINE
)
"""What mpiexec and proxies print when they are ended because another part has: it would only alarm the user."""

_COMMAND, _COMMANDS_END = b"HYDRA_LAUNCH: ", b"HYDRA_LAUNCH_END"


class SpanningProcess(AgentJobProcess):
    """A worker on several hosts. Its status is made of those of its parts.

    Args:
        agents: The agents.
        number: The worker's number.
        needs: The number of ranks, and of cores and devices that each of them occupies.
        make_head: Returns what the agent of the first host gets, for hosts and their numbers of ranks.
        make_proxy: Returns what another one gets, for the command of a proxy and its number of ranks.
    """

    def __init__(
        self,
        agents: Agents,
        number: int,
        needs: tuple[int, int, int],
        make_head: MakeHead,
        make_proxy: MakeProxy,
    ) -> None:
        self.ranks, cores, gpus = needs
        super().__init__(agents, b"", number, cores, gpus)
        self._make_head, self._make_proxy = make_head, make_proxy
        self._head: _Part | None = None  # mpiexec
        self._proxies: list[_Part] = []
        self._printed: bytearray | None = bytearray()  # by mpiexec, until it has printed all commands
        self._has_timer = False  # until the end of parts that survive others
        self._is_ending = False
        self._is_cut_short = False  # mpiexec was ended because a proxy had
        self._first_code = 0  # of a part that has failed by itself

    def begin(self, places: Sequence[tuple[AgentHost, int]]) -> None:
        """Occupy the slots of hosts, and have mpiexec started on the first of them.

        Args:
            places: The hosts, each with its number of ranks.
        """
        first, _ = places[0]
        try:
            self._head = _Part(self, self.number | OF_MPIEXEC, first, 0)
            for host, ranks in places:
                self._proxies.append(_Part(self, self.number, host, ranks))
            template = self._make_head(places)
            self.host = first.name
            self._head.begin(template)
        except BaseException as error:  # no memory: it waits on; or it cannot start on these hosts
            for part in self._parts():
                part.place.release(part)
                part.place.unanswered.discard(part)
            self._head, self._proxies = None, []
            if not isinstance(error, WorkerStartError):
                raise
            self.fail(error)

    def _parts(self) -> list[_Part]:
        return [*self._proxies] if self._head is None else [self._head, *self._proxies]

    # ---- for the parts ----

    def on_output(self, part: _Part, stream: int, data: bytes) -> None:
        """Take what a part has printed."""
        if part is self._head and stream == STDOUT and self._printed is not None:
            data = self._take_commands(data)
        if self._is_ending:
            data = _LAST_WORDS.sub(b"", data)
        if data:
            self._inboxes[stream].put(data)

    def _take_commands(self, data: bytes) -> bytes:
        """Start the proxies when mpiexec has printed their commands; return what else it has printed after them."""
        assert self._printed is not None
        self._printed += data
        before, mark, after = bytes(self._printed).partition(_COMMANDS_END + b"\n")
        if not mark:
            return b""
        self._printed = None
        lines = before.splitlines()
        commands = [words_of_proxy(line.removeprefix(_COMMAND)) for line in lines if line.startswith(_COMMAND)]
        if len(commands) != len(self._proxies):
            self._inboxes[STDERR].put(b"mpiexec has printed %d commands: %b\n" % (len(commands), before))
            self._end_parts()
        for proxy, command in zip(self._proxies, commands, strict=False):
            if not self._is_ending:
                proxy.begin(self._make_proxy(command, proxy.ranks))
        return after

    def on_status(self, part: _Part) -> None:
        """Take note that a part was started, or has ended."""
        code = part.poll()
        if part is self._head and part.pid and not self.pid:
            self._inboxes[STATUS].put(RECORD.pack(part.pid, RUNNING))
        if code is None:
            return
        if not self._is_ending:  # later ones tell how they were ended
            self._first_code = self._first_code or code
        if part.is_lost:
            self._end_early()
        elif not self._is_ending and not self._has_timer:
            self._has_timer = True
            self._agents.call_later(PART_GRACE_S, self._end_early)
        self._check_end()

    def _end_early(self) -> None:
        """End the parts that run on without another one."""
        if self._head is not None and self._head.poll() is None:
            self._is_cut_short = True
        self._end_parts()

    def _end_parts(self) -> None:
        self._is_ending = True
        for part in self._parts():
            part.kill()
        self._check_end()

    def _check_end(self) -> None:
        """Tell the end of the worker when all its parts have ended."""
        parts = self._parts()
        codes = [part.poll() for part in parts]
        if self._exit_code is not None or self._loss is not None or not parts or None in codes:
            return
        lost = next((part for part in parts if part.is_lost), None)
        if lost is not None:
            self._loss = lost.loss
            self._exit_code, self.exit_code_is_known = exit_codes.UNKNOWN, False
            self.delivery_delay_s = LOST_DELIVERY_DELAY_S
        else:
            code = self._first_code if self._is_cut_short else 0
            self._inboxes[STATUS].put(RECORD.pack(self.pid, code or codes[0]))
        if self._printed:  # mpiexec has failed, and told why
            self._inboxes[STDERR].put(bytes(self._printed))
        for inbox in self._inboxes:
            inbox.end()

    # ---- for the pool ----

    def poll(self) -> int | None:
        if self._is_ending:
            self._check_end()
        return super().poll()

    def has_started(self) -> bool:
        return self._head is not None

    def pending_reason(self) -> str:
        if self._head is None:
            return ""
        if not self._head.pid:
            return self._head.pending_reason()
        if self._printed is not None:
            return f": mpiexec on {self.host} has not printed how its proxies are started"
        hosts = ", ".join(proxy.place.name for proxy in self._proxies)
        return f": its hosts ({hosts}) must be able to connect to each other, on any port, and all to mpiexec on {self.host}"

    def _pause(self, stream: int, is_on: bool) -> None:
        if self._head is not None:
            self._head._pause(stream, is_on)

    def _signal_or_withdraw(self, number: int) -> None:
        if self._head is None:
            super()._signal_or_withdraw(number)
        elif self.poll() is None:
            self._end_parts()

    def kill_unreachable(self) -> None:
        """Give up the parts that do not end soon. The others, on hosts that answer, keep their slots until then."""
        self.kill()
        self._agents.call_later(PART_GRACE_S, self._lose_rest)

    def _lose_rest(self) -> None:
        for part in self._parts():
            part.kill_unreachable()
        self._check_end()

    def _serving(self) -> Iterator[AgentHost]:
        for part in self._parts():
            yield from part._serving()

    def close(self) -> None:
        super().close()
        self._drop_parts()

    def _drop_parts(self) -> None:
        parts, self._head, self._proxies = self._parts(), None, []
        for part in parts:
            part.close()


class _Part(AgentJobProcess):
    """The mpiexec of a worker, or a proxy. Occupies its slots from now on, and is started by `begin`.

    Args:
        whole: The worker.
        number: Tells it from others at the same agent.
        host: Where it is.
        ranks: The number of ranks there.
    """

    def __init__(self, whole: SpanningProcess, number: int, host: AgentHost, ranks: int) -> None:
        super().__init__(whole._agents, b"", number, ranks * whole.cores, ranks * whole.gpus)
        self._whole = whole
        self.ranks = ranks
        self.agent = self.place = host
        self._has_begun = False
        host.allocate(self)

    @property
    def is_lost(self) -> bool:
        """True if its agent is gone."""
        return self._loss is not None

    @property
    def loss(self) -> str | None:
        """Why it is lost."""
        return self._loss

    def begin(self, template: bytes) -> None:
        """Have it started."""
        assert self.agent is not None
        self._request, self._has_begun = template, True
        if not self.agent.is_connected:
            self.lose_agent()
            return
        self.agent.expect_answer(self)
        self.send_to_agent(self.agent)

    def receive(self, stream: int, data: bytes) -> None:
        """Take bytes of one of its pipes for the worker; b"" is its end."""
        if stream == STATUS:
            super().receive(stream, data)
            self._whole.on_status(self)
        else:
            self._whole.on_output(self, stream, data)

    def lose_agent(self) -> None:
        super().lose_agent()
        self._whole.on_status(self)

    def _ask_again(self) -> None:
        """Take it for lost: another agent cannot start it alone."""
        self._lose_parent()

    def _signal_or_withdraw(self, number: int) -> None:
        """End it also before it runs: the agent keeps the signal."""
        if self.poll() is not None:
            return
        if self._has_begun:
            self._signal(number)
        else:
            self._exit_code = -number

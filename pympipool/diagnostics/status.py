"""Show the status of an executor: `repr` in a terminal, a card in a notebook.

    counters of the dispatcher, states of the workers ─► snapshot ─► ExecutorStatus ─► as_text, as_html

The counters exist anyway (see `Dispatcher.statistics`): only showing them takes time, running calls does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pympipool._util.formatting import format_count, format_two_digits
from pympipool.serialization import describe_shared

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

TILES_MAX = 256
"""Maximum number of workers that the card draws for the same hosts. It only counts further workers."""

ROWS_MAX = 64
"""Maximum number of workers in the table."""


@dataclass(frozen=True)
class Worker:
    """One worker.

    Attributes:
        number: Number of the worker, unique in its executor.
        hosts: Hosts of its ranks in their order, each host once; empty until they are known.
        pid: Process id of rank 0; None until it is known.
        ranks: Number of its processes.
        state: "starting", "idle", "running" or "ending".
        ended: Number of calls that it has run.
    """

    number: int
    hosts: tuple[str, ...]
    pid: int | None
    ranks: int
    state: str
    ended: int

    @property
    def location(self) -> str:
        """Its hosts as text; "" until they are known."""
        return _list_hosts(self.hosts)


@dataclass(frozen=True)
class ExecutorStatus:
    """The status of an executor at one moment. The calls of a batch count one by one when the batch has come back.

    Attributes:
        info: Parameters that the executor was made with.
        workers: Workers, sorted by hosts and number.
        waiting: Number of calls that no worker has started.
        running: Number of calls that run.
        done: Number of calls that have returned.
        failed: Number of calls that have raised, that could not be sent, or whose worker died.
        calls_per_s: Number of ended calls, divided by the time from the first submission to the last end.
        state: "open", "drained", "shut down", or "of another process" in a fork of the process that made the executor.
        shared: What this process shares, for whatever executor, as text; "" if nothing.
        from_cache: Number of calls that were answered from a cache; no other number counts them.
    """

    info: Mapping[str, Any]
    workers: tuple[Worker, ...]
    waiting: int
    running: int
    done: int
    failed: int
    calls_per_s: float
    state: str
    shared: str = ""
    from_cache: int = 0


def snapshot(engine: Engine, info: Mapping[str, Any], from_cache: int = 0) -> ExecutorStatus:
    """Return the current status of an executor."""
    if engine.in_forked_child:  # its counters and locks are in the state they had at the fork
        return ExecutorStatus(info, (), 0, 0, 0, 0, 0.0, "of another process")
    load = engine.dispatcher.load_of_workers()
    workers = [_worker(state, *load.get(state["worker"], (0, 0))) for state in engine.pool.states()]
    waiting, running, returned, lost, raised, span_s = engine.dispatcher.statistics()
    starting = sum(worker.state == "starting" for worker in workers)
    waiting += (
        engine.blocked_count() + engine.retrying_count() + engine.unsubmitted_count() + engine.pool.waiting_count()
    )
    return ExecutorStatus(
        info=info,
        workers=tuple(sorted(workers, key=lambda worker: (worker.location, worker.number))),
        # Without block allocation, each worker starts for a call.
        waiting=waiting + (0 if info["block_allocation"] else starting),
        running=running,
        done=returned - raised,
        failed=raised + lost,
        calls_per_s=returned / span_s if span_s > 0 else 0.0,
        state=engine.state,
        shared=describe_shared(),
        from_cache=from_cache,
    )


def _worker(state: Mapping[str, Any], in_flight: int, ended: int) -> Worker:
    serving = "running" if in_flight else "idle"
    return Worker(
        number=state["worker"],
        hosts=tuple(state["hosts"]),
        pid=state["pid"],
        ranks=state["ranks"],
        state=serving if state["state"] == "serving" else state["state"],
        ended=ended,
    )


# ---- in a terminal ----


def as_text(status: ExecutorStatus) -> str:
    """Format the status as one line."""
    names = ("backend", "block_allocation", "max_workers", "cores_per_worker")
    made_with = " ".join(f"{name}={status.info[name]!r}" for name in names)
    if status.state != "open" and not status.workers:
        where = status.state
    else:
        hosts = sorted({host for worker in status.workers for host in worker.hosts})
        where = format_count(len(status.workers), "worker") + (f" on {_list_hosts(hosts)}" if hosts else "")
    counts = f"{status.running} running, {status.waiting} waiting, {status.done} done, {status.failed} failed"
    if status.from_cache:
        counts += f", {status.from_cache} from the cache"
    shared = f"; {status.shared}" if status.shared else ""
    return f"<Executor {made_with}: {where}; {counts}; {format_two_digits(status.calls_per_s)} calls/s{shared}>"


def _list_hosts(hosts: Sequence[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= 3 else f"{hosts[0]}, {hosts[1]} and {len(hosts) - 2} other hosts"


# ---- in a notebook ----

# Colours are mixed from the text colour of the page, so that the card fits light and dark themes.
STYLE = """
.pympipool { --done: #2a9d6f; --failed: #e5484d; --running: #3e8ee8; --line: rgba(128, 128, 128, .28);
  --rest: rgba(128, 128, 128, .5); --faint: rgba(128, 128, 128, .09); --soft: rgba(128, 128, 128, .95);
  --line: color-mix(in srgb, currentColor 16%, transparent);
  --rest: color-mix(in srgb, currentColor 34%, transparent);
  --faint: color-mix(in srgb, currentColor 5%, transparent);
  --soft: color-mix(in srgb, currentColor 62%, transparent);
  box-sizing: border-box; max-width: 44rem; margin: .3rem 0; padding: .85rem 1.1rem .9rem; border: 1px solid var(--line);
  border-radius: .7rem; font: 13px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.pympipool * { box-sizing: border-box; }
.pympipool header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .1rem .6rem; margin: 0 0 .75rem; }
.pympipool header b { font-size: 15px; font-weight: 650; letter-spacing: -.01em; }
.pympipool header span { color: var(--soft); }
.pympipool header i { margin-left: auto; font-style: normal; color: var(--soft); white-space: nowrap; }
.pympipool header i::before { content: ""; display: inline-block; width: .5rem; height: .5rem; margin-right: .4rem;
  border-radius: 50%; background: var(--rest); }
.pympipool header i.open::before { background: var(--done); }
.pympipool .bar { display: flex; gap: 2px; height: 6px; margin-bottom: .8rem; border-radius: 3px; overflow: hidden;
  background: var(--faint); }
.pympipool .bar u { min-width: 3px; height: 100%; }
.pympipool dl { display: grid; grid-template-columns: repeat(5, 1fr); gap: .4rem .8rem; margin: 0; }
.pympipool dl div { display: flex; flex-direction: column-reverse; }
.pympipool dt { margin: 0; color: var(--soft); font-weight: 400; font-size: 12px; white-space: nowrap; }
.pympipool dt::before { content: ""; display: inline-block; width: .55em; height: .55em; margin-right: .4em;
  border-radius: 2px; background: var(--of, transparent); }
.pympipool dt.plain::before { display: none; }
.pympipool dd { margin: 0; font-size: 20px; font-weight: 600; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.pympipool .zero dd { color: var(--soft); font-weight: 400; }
.pympipool .done { --of: var(--done); } .pympipool .failed { --of: var(--failed); }
.pympipool .running { --of: var(--running); } .pympipool .waiting { --of: var(--rest); }
.pympipool u.done, .pympipool u.failed, .pympipool u.running, .pympipool u.waiting { background: var(--of); }
.pympipool .hosts { display: grid; grid-template-columns: max-content 1fr; gap: .35rem .9rem; align-items: start;
  margin-top: .9rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.pympipool .host { font: 12px/16px ui-monospace, Menlo, monospace; }
.pympipool .tiles { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; color: var(--soft); font-size: 12px;
  line-height: 16px; }
.pympipool .tiles s { width: 16px; height: 16px; border: 1.5px solid var(--rest); border-radius: 4px; }
.pympipool .tiles s.running { border-color: var(--running); background: var(--running); }
.pympipool .tiles s.starting { border-style: dashed; }
.pympipool .tiles s.ending { opacity: .45; }
.pympipool details { margin-top: .7rem; }
.pympipool summary { color: var(--soft); font-size: 12px; cursor: pointer; }
.pympipool table { width: 100%; margin: .45rem 0 0; border: 0; border-collapse: collapse; font-size: 12px;
  font-variant-numeric: tabular-nums; color: inherit; }
.pympipool th, .pympipool td { padding: .18rem .5rem; border: 0; text-align: right; background: none; }
.pympipool th { color: var(--soft); font-weight: 400; border-bottom: 1px solid var(--line); }
.pympipool tbody tr { background: none; } .pympipool tbody tr:nth-child(even) td { background: var(--faint); }
.pympipool th:nth-child(2), .pympipool td:nth-child(2), .pympipool th:last-child, .pympipool td:last-child
  { text-align: left; }
"""

_COUNTED = ("done", "failed", "running", "waiting")


def as_html(status: ExecutorStatus) -> str:
    """Format the status as a card with the numbers of calls and the states of the workers."""
    return (
        f'<style>{STYLE}</style><section class="pympipool" aria-label="{escape(as_text(status)[1:-1])}">'
        f"{_header(status)}{_bar(status)}{_numbers(status)}{_hosts(status)}{_table(status)}</section>"
    )


def _header(status: ExecutorStatus) -> str:
    info = status.info
    cores = f" of {info['cores_per_worker']} cores" if info["cores_per_worker"] > 1 else ""
    facts = [f"backend {info['backend']}", f"at most {format_count(info['max_workers'], 'worker')}{cores}"]
    facts.append("block allocation" if info["block_allocation"] else "one process per call")
    facts += [f"{format_count(status.from_cache, 'call')} from the cache"] if status.from_cache else []
    facts += [status.shared] if status.shared else []
    state = f'<i class="{status.state.split()[0]}">{status.state}</i>'
    return f"<header><b>Executor</b><span>{escape(' · '.join(facts))}</span>{state}</header>"


def _bar(status: ExecutorStatus) -> str:
    counts = {name: getattr(status, name) for name in _COUNTED}
    parts = (f'<u class="{name}" style="flex:{count} 0 0"></u>' for name, count in counts.items() if count)
    return f'<div class="bar">{"".join(parts)}</div>'


def _numbers(status: ExecutorStatus) -> str:
    cells = [
        f'<div class="{name}{"" if getattr(status, name) else " zero"}"><dt>{name}</dt><dd>{_grouped(getattr(status, name))}</dd>'
        "</div>"
        for name in _COUNTED
    ]
    rate = status.calls_per_s
    shown = _grouped(int(format_two_digits(rate))) if rate >= 10 else format_two_digits(rate)
    cells.append(f'<div class="{"" if rate else "zero"}"><dt class="plain">calls/s</dt><dd>{shown}</dd></div>')
    return f"<dl>{''.join(cells)}</dl>"


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")  # a narrow space, without its name: that imports unicodedata


def _hosts(status: ExecutorStatus) -> str:
    if not status.workers:
        return ""
    lines = []
    for location, workers in groupby(status.workers, key=lambda worker: worker.location):
        group = list(workers)
        tiles = [_tile(worker) for worker in group[:TILES_MAX]]
        more = f"&nbsp;and {len(group) - TILES_MAX} more" if len(group) > TILES_MAX else ""
        lines.append(
            f'<span class="host">{escape(location or "…")}</span><div class="tiles">{"".join(tiles)}{more}</div>'
        )
    return f'<div class="hosts">{"".join(lines)}</div>'


def _tile(worker: Worker) -> str:
    ranks = f", {worker.ranks} ranks" if worker.ranks > 1 else ""
    title = f"worker {worker.number}{ranks}: {worker.state}, {format_count(worker.ended, 'call')} run"
    return f'<s class="{worker.state}" title="{escape(title)}"></s>'


def _table(status: ExecutorStatus) -> str:
    if not status.workers:
        return ""
    rows = [
        f"<tr><td>{worker.number}</td><td>{escape(worker.location or '…')}</td><td>{worker.pid or '…'}</td><td>{worker.ranks}</td>"
        f"<td>{_grouped(worker.ended)}</td><td>{worker.state}</td></tr>"
        for worker in status.workers[:ROWS_MAX]
    ]
    of = f", the first {ROWS_MAX}" if len(status.workers) > ROWS_MAX else ""
    head = "".join(f"<th>{name}</th>" for name in ("worker", "host", "pid", "ranks", "calls run", "state"))
    return (
        f"<details><summary>{format_count(len(status.workers), 'worker')}{of}</summary><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )

"""What users need of traces beside `pympipool.trace`: load the file of a trace, and look at the times of its calls.

    with trace("run.json") ─► seen.timeline ─┐
    read("run.json")       ─► a Timeline ────┴─► summarize ─► Summary ─► format_report

Examples:
    >>> from pympipool import Executor, trace
    >>> from pympipool.tracing import summarize
    >>> with trace() as seen, Executor(max_workers=1, block_allocation=True) as exe:
    ...     exe.submit(pow, 2, 5).result()
    32
    >>> summarize(seen.timeline).outcomes
    {'returned': 1}
"""

from __future__ import annotations

from pympipool.diagnostics.tracing.findings import Finding, find_findings
from pympipool.diagnostics.tracing.load import read
from pympipool.diagnostics.tracing.report import format_report
from pympipool.diagnostics.tracing.summary import ExecutorSummary, Summary, summarize
from pympipool.diagnostics.tracing.timeline import Call, ExecutorRecord, Timeline, Worker

__all__ = [
    "Call",
    "ExecutorRecord",
    "ExecutorSummary",
    "Finding",
    "Summary",
    "Timeline",
    "Worker",
    "find_findings",
    "format_report",
    "read",
    "summarize",
]

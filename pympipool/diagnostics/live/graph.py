"""The graph of calls that wait for others: what an engine keeps of them anyway, drawn when a viewer asks.

calls that wait ─► their inputs that have not ended ─► nodes ─► SVG
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pympipool.diagnostics.graph.nodes import Node
from pympipool.diagnostics.graph.svg import as_svg

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

CALLS_MAX = 300
"""Waiting calls that are drawn at most, the first ones: placing boxes takes time of the script."""

INPUTS_MAX = 2000
"""Inputs that are drawn at most, of all these calls together: each may have a hundred thousand."""


def draw_waiting(engine: weakref.ref[Engine]) -> str:
    """Return the graph of the calls that wait for others, and of those that they wait for, as SVG; "" if there is none."""
    found = engine()
    nodes = [] if found is None else _nodes(found)
    return as_svg(nodes) if nodes else ""


def _nodes(engine: Engine) -> list[Node]:
    """Return nodes for calls that wait, and for their inputs, each behind its inputs."""
    nodes: list[Node] = []
    numbers: dict[int, int] = {}  # by the id of a future, which `blocked` keeps alive
    blocked = engine.blocked_graph(CALLS_MAX, INPUTS_MAX)

    def add(future: Future[Any], node: Node) -> int:
        number = numbers.setdefault(id(future), len(nodes))
        if number == len(nodes):
            nodes.append(node)
        return number

    for future, name, inputs, left_out in blocked:
        if not future.done():
            places = [add(one, Node(_name(one), note=_state(one))) for one in inputs if not one.done()]
            note = f"waits, {left_out} inputs not drawn" if left_out else "waits"
            add(future, Node(name, inputs=frozenset(places), note=note))
    return nodes


def _name(future: Future[Any]) -> str:
    return getattr(future, "function_name", None) or "another future"


def _state(future: Future[Any]) -> str:
    return "runs" if future.running() else "waits for a worker"

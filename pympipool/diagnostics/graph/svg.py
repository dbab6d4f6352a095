"""Draw nodes as SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape

from pympipool.diagnostics.graph.layout import Position, compute_positions
from pympipool.diagnostics.graph.nodes import Node, merge_similar

BOXES_MAX = 400
"""Maximum number of boxes. Further calls are only counted."""

NAME_MAX, ARGUMENTS_MAX = 30, 40
"""Maximum number of characters in the first and second line of a box."""

# Colours are mixed from the text colour of the page, or in a file of its own from the theme of the system.
STYLE = """
.pympipool-graph { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.pympipool-graph rect.box { fill: var(--page, transparent); stroke: currentColor; stroke-opacity: .3; }
.pympipool-graph rect.tint { fill: currentColor; fill-opacity: .045; }
.pympipool-graph text { fill: currentColor; font-size: 13px; font-weight: 600; }
.pympipool-graph text.small { font: 11px ui-monospace, Menlo, Consolas, monospace; fill-opacity: .62; }
.pympipool-graph text.count { font-size: 11px; fill-opacity: .75; text-anchor: end; }
.pympipool-graph path { fill: none; stroke: currentColor; stroke-opacity: .42; stroke-width: 1.3; }
.pympipool-graph marker path { fill: currentColor; fill-opacity: .6; stroke: none; }
"""
STYLE_OF_FILE = """
.pympipool-graph { --page: #fff; color: #1f2328; background: #fff; }
@media (prefers-color-scheme: dark) { .pympipool-graph { --page: #16181c; color: #e6e8eb; background: #16181c; } }
"""

COLORS = ("#3e8ee8", "#2a9d6f", "#e08a1e", "#9a6ee0", "#e5484d", "#14a3b8", "#c2598f", "#8a8f29")
"""Colours of the functions, in the order of their first calls."""

BOX_HEIGHT, LAYER_HEIGHT, MARGIN = 44.0, 104.0, 16.0


def as_svg(nodes: list[Node], *, alone: bool = False) -> str:
    """Draw a picture.

    Args:
        nodes: Calls, each after the calls that it depends on.
        alone: True for a file of its own, which sets the colours of text and page.
    """
    left_out = len(nodes)
    nodes = merge_similar(nodes)[:BOXES_MAX]
    left_out -= sum(node.count for node in nodes)
    widths = [_width(node) for node in nodes]
    positions, paths = compute_positions(nodes, widths) if nodes else ([], {})
    begin = min((position.x - position.width / 2 for position in positions), default=0.0) - MARGIN
    for position in positions:
        position.x -= begin
    width = max((position.x + position.width / 2 for position in positions), default=240.0) + MARGIN
    height = (max((position.layer for position in positions), default=0)) * LAYER_HEIGHT + BOX_HEIGHT + 2 * MARGIN
    ends = _edge_ends(positions, paths)
    colors: dict[str, str] = {}
    for node in nodes:
        colors.setdefault(node.name, COLORS[len(colors) % len(COLORS)])
    drawn = [_edge(positions, path, ends[path[-2], path[-1]]) for path in paths.values()]
    drawn += [_box(node, position, colors[node.name]) for node, position in zip(nodes, positions, strict=False)]
    if left_out:
        height += 24
        drawn.append(f'<text class="small" x="{MARGIN}" y="{height - MARGIN}">and {left_out} more calls</text>')
    elif not nodes:
        drawn.append(f'<text class="small" x="{MARGIN}" y="{height / 2 + 4}">no call was submitted</text>')
    return (
        f'<svg class="pympipool-graph" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="graph of calls">'
        f"<style>{STYLE}{STYLE_OF_FILE if alone else ''}</style>"
        '<defs><marker id="pympipool-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 .8 7.5 4 0 7.2z"/></marker></defs>'
        f"{''.join(drawn)}</svg>\n"
    )


def _width(node: Node) -> float:
    """Return the width that the two lines of a box need, by the average width of characters."""
    count_width = 9.0 * len(f"×{node.count}") if node.count > 1 else 0.0
    first = 7.6 * min(len(node.name), NAME_MAX) + count_width + 34
    second = 6.7 * min(len(_second_line(node)), ARGUMENTS_MAX) + 30
    return max(first, second, 72.0)


def _edge_ends(positions: list[Position], paths: Mapping[tuple[int, int], list[int]]) -> dict[tuple[int, int], float]:
    """Return the x coordinate at which each edge ends on its box: side by side, in the order of their starts."""
    entering: dict[int, list[int]] = defaultdict(list)
    for path in paths.values():
        entering[path[-1]].append(path[-2])
    end_xs = {}
    for end, starts in entering.items():
        starts.sort(key=lambda start: positions[start].x)
        total_width = min(positions[end].width - 24, 22.0 * (len(starts) - 1))
        for number, start in enumerate(starts):
            share = number / (len(starts) - 1) - 0.5 if len(starts) > 1 else 0.0
            end_xs[start, end] = positions[end].x + total_width * share
    return end_xs


def _top(position: Position) -> float:
    return MARGIN + position.layer * LAYER_HEIGHT


def _edge(positions: list[Position], path: list[int], end_x: float) -> str:
    first, *bends = (positions[number] for number in path[:-1])
    x, y = first.x, _top(first) + BOX_HEIGHT
    steps = [f"M{x:.1f} {y:.1f}"]
    for bend in bends:
        steps.append(_curve(x, y, bend.x, _top(bend)) + f"V{_top(bend) + BOX_HEIGHT:.1f}")
        x, y = bend.x, _top(bend) + BOX_HEIGHT
    steps.append(_curve(x, y, end_x, _top(positions[path[-1]]) - 1))
    return f'<path d="{"".join(steps)}" marker-end="url(#pympipool-arrow)"/>'


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"


def _second_line(node: Node) -> str:
    return " · ".join(part for part in (node.arguments, node.note) if part)


def _truncate(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _box(node: Node, position: Position, color: str) -> str:
    x, y, width = position.x - position.width / 2, _top(position), position.width
    second = _second_line(node)
    rect = f'x="{{:.1f}}" y="{{:.1f}}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="8"'
    shadows = (6, 3) if node.count > 1 else ()
    parts = [f'<rect class="box" {rect.format(x + step, y + step)}/>' for step in shadows]
    parts += [f'<rect class="{kind}" {rect.format(x, y)}/>' for kind in ("box", "tint")]
    parts.append(
        f'<rect class="mark" x="{x + 7:.1f}" y="{y + 9:.1f}" width="3.5" height="{BOX_HEIGHT - 18}" rx="1.75" fill="{color}"/>'
    )
    first_y = y + (18 if second else 26.5)
    parts.append(f'<text x="{x + 18:.1f}" y="{first_y:.1f}">{escape(_truncate(node.name, NAME_MAX))}</text>')
    if second:
        cut = escape(_truncate(second, ARGUMENTS_MAX))
        parts.append(f'<text class="small" x="{x + 18:.1f}" y="{y + 34:.1f}">{cut}</text>')
    if node.count > 1:
        parts.append(f'<text class="count" x="{x + width - 11:.1f}" y="{y + 18:.1f}">×{node.count}</text>')
    title = escape(f"{node.name}({node.arguments})" + (f", {node.note}" if node.note else ""))
    return f'<g data-name="{escape(node.name)}"><title>{title}</title>{"".join(parts)}</g>'

"""From nodes to a picture, as SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape

from pympipool.diagnostics.graph.layout import Place, find_places
from pympipool.diagnostics.graph.nodes import Node, alike_together

BOXES_MAX = 400
"""Boxes that are drawn; of more calls only the number is told."""

NAME_MAX, ARGUMENTS_MAX = 30, 40
"""Characters of the two lines in a box."""

# Colours are mixed from that of the text around; alone, in a file, from that of the system's theme.
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
STYLE_ALONE = """
.pympipool-graph { --page: #fff; color: #1f2328; background: #fff; }
@media (prefers-color-scheme: dark) { .pympipool-graph { --page: #16181c; color: #e6e8eb; background: #16181c; } }
"""

COLORS = ("#3e8ee8", "#2a9d6f", "#e08a1e", "#9a6ee0", "#e5484d", "#14a3b8", "#c2598f", "#8a8f29")
"""One for each function, in the order of their first calls."""

BOX_HEIGHT, LAYER_HEIGHT, MARGIN = 44.0, 104.0, 16.0


def as_svg(nodes: list[Node], *, alone: bool = False) -> str:
    """The picture.

    Args:
        nodes: Calls, each after those that it depends on.
        alone: It stands in a file: with colours of its own.
    """
    left_out = len(nodes)
    nodes = alike_together(nodes)[:BOXES_MAX]
    left_out -= sum(node.count for node in nodes)
    widths = [_width(node) for node in nodes]
    places, ways = find_places(nodes, widths) if nodes else ([], {})
    begin = min((place.x - place.width / 2 for place in places), default=0.0) - MARGIN
    for place in places:
        place.x -= begin
    width = max((place.x + place.width / 2 for place in places), default=240.0) + MARGIN
    height = (max((place.layer for place in places), default=0)) * LAYER_HEIGHT + BOX_HEIGHT + 2 * MARGIN
    ends = _ports(places, ways)
    colors: dict[str, str] = {}
    for node in nodes:
        colors.setdefault(node.name, COLORS[len(colors) % len(COLORS)])
    drawn = [_edge(places, way, ends[way[-2], way[-1]]) for way in ways.values()]
    drawn += [_box(node, place, colors[node.name]) for node, place in zip(nodes, places, strict=False)]
    if left_out:
        height += 24
        drawn.append(f'<text class="small" x="{MARGIN}" y="{height - MARGIN}">and {left_out} calls more</text>')
    elif not nodes:
        drawn.append(f'<text class="small" x="{MARGIN}" y="{height / 2 + 4}">no call was submitted</text>')
    return (
        f'<svg class="pympipool-graph" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="graph of calls">'
        f"<style>{STYLE}{STYLE_ALONE if alone else ''}</style>"
        '<defs><marker id="pympipool-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 .8 7.5 4 0 7.2z"/></marker></defs>'
        f"{''.join(drawn)}</svg>\n"
    )


def _width(node: Node) -> float:
    """What the two lines of a box need, by the usual width of letters."""
    room_for_count = 9.0 * len(f"×{node.count}") if node.count > 1 else 0.0
    first = 7.6 * min(len(node.name), NAME_MAX) + room_for_count + 34
    second = 6.7 * min(len(_second_line(node)), ARGUMENTS_MAX) + 30
    return max(first, second, 72.0)


def _ports(places: list[Place], ways: Mapping[tuple[int, int], list[int]]) -> dict[tuple[int, int], float]:
    """Where on the upper side of its box each edge ends: side by side, in the order in which they come."""
    entering: dict[int, list[int]] = defaultdict(list)
    for way in ways.values():
        entering[way[-1]].append(way[-2])
    ports = {}
    for end, starts in entering.items():
        starts.sort(key=lambda start: places[start].x)
        room = min(places[end].width - 24, 22.0 * (len(starts) - 1))
        for number, start in enumerate(starts):
            share = number / (len(starts) - 1) - 0.5 if len(starts) > 1 else 0.0
            ports[start, end] = places[end].x + room * share
    return ports


def _top(place: Place) -> float:
    return MARGIN + place.layer * LAYER_HEIGHT


def _edge(places: list[Place], way: list[int], end_x: float) -> str:
    first, *bends = (places[number] for number in way[:-1])
    x, y = first.x, _top(first) + BOX_HEIGHT
    steps = [f"M{x:.1f} {y:.1f}"]
    for bend in bends:
        steps.append(_curve(x, y, bend.x, _top(bend)) + f"V{_top(bend) + BOX_HEIGHT:.1f}")
        x, y = bend.x, _top(bend) + BOX_HEIGHT
    steps.append(_curve(x, y, end_x, _top(places[way[-1]]) - 1))
    return f'<path d="{"".join(steps)}" marker-end="url(#pympipool-arrow)"/>'


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"


def _second_line(node: Node) -> str:
    return " · ".join(part for part in (node.arguments, node.note) if part)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _box(node: Node, place: Place, color: str) -> str:
    x, y, width = place.x - place.width / 2, _top(place), place.width
    second = _second_line(node)
    rect = f'x="{{:.1f}}" y="{{:.1f}}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="8"'
    behind = (6, 3) if node.count > 1 else ()
    parts = [f'<rect class="box" {rect.format(x + step, y + step)}/>' for step in behind]
    parts += [f'<rect class="{kind}" {rect.format(x, y)}/>' for kind in ("box", "tint")]
    parts.append(
        f'<rect x="{x + 7:.1f}" y="{y + 9:.1f}" width="3.5" height="{BOX_HEIGHT - 18}" rx="1.75" fill="{color}"/>'
    )
    first_y = y + (18 if second else 26.5)
    parts.append(f'<text x="{x + 18:.1f}" y="{first_y:.1f}">{escape(_cut(node.name, NAME_MAX))}</text>')
    if second:
        cut = escape(_cut(second, ARGUMENTS_MAX))
        parts.append(f'<text class="small" x="{x + 18:.1f}" y="{y + 34:.1f}">{cut}</text>')
    if node.count > 1:
        parts.append(f'<text class="count" x="{x + width - 11:.1f}" y="{y + 18:.1f}">×{node.count}</text>')
    title = escape(f"{node.name}({node.arguments})" + (f", {node.note}" if node.note else ""))
    return f"<g><title>{title}</title>{''.join(parts)}</g>"

"""Compute the positions of boxes: in layers, each box below the boxes that it depends on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from pympipool.diagnostics.graph.nodes import Node

GAP = 26.0
"""Distance between boxes in pixels."""

SWEEPS = 24
"""Number of sweeps over the layers that position the boxes. The first half of them may change the order of boxes."""

BEND_WEIGHT = 4.0
"""Weight of the wished position of a bend, relative to a box: high, so that long edges are straight."""


@dataclass
class Position:
    """The position of a box, or of a bend of an edge (with a width of 0)."""

    layer: int
    width: float = 0.0
    x: float = 0.0


def compute_positions(
    nodes: list[Node], widths: list[float]
) -> tuple[list[Position], dict[tuple[int, int], list[int]]]:
    """Return the positions of all nodes, followed by those of all bends, and the positions on each edge, ends included.

    Edges lead from one layer to the next: longer edges are divided by bends, for which there is room between the boxes.
    """
    positions: list[Position] = []
    for node, width in zip(nodes, widths, strict=True):  # the inputs of a call were submitted before it
        positions.append(Position(1 + max((positions[number].layer for number in node.inputs), default=-1), width))
    paths: dict[tuple[int, int], list[int]] = {}
    for end, node in enumerate(nodes):
        for start in sorted(node.inputs):
            path = [start]
            for layer in range(positions[start].layer + 1, positions[end].layer):
                positions.append(Position(layer))
                path.append(len(positions) - 1)
            paths[start, end] = [*path, end]
    _arrange(positions, [pair for path in paths.values() for pair in pairwise(path)])
    return positions, paths


def _arrange(positions: list[Position], edges: list[tuple[int, int]]) -> None:
    """Set the x coordinate of each position: near the positions that it is connected with, and with few crossing edges.

    The barycenter heuristic of Sugiyama, Tagawa and Toda (IEEE Transactions on Systems, Man, and Cybernetics 11(2),
    1981): sweep down and up, and sort each layer by the mean position of the connected boxes in the layer before.
    """
    rows: list[list[int]] = [[] for _ in range(1 + max((position.layer for position in positions), default=0))]
    for number, position in enumerate(positions):
        rows[position.layer].append(number)
    above, below = defaultdict(list), defaultdict(list)
    for start, end in edges:
        above[end].append(start)
        below[start].append(end)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wishes = {number: positions[number].x for number in row}
            for number in row:
                near = above[number] if downwards else below[number]
                if sweep >= SWEEPS - 2:
                    near = above[number] + below[number]
                if near:
                    wishes[number] = sum(positions[other].x for other in near) / len(near)
            if sweep < SWEEPS // 2:  # in later sweeps the order stays, and only distances change
                row.sort(key=wishes.__getitem__)
            _separate([positions[number] for number in row], [wishes[number] for number in row])


def _separate(row: list[Position], wishes: list[float]) -> None:
    """Move the positions of a layer as near to their wishes as their order and widths allow (least squares)."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + (GAP if left.width and right.width else GAP / 2))
    blocks: list[list[float]] = []  # positions that touch: sum of the wishes, and their weight
    sizes: list[int] = []
    for position, wish, offset in zip(row, wishes, offsets, strict=True):
        weight = 1.0 if position.width else BEND_WEIGHT
        blocks.append([(wish - offset) * weight, weight])
        sizes.append(1)
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            (total, weight), count = blocks.pop(), sizes.pop()
            blocks[-1][0] += total
            blocks[-1][1] += weight
            sizes[-1] += count
    begins = [total / weight for (total, weight), count in zip(blocks, sizes, strict=True) for _ in range(count)]
    for position, begin, offset in zip(row, begins, offsets, strict=True):
        position.x = begin + offset

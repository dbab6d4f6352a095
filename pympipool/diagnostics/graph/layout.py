"""Where boxes stand: in layers, each below those that it depends on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from pympipool.diagnostics.graph.nodes import Node

GAP = 26.0
"""Pixels between boxes."""

SWEEPS = 24
"""Over the layers, to find where boxes stand; half of them may change their order."""

BEND_WEIGHT = 4.0
"""How much more than a box a bend stays where it should be, so that long edges are straight."""


@dataclass
class Place:
    """Where a box stands, or a bend of an edge that passes by (its width is 0)."""

    layer: int
    width: float = 0.0
    x: float = 0.0


def find_places(nodes: list[Node], widths: list[float]) -> tuple[list[Place], dict[tuple[int, int], list[int]]]:
    """A place for each node, then the bends; and of each edge the places that it passes, ends included.

    Edges lead from one layer to the next: longer ones are cut by bends, for which there is room between the boxes.
    """
    places: list[Place] = []
    for node, width in zip(nodes, widths, strict=True):  # inputs were submitted before
        places.append(Place(1 + max((places[one].layer for one in node.inputs), default=-1), width))
    ways: dict[tuple[int, int], list[int]] = {}
    for end, node in enumerate(nodes):
        for start in sorted(node.inputs):
            way = [start]
            for layer in range(places[start].layer + 1, places[end].layer):
                places.append(Place(layer))
                way.append(len(places) - 1)
            ways[start, end] = [*way, end]
    _arrange(places, [pair for way in ways.values() for pair in pairwise(way)])
    return places, ways


def _arrange(places: list[Place], edges: list[tuple[int, int]]) -> None:
    """Sets where in its layer each place is: near those that it is connected with, with few edges that cross.

    The barycenter heuristic of Sugiyama, Tagawa and Toda (IEEE Transactions on Systems, Man, and Cybernetics 11(2),
    1981): sweep down and up, and sort each layer by the mean place of what it is connected with in the one before.
    """
    rows: list[list[int]] = [[] for _ in range(1 + max((place.layer for place in places), default=0))]
    for number, place in enumerate(places):
        rows[place.layer].append(number)
    above, below = defaultdict(list), defaultdict(list)
    for start, end in edges:
        above[end].append(start)
        below[start].append(end)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wishes = {number: places[number].x for number in row}
            for number in row:
                near = above[number] if downwards else below[number]
                if sweep >= SWEEPS - 2:
                    near = above[number] + below[number]
                if near:
                    wishes[number] = sum(places[one].x for one in near) / len(near)
            if sweep < SWEEPS // 2:  # then the order stays, and only distances change
                row.sort(key=wishes.__getitem__)
            _stand_apart([places[number] for number in row], [wishes[number] for number in row])


def _stand_apart(row: list[Place], wishes: list[float]) -> None:
    """Puts the places of a layer as near to where they should be as their order and widths allow (least squares)."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + (GAP if left.width and right.width else GAP / 2))
    blocks: list[list[float]] = []  # places that touch: sum of the wishes, and their weight
    members: list[int] = []
    for place, wish, offset in zip(row, wishes, offsets, strict=True):
        weight = 1.0 if place.width else BEND_WEIGHT
        blocks.append([(wish - offset) * weight, weight])
        members.append(1)
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            (total, weight), count = blocks.pop(), members.pop()
            blocks[-1][0] += total
            blocks[-1][1] += weight
            members[-1] += count
    begins = [total / weight for (total, weight), count in zip(blocks, members, strict=True) for _ in range(count)]
    for place, begin, offset in zip(row, begins, offsets, strict=True):
        place.x = begin + offset

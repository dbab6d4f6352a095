"""Calls as nodes: what stands in a box."""

from __future__ import annotations

import reprlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

ALIKE_MIN = 4
"""From so many calls of the same function with the same inputs and users on, they are drawn as one box."""

FUTURE_SIGN = "\N{UPWARDS ARROW}"
"""Stands for a future among the arguments."""


@dataclass
class Node:
    """A call, or several alike.

    Attributes:
        name: Of the function.
        arguments: In a few words.
        inputs: Nodes whose results are among the arguments, as indices.
        note: What it needs besides, if that is not what every call gets.
        count: How many calls it stands for.
    """

    name: str
    arguments: str = ""
    inputs: frozenset[int] = frozenset()
    note: str = ""
    count: int = 1


class _Words(reprlib.Repr):
    """Arguments in a few words, with a sign for each future."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = self.maxlong = 18
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 2, 4, 4, 3, 4

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Future):
            return FUTURE_SIGN
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple):  # an array or a table: its size says more than its first numbers
            return f"{type(x).__name__} {'×'.join(map(str, shape))}"
        return super().repr1(x, level)


_words = _Words()


def in_words(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The arguments of a call, in one line."""
    words = [_words.repr(value) for value in args]
    words += [f"{name}={_words.repr(value)}" for name, value in kwargs.items()]
    return " ".join(", ".join(words).split())


def alike_together(nodes: list[Node]) -> list[Node]:
    """Calls of the same function with the same inputs and the same users as one node, where they are many.

    Examples:
        >>> start, *squares = Node("load"), *(Node("square", str(i), frozenset({0})) for i in range(9))
        >>> [(node.name, node.count) for node in alike_together([start, *squares, Node("sum", "", frozenset(range(1, 10)))])]
        [('load', 1), ('square', 9), ('sum', 1)]
    """
    users = defaultdict(set)
    for number, node in enumerate(nodes):
        for one in node.inputs:
            users[one].add(number)
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        groups[node.name, node.note, node.inputs, frozenset(users[number])].append(number)
    first_of = list(range(len(nodes)))
    for members in groups.values():
        if len(members) >= ALIKE_MIN:
            for number in members:
                first_of[number] = members[0]
    kept = [number for number, first in enumerate(first_of) if first == number]
    place = {number: index for index, number in enumerate(kept)}
    counts = Counter(first_of)
    return [
        replace(
            nodes[number],
            arguments=nodes[number].arguments + (", …" if counts[number] > 1 and nodes[number].arguments else ""),
            inputs=frozenset(place[first_of[one]] for one in nodes[number].inputs),
            count=counts[number],
        )
        for number in kept
    ]

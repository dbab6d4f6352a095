"""Calls as nodes of the graph: the text in each box, and the merging of similar calls."""

from __future__ import annotations

import reprlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

MERGE_MIN = 4
"""Minimum number of calls of the same function with the same inputs and dependents that are drawn as one box."""

FUTURE_SIGN = "\u2191"  # an arrow upwards; its name would import unicodedata
"""Character for a future among the arguments."""


@dataclass
class Node:
    """A call, or several similar calls.

    Attributes:
        name: Name of the function.
        arguments: Summary of the arguments.
        inputs: Indices of the nodes whose results are among the arguments.
        note: Its resources, if they differ from the default.
        count: Number of calls that the node stands for.
    """

    name: str
    arguments: str = ""
    inputs: frozenset[int] = frozenset()
    note: str = ""
    count: int = 1


class _ArgumentRepr(reprlib.Repr):
    """Short reprs of arguments, with a character for each future."""

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


_argument_repr = _ArgumentRepr()


def summarize_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of a call in one line."""
    texts = [_argument_repr.repr(value) for value in args]
    texts += [f"{name}={_argument_repr.repr(value)}" for name, value in kwargs.items()]
    return " ".join(", ".join(texts).split())


def merge_similar(nodes: list[Node]) -> list[Node]:
    """Merge calls of the same function with the same inputs and dependents into one node, if there are many of them.

    Examples:
        >>> start, *squares = Node("load"), *(Node("square", str(i), frozenset({0})) for i in range(9))
        >>> [(node.name, node.count) for node in merge_similar([start, *squares, Node("sum", "", frozenset(range(1, 10)))])]
        [('load', 1), ('square', 9), ('sum', 1)]
    """
    dependents = defaultdict(set)
    for number, node in enumerate(nodes):
        for input_number in node.inputs:
            dependents[input_number].add(number)
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        groups[node.name, node.note, node.inputs, frozenset(dependents[number])].append(number)
    first_of = list(range(len(nodes)))
    for members in groups.values():
        if len(members) >= MERGE_MIN:
            for number in members:
                first_of[number] = members[0]
    kept = [number for number, first in enumerate(first_of) if first == number]
    new_number = {number: index for index, number in enumerate(kept)}
    counts = Counter(first_of)
    return [
        replace(
            nodes[number],
            arguments=nodes[number].arguments + (", …" if counts[number] > 1 and nodes[number].arguments else ""),
            inputs=frozenset(new_number[first_of[input_number]] for input_number in nodes[number].inputs),
            count=counts[number],
        )
        for number in kept
    ]

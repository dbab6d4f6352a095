"""Calls as users write them, to be type-checked and never run. Exactly the wrong lines are marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import assert_type

from pympipool import Executor

if TYPE_CHECKING:
    from concurrent import futures

    from pympipool._core.future import Future


def add(x: int, y: int = 0, *, scale: float = 1.0) -> float:
    return (x + y) * scale


def total(numbers: list[int]) -> int:
    return sum(numbers)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def moved(self, by: int) -> Point:
        return Point(self.x + by)


def right(exe: Executor, future: Future[int]) -> None:
    assert_type(exe.submit(add, 1), "Future[float]")
    assert_type(exe.submit(add, 1, 2, scale=3.0), "Future[float]")
    assert_type(exe.submit(add, x=1, y=2).result(), float)
    assert_type(exe.submit(Point, 1), "Future[Point]")
    assert_type(exe.submit(Point(1).moved, by=2), "Future[Point]")
    assert_type(exe.submit(total, [1, 2]), "Future[int]")
    assert_type(exe.submit(pow, 2, 5), "Future[int]")
    assert_type(list(exe.map(total, [[1], [2]])), list[int])


def resources(exe: Executor) -> None:
    assert_type(exe.submit(add, 1, y=2, resource_dict={"cores": 2}), "Future[float]")
    assert_type(exe.submit(add, resource_dict=None), "Future[float]")  # init_function provides x


def futures_among_the_arguments(exe: Executor, future: Future[int], other: futures.Future[int]) -> None:
    assert_type(exe.submit(add, future), "Future[float]")
    assert_type(exe.submit(add, other, 2, scale=3.0), "Future[float]")
    assert_type(exe.submit(add, 1, future), "Future[float]")
    assert_type(exe.submit(total, [future, future]), "Future[int]")
    assert_type(exe.submit(total, [exe.submit(total, [1])]), "Future[int]")


def wrong(exe: Executor, future: Future[int]) -> None:
    exe.submit(add, "1")  # wrong
    exe.submit(add, 1, 2, 3)  # wrong
    exe.submit(add, 1, z=2)  # wrong
    exe.submit(add)  # wrong
    exe.submit(total, ["a"])  # wrong
    exe.submit(Point(1).moved, by="2")  # wrong
    exe.submit(1, 2)  # wrong
    exe.submit(add, 1, resource_dict=2)  # wrong
    print(exe.submit(Point(1).moved, 2).result().y)  # wrong


def parameters() -> None:
    Executor(max_workers=2, block_allocation=True)
    Executor(2, init_function=lambda: {"j": 4})
    Executor(max_worker=2)  # wrong
    Executor(max_workers="2")  # wrong


def as_any_executor(exe: futures.Executor) -> None:
    exe.submit(add, 1)


def as_a_context_manager() -> None:
    with Executor() as executor:
        as_any_executor(executor)
        assert_type(executor, Executor)
        executor.max_workers = 3
        executor.max_workers = "3"  # wrong

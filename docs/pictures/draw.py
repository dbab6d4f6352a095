"""Draw the pictures of this folder: `make pictures`.

`python docs/pictures/draw.py FOLDER` writes them into another folder. A test does that, and compares the result with
the committed pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rooms import rooms
from svg import Picture


def why() -> Picture:
    """Draw the same functions in a loop and with an executor."""
    p = Picture(
        "why",
        860,
        374,
        "Above, a plain loop: twelve short calls and a long one run one after the other on one of four cores. Below, an"
        " executor: the twelve calls run four at a time, and the long one on four MPI ranks; all is done in a quarter of"
        " the time.",
    )
    left, unit, row = 92.0, 36.5, 27.0

    def lane(y: float, number: int, upto: float) -> None:
        p.text(left - 14, y + 18, f"core {number}", size=13, fill="soft", at="end")
        p.box(left, y, upto, row - 5, fill="panel", r=4)

    def calls(y: float, first: float, count: int) -> None:
        for i in range(count):
            p.box(left + (first + i) * unit + 1, y, unit - 2, row - 5, fill="blue", r=4)

    full = 20 * unit
    p.title(left, 26, "a plain loop", "one core works, three wait")
    p.text(left + full, 26, "done", size=14, fill="soft", at="end", bold=True)
    top = 40.0
    for number in range(4):
        lane(top + number * row, number + 1, full)
    calls(top, 0, 12)
    p.box(left + 12 * unit + 1, top, 8 * unit - 2, row - 5, fill="amber", r=4)
    p.text(left + 6 * unit, top + row + 15, "energy(x), 12 times", size=13, fill="blue", at="middle", mono=True)
    p.text(left + 16 * unit, top + row + 15, "relax(shape)", size=13, fill="amber", at="middle", mono=True)

    top = 208.0
    p.title(left, top - 14, "with an Executor", "every core works, and each function on as many as it needs")
    for number in range(4):
        lane(top + number * row, number + 1, full)
        calls(top + number * row, 0, 3)
    p.box(left + 3 * unit + 1, top, 2 * unit - 2, 4 * row - 5, fill="amber", r=4)
    for rank in range(4):
        y = top + rank * row
        if rank:
            p.line((left + 3 * unit + 8, y - 2.5), (left + 5 * unit - 8, y - 2.5), stroke="on", dashes="2 4")
        p.text(left + 4 * unit, y + 16, f"rank {rank}", size=12, fill="on", at="middle")

    code_x, code_y = left + 6.1 * unit, top + 6
    p.box(code_x - 14, code_y - 6, 14 * unit - 8, 107, fill="face", stroke="line", r=6)
    p.text(code_x, code_y + 19, "with Executor() as exe:", size=13.5, mono=True)
    p.text(code_x, code_y + 42, "    energies = list(exe.map(energy, distances))", size=13.5, mono=True, fill="blue")
    p.text(code_x, code_y + 65, "    relaxed = exe.submit(relax, shape,", size=13.5, mono=True, fill="amber")
    p.text(
        code_x, code_y + 88, '                         resource_dict={"cores": 4})', size=13.5, mono=True, fill="amber"
    )

    y = top + 4 * row + 16
    p.line((left, y), (left + full + 6, y), stroke="soft", arrow=True)
    p.text(left + full + 6, y + 22, "time", size=13, fill="soft", at="end")
    p.line((left + 5 * unit, top - 4), (left + 5 * unit, y), stroke="green", dashes="3 3")
    p.line((left + full, 36), (left + full, top - 30), stroke="soft", dashes="3 3")
    p.text(left + 5 * unit, y + 22, "done", size=14, fill="green", at="middle", bold=True)
    return p


def way() -> Picture:
    """Draw the way of one call."""
    p = Picture(
        "way",
        860,
        420,
        "A call goes from the user's thread, which looks for futures among the arguments and pickles them, to the"
        " dispatcher, which writes the bytes into the ring of the worker with the least work. The worker unpickles"
        " and runs it, and the result comes back through a second ring to the future, where the caller unpickles it.",
    )
    columns = [(10, 268, "your thread"), (296, 268, "dispatcher, in C, without the GIL"), (582, 268, "a worker")]
    for x, w, title in columns:
        p.box(x, 36, w, 346, fill="panel", r=8)
        p.text(x + w / 2, 25, title, at="middle", size=14, bold=True)
    p.text(287, 408, "the master: the process of your script", at="middle", size=13, fill="soft")
    p.text(716, 408, "a process, or the ranks of an MPI job", at="middle", size=13, fill="soft")

    def step(x: float, y: float, title: str, more: str, colour: str, mono: bool = False, h: float = 48) -> None:
        p.box(x, y, 228, h, fill="face", stroke=colour, r=6)
        p.text(x + 114, y + (21 if more else h / 2 + 5), title, at="middle", size=13.5, mono=mono)
        if more:
            p.text(x + 114, y + 38, more, at="middle", size=12, fill="soft")

    a, b, c = 30.0, 316.0, 602.0
    step(a, 52, "exe.submit(fn, *args)", "", "blue", mono=True, h=38)
    p.line((a + 114, 90), (a + 114, 107), stroke="blue", arrow=True)
    step(a, 110, "wait for futures in args", "by callback, without polling", "blue")
    p.line((a + 114, 158), (a + 114, 175), stroke="blue", arrow=True)
    step(a, 178, "pickle", "large arrays out of band", "blue")
    p.line((a + 228, 202), (a + 257, 202), (a + 257, 71), (b - 3, 71), stroke="blue", arrow=True)

    step(b, 52, "waiting calls", "", "blue", h=38)
    p.line((b + 114, 90), (b + 114, 107), stroke="blue", arrow=True)
    step(b, 110, "select a worker", "prefetched; can be recalled", "blue")
    p.line((b + 114, 158), (b + 114, 175), stroke="blue", arrow=True)
    _ring(p, b, 178, "ring of calls", "blue")
    p.line((b + 228, 202), (b + 257, 202), (b + 257, 95), (c - 3, 95), stroke="blue", arrow=True)

    step(c, 71, "unpickle", "a function travels once", "blue")
    p.line((c + 114, 119), (c + 114, 154), stroke="blue", arrow=True)
    step(c, 157.5, "fn(*args)", "runs, on every rank", "amber", mono=True)
    p.line((c + 114, 205.5), (c + 114, 241), stroke="green", arrow=True)
    step(c, 244, "pickle", "a result, or an exception", "green")

    p.line((c, 268), (b + 231, 268), stroke="green", arrow=True)
    _ring(p, b, 244, "ring of results", "green")
    p.line((b + 114, 292), (b + 114, 315), stroke="green", arrow=True)
    step(b, 318, "bytes set on the future", "", "green", h=38)
    p.line((b, 337), (a + 231, 337), stroke="green", arrow=True)
    step(a, 313, "future.result()", "unpickled by the caller", "green", mono=True)
    return p


def _ring(p: Picture, x: float, y: float, title: str, colour: str) -> None:
    p.box(x, y, 228, 48, fill="face", stroke=colour, r=6)
    cells, size = 12, 13.0
    start = x + 114 - cells * size / 2
    filled = range(3, 8)
    for i in range(cells):
        p.box(start + i * size, y + 26, size - 2, 12, fill=colour if i in filled else "line", r=2)
    p.text(x + 114, y + 18, f"{title}, in shared memory", at="middle", size=12.5)


PICTURES: tuple[Callable[[], Picture], ...] = (why, way, rooms)

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for make in PICTURES:
        picture = make()
        path = folder / f"{picture.name}.svg"
        path.write_text(picture.svg(), encoding="utf-8")
        print(path)

"""Draws the pictures of this folder: `make pictures`. A test compares them with what this draws.

Each is one SVG that is right in light and in dark: shown by itself (as GitHub does) it follows the reader's system, put
into a page of the site (as docs/_ext/pages.py does) it follows the page.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

LIGHT = {
    "ink": "#1c2430",
    "soft": "#5b6675",
    "line": "#c3cad3",
    "panel": "#f4f6f8",
    "face": "#ffffff",
    "blue": "#2f6fb7",
    "amber": "#c66a12",
    "green": "#2b8a5b",
    "on": "#ffffff",
}
DARK = {
    "ink": "#e6eaf0",
    "soft": "#9aa6b5",
    "line": "#465160",
    "panel": "#1d232b",
    "face": "#262e38",
    "blue": "#6aa9ee",
    "amber": "#eca04f",
    "green": "#5cc08e",
    "on": "#10151b",
}
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Picture:
    """An SVG in the making. Lengths are in pixels of its own size; colours are names of the palettes above."""

    def __init__(self, name: str, width: int, height: int, says: str) -> None:
        self.name = name
        self.width = width
        self.height = height
        self.says = says
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, *, fill: str = "none", stroke: str = "none", r: float = 5
    ) -> None:
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{r:g}" {_paint(fill, stroke)}/>')

    def line(self, *points: tuple[float, float], stroke: str = "line", arrow: bool = False, dashes: str = "") -> None:
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        end = f' marker-end="url(#{self.name}-{stroke})"' if arrow else ""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<path d="{path}" {_paint("none", stroke)} stroke-width="1.6"{dashed}{end}/>')

    def curve(self, path: str, stroke: str = "line") -> None:
        end = f' marker-end="url(#{self.name}-{stroke})"'
        self.parts.append(f'<path d="{path}" {_paint("none", stroke)} stroke-width="1.6"{end}/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 14,
        fill: str = "ink",
        at: str = "start",
        mono: bool = False,
        bold: bool = False,
    ) -> None:
        style = f'class="{"m" if mono else "s"}" font-size="{size:g}" text-anchor="{at}"'
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" {style}{weight} style="fill:var(--{fill})" xml:space="preserve">'
            f"{escape(words, quote=False)}</text>"
        )

    def title(self, x: float, y: float, words: str, more: str) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="s" font-size="15" font-weight="600" style="fill:var(--ink)">{words}'
            f'<tspan dx="12" font-size="14" font-weight="400" style="fill:var(--soft)">{more}</tspan></text>'
        )

    def svg(self) -> str:
        scope = f"svg.{self.name}"
        rules = [
            f"{scope}{{{_variables(LIGHT)}}}",
            f"@media (prefers-color-scheme:dark){{{scope}{{{_variables(DARK)}}}}}",
            f'body[data-theme="light"] {scope}{{{_variables(LIGHT)}}}',
            f'body[data-theme="dark"] {scope}{{{_variables(DARK)}}}',
            f"{scope} .s{{font-family:{SANS}}}",
            f"{scope} .m{{font-family:{MONO}}}",
        ]
        heads = [
            f'<marker id="{self.name}-{colour}" viewBox="0 0 8 8" refX="6.5" refY="4" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0,0.6 L7,4 L0,7.4 z" style="fill:var(--{colour})"/></marker>'
            for colour in ("line", "soft", "blue", "amber", "green")
            if any(f"url(#{self.name}-{colour})" in part for part in self.parts)
        ]
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="{self.name}" {size} role="img"',
                f' aria-label="{escape(self.says)}">',
                "<style>",
                *rules,
                "</style>",
                f"<defs>{''.join(heads)}</defs>",
                *self.parts,
                "</svg>\n",
            ]
        )


def _variables(palette: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in palette.items())


def _paint(fill: str, stroke: str) -> str:
    fill = "none" if fill == "none" else f"var(--{fill})"
    stroke = "none" if stroke == "none" else f"var(--{stroke})"
    return f'style="fill:{fill};stroke:{stroke}"'


def why() -> Picture:
    """The same functions in a loop, and with an executor."""
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
    """What a call passes through."""
    p = Picture(
        "way",
        860,
        420,
        "A call goes from the user's thread, which looks for futures among the arguments and pickles them, to the"
        " dispatcher, which writes the bytes into the ring of the worker with the shortest line. The worker unpickles"
        " and runs it, and the result comes back through a second ring to the future, where it is unpickled.",
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
    step(a, 110, "wait for futures in args", "by callback: nobody polls", "blue")
    p.line((a + 114, 158), (a + 114, 175), stroke="blue", arrow=True)
    step(a, 178, "to bytes", "large arrays beside the pickle", "blue")
    p.line((a + 228, 202), (a + 257, 202), (a + 257, 71), (b - 3, 71), stroke="blue", arrow=True)

    step(b, 52, "waiting calls", "", "blue", h=38)
    p.line((b + 114, 90), (b + 114, 107), stroke="blue", arrow=True)
    step(b, 110, "the shortest line", "supplied ahead; can be taken back", "blue")
    p.line((b + 114, 158), (b + 114, 175), stroke="blue", arrow=True)
    _ring(p, b, 178, "ring of calls", "blue")
    p.line((b + 228, 202), (b + 257, 202), (b + 257, 95), (c - 3, 95), stroke="blue", arrow=True)

    step(c, 71, "from bytes", "a function travels once", "blue")
    p.line((c + 114, 119), (c + 114, 154), stroke="blue", arrow=True)
    step(c, 157.5, "fn(*args)", "runs, on every rank", "amber", mono=True)
    p.line((c + 114, 205.5), (c + 114, 241), stroke="green", arrow=True)
    step(c, 244, "to bytes", "a result, or an exception", "green")

    p.line((c, 268), (b + 231, 268), stroke="green", arrow=True)
    _ring(p, b, 244, "ring of results", "green")
    p.line((b + 114, 292), (b + 114, 315), stroke="green", arrow=True)
    step(b, 318, "bytes set on the future", "", "green", h=38)
    p.line((b, 337), (a + 231, 337), stroke="green", arrow=True)
    step(a, 313, "future.result()", "unpickled where somebody looks", "green", mono=True)
    return p


def _ring(p: Picture, x: float, y: float, title: str, colour: str) -> None:
    p.box(x, y, 228, 48, fill="face", stroke=colour, r=6)
    cells, size = 12, 13.0
    start = x + 114 - cells * size / 2
    filled = range(3, 8)
    for i in range(cells):
        p.box(start + i * size, y + 26, size - 2, 12, fill=colour if i in filled else "line", r=2)
    p.text(x + 114, y + 18, f"{title}, in shared memory", at="middle", size=12.5)


def rooms() -> Picture:
    """What imports what."""
    p = Picture(
        "rooms",
        860,
        448,
        "The rooms of the source, floor above floor. In the master: executor; backends, engine and mapping; pool;"
        " spawners and links; the dispatcher; the ring. In each worker: the worker's programs over serialization and the"
        " ring. Below both lies the C core. A room imports only from floors below it.",
    )
    p.box(10, 34, 552, 318, fill="panel", r=8)
    p.text(286, 24, "in the master", at="middle", size=14, bold=True)
    p.box(580, 34, 270, 318, fill="panel", r=8)
    p.text(715, 24, "in each worker", at="middle", size=14, bold=True)

    def room(x: float, y: float, w: float, name: str, does: str, colour: str = "blue") -> None:
        p.box(x, y, w, 46, fill="face", stroke=colour, r=6)
        p.text(x + w / 2, y + 20, name, at="middle", size=13, mono=True)
        p.text(x + w / 2, y + 37, does, at="middle", size=11.5, fill="soft")

    room(26, 48, 520, "executor", "the public face: checks what it is asked for")
    room(26, 100, 166, "backends", "where workers run")
    room(203, 100, 166, "engine", "the way of one call")
    room(380, 100, 166, "mapping", "batches for map()")
    room(26, 152, 520, "pool/", "the lives of workers: start, greet, replace, end")
    room(26, 204, 254, "spawners/", "start processes: local, mpiexec, srun, flux")
    room(292, 204, 254, "links/", "shm on one host, tcp between hosts")
    room(26, 256, 166, "_dispatch", "calls to workers", "amber")
    room(203, 256, 166, "dependencies", "futures as arguments")
    room(380, 256, 166, "functions", "travel once?")

    room(596, 48, 238, "worker/", "programs that serve calls")
    room(596, 100, 238, "worker/mpi", "the ranks of one worker, in step")
    room(596, 152, 238, "worker/template", "forks a process for each call")
    room(596, 204, 238, "links/control_worker", "proves who it is, gets the rings")

    p.box(26, 308, 808, 36, fill="face", stroke="line", r=6)
    p.text(430, 331, "serialization     resources     errors     _ring", at="middle", size=13, mono=True)

    p.box(10, 364, 840, 46, fill="face", stroke="amber", r=8)
    p.text(430, 384, "csrc/", at="middle", size=13.5, mono=True)
    p.text(
        430,
        401,
        "ring, doorbell, channel, shared memory, watchdog: C11 that knows nothing of Python",
        at="middle",
        size=12,
        fill="soft",
    )
    p.text(430, 436, "a room imports only from the floors below it", at="middle", size=13, fill="soft")
    return p


PICTURES: tuple[Callable[[], Picture], ...] = (why, way, rooms)

if __name__ == "__main__":
    for make in PICTURES:
        picture = make()
        path = Path(__file__).with_name(f"{picture.name}.svg")
        path.write_text(picture.svg(), encoding="utf-8")
        print(path)

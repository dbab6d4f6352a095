"""Draw the rooms of the source, floor above floor, from what the files import.

    pympipool/**/*.py    --copied------------------>  a folder of  --grimp-->  imports between rooms --+
    pympipool/**/*.pyx   --lines with an import---->  Python files                                     +--> picture
    pyproject.toml       --the `layers` contract------------------------------>  floors ---------------+

grimp is the library under import-linter, so the picture and `make lint` agree on what an import is. Both leave out the
imports that only type checkers see. import-linter sees no imports of compiled modules, so that drawing fails where one
of these goes up.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import grimp
from svg import Picture

ROOT = Path(__file__).parents[2]
PACKAGE = "pympipool"

COMPILED_IMPORT = re.compile(r"^ *(?:from +(pympipool[\w.]*) +c?import|c?import +(pympipool[\w.]*))", re.MULTILINE)
"""An import of one of our modules in a .pyx or .pxd file."""

Imports = dict[str, set[str]]
"""For each room, the rooms that it imports."""


def floors() -> list[list[str]]:
    """Return the rooms of each floor, from the top down, as the contract in pyproject.toml declares them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = \[$(.*?)^\]$", text, re.MULTILINE | re.DOTALL)
    return [floor.split(" | ") for floor in re.findall(r'"(.+?)"', layers)]


def imports_between_rooms() -> Imports:
    """Return which room imports which. A room is a direct child of the package: a sub-package or a module."""
    with tempfile.TemporaryDirectory() as folder:
        _copy_as_python(ROOT / PACKAGE, Path(folder, PACKAGE))
        sys.path.insert(0, folder)
        try:
            graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
        finally:
            sys.path.remove(folder)
    found: Imports = {room: set() for floor in floors() for room in floor}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            start, end = _room(importer), _room(imported)
            if start and end and start != end:
                found.setdefault(start, set()).add(end)
    return found


def _copy_as_python(source: Path, target: Path) -> None:
    """Copy the package, with a Python file for each compiled module that has only its imports."""
    shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if not _is_read(name)])
    for stem in sorted({path.with_suffix("") for path in source.rglob("*.pyx")}):
        files = [stem.with_suffix(suffix) for suffix in (".pxd", ".pyx")]
        text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.exists())
        modules = sorted({first or second for first, second in COMPILED_IMPORT.findall(text)})
        copy = target / stem.relative_to(source).with_suffix(".py")
        copy.write_text("".join(f"import {module}\n" for module in modules), encoding="utf-8")


def _is_read(name: str) -> bool:
    return name.endswith(".py") or ("." not in name and name != "__pycache__")


def _room(module: str) -> str:
    """Return the room that a module lies in, "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def _folders(room: str) -> list[str]:
    """Return the names of a room's own sub-packages."""
    return sorted(path.parent.name for path in (ROOT / PACKAGE / room).glob("*/__init__.py"))


def _check_floors(house: list[list[str]], imports: Imports) -> None:
    """Raise a ValueError if a room imports from its own floor or from above, compiled modules included."""
    floor_of = {room: number for number, floor in enumerate(house) for room in floor}
    for room, imported in imports.items():
        for other in imported:
            if room not in floor_of or floor_of[other] <= floor_of[room]:
                raise ValueError(f"{room} imports {other}, which is on no lower floor: see `layers` in pyproject.toml")


def _reachable(imports: Imports, start: str) -> set[str]:
    """Return a room and all rooms that it imports, directly or not."""
    found, todo = {start}, [start]
    while todo:
        new = imports[todo.pop()] - found
        found |= new
        todo += new
    return found


WIDTH, MARGIN, GAP = 860, 10, 10
NAME_SIZE, LIST_SIZE = 13.0, 11.0
CHARACTER = 0.61 * LIST_SIZE
"""Width of a character in the lists, whose font is monospaced."""
LINE = 15


def _wrap(names: list[str], width: float) -> list[str]:
    """Break a list of names into lines of at most this width in pixels."""
    lines: list[str] = []
    for name in names:
        longer = f"{lines[-1]} {name}" if lines else name
        if lines and len(longer) * CHARACTER <= width:
            lines[-1] = longer
        else:
            lines.append(name)
    return lines


def rooms() -> Picture:
    """Draw each room with the rooms that it imports, on its floor."""
    house, imports = floors(), imports_between_rooms()
    order = [room for floor in house for room in floor]
    in_workers = _reachable(imports, "worker")
    _check_floors(house, imports)
    picture = Picture(PICTURE, WIDTH, 0, _label(house))
    y = 14.0
    for floor in house:
        width = (WIDTH - 2 * MARGIN - (len(floor) - 1) * GAP) / len(floor)
        texts = [_wrap(sorted(imports[room], key=order.index), width - 20) for room in floor]
        below = [_wrap([f"{folder}/" for folder in _folders(room)], width - 20) for room in floor]
        height = 32 + LINE * max(len(a) + len(b) for a, b in zip(below, texts, strict=True))
        for i, room in enumerate(floor):
            x = MARGIN + i * (width + GAP)
            colour = "green" if room in in_workers else "blue"
            picture.box(x, y, width, height, fill="face", stroke=colour, r=6)
            is_package = (ROOT / PACKAGE / room).is_dir()
            picture.text(x + 10, y + 20, f"{room}/" if is_package else room, size=NAME_SIZE, mono=True, bold=True)
            for number, line in enumerate(below[i] + texts[i]):
                fill = colour if number < len(below[i]) else "soft"
                picture.text(x + 10, y + 37 + LINE * number, line, size=LIST_SIZE, fill=fill, mono=True)
        y += height + GAP
    picture.box(MARGIN, y, WIDTH - 2 * MARGIN, 32, fill="face", stroke="amber", r=6)
    picture.text(MARGIN + 10, y + 20, "csrc/", size=NAME_SIZE, mono=True, bold=True)
    picture.text(MARGIN + 64, y + 20, "C11 that knows nothing of Python; _core/ wraps it", size=12, fill="soft")
    y += 32 + 24
    for x, colour, meaning in ((MARGIN, "green", "workers import it too"), (200, "blue", "only the master imports it")):
        picture.box(x, y - 11, 14, 14, fill="face", stroke=colour, r=3)
        picture.text(x + 22, y, meaning, size=12.5, fill="soft")
    picture.text(
        WIDTH - MARGIN, y, "under each name: its folders, then what it imports", size=12.5, fill="soft", at="end"
    )
    picture.height = round(y + 16)
    return picture


PICTURE = "rooms"


def _label(house: list[list[str]]) -> str:
    """Return the picture in words, for readers who cannot see it."""
    listed = "; ".join(", ".join(floor) for floor in house)
    return (
        f"The rooms of the source, floor above floor. A room imports only from floors below it. From the top: {listed}."
    )

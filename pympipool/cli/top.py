"""`pympipool top`: show what the executors of running scripts do, again and again.

`pympipool.diagnostics.live` finds the scripts and asks them; this module draws tables of their answers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import select
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pympipool._util.formatting import format_count, format_memory, format_seconds, format_two_digits
from pympipool._util.platform import IS_WINDOWS
from pympipool.diagnostics.live.report import script_title
from pympipool.diagnostics.live.scripts import Script, find_scripts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

HELP = "show what the executors of your running scripts do"

NOBODY = "No script of yours runs an executor on this host."

ROWS_MIN = 5
"""Workers of an executor that are listed at least, however small the terminal is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool top`."""
    parser.add_argument("pid", nargs="?", type=int, help="only the script with this process id; default: all of yours")
    parser.add_argument("--once", action="store_true", help="print the tables once, and end")
    parser.add_argument("--json", action="store_true", help="for programs: print the status once, as JSON")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="time between two looks (1)")


def run(options: argparse.Namespace) -> int:
    """Show the scripts until q or Ctrl-C is pressed. Return 1 if one is asked for that does not answer."""
    if IS_WINDOWS:
        print(
            "pympipool top asks scripts over Unix sockets, which Windows does not have: print repr(executor)",
            file=sys.stderr,
        )
        return 2
    if options.json:
        scripts = find_scripts(options.pid)
        print(json.dumps([dataclasses.asdict(script) for script in scripts], indent=2))
        return _code(scripts, options.pid)
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        print("pympipool top needs rich: pip install rich", file=sys.stderr)
        return 2
    console = Console()
    if options.once or not console.is_terminal:
        scripts = find_scripts(options.pid)
        console.print(_draw(scripts, options.pid, console))
        return _code(scripts, options.pid)
    with _unbuffered_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_draw(find_scripts(options.pid), options.pid, console), refresh=True)
            if _is_pressed("q", max(options.interval, 0.1)):
                return 0


def _code(scripts: list[Script], pid: int | None) -> int:
    return 1 if pid is not None and not scripts else 0


@contextlib.contextmanager
def _unbuffered_keys() -> Iterator[None]:
    """Have each key read at once, if the input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_pressed(key: str, seconds: float) -> bool:
    """Wait for a key, at most so long; return True if it is this one."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) and sys.stdin.read(1) in (key, "")


# ---- drawing ----


def _draw(scripts: list[Script], pid: int | None, console: Console) -> RenderableType:
    from rich.console import Group

    if not scripts:
        return NOBODY if pid is None else f"Process {pid} runs no executor of yours on this host, or is stopped."
    executors = sum(len(script.executors) for script in scripts)
    rows = max(ROWS_MIN, (console.height - 3 * len(scripts)) // executors - 5)
    return Group(*(part for script in scripts for part in _script(script, rows, console.width)))


def _script(script: Script, rows: int, terminal_width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    title = Text(script_title(script.name), style="bold")
    yield title.append(f"  process {script.pid}", style="dim")
    for status in script.executors:
        yield _counts(status)
        if status["workers"]:
            yield _workers(status["workers"][:rows], terminal_width)
        if status["worker_count"] > rows:
            yield Text(f"  and {format_count(status['worker_count'] - rows, 'other worker')}", style="dim")
    yield ""


def _counts(status: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    made, calls = status["executor"], status["calls"]
    kind = "block allocation" if made["block_allocation"] else "one process per call"
    cores = f" of {made['cores_per_worker']} cores" if made["cores_per_worker"] > 1 else ""
    line = Text(f"  backend {made['backend']}, {kind}, at most {format_count(made['max_workers'], 'worker')}{cores}: ")
    for name, style in (("running", "blue"), ("waiting", ""), ("done", "green"), ("failed", "red")):
        line.append(f"{calls[name]} {name}", style=style if calls[name] else "dim").append(", ")
    line.append(f"{format_two_digits(calls['calls_per_s'])} calls/s")
    if status.get("cache"):  # a script with another version may not tell it
        line.append(f"; cache: {status['cache']['found']} found, {status['cache']['missing']} missing")
    if status["shared"]:
        line.append(f"; {status['shared']}")
    return line if made["state"] == "open" else line.append(f" ({made['state']})", style="dim")


class Column(NamedTuple):
    """A column of the table of workers.

    Attributes:
        terminal_width: Width of a terminal from which on the column is shown.
        text: Returns its content for a worker.
    """

    name: str
    justify: Literal["left", "right"]
    terminal_width: int
    text: Callable[[dict[str, Any]], str]


COLUMNS = (
    Column("worker", "right", 72, lambda worker: str(worker["number"])),
    Column("host", "left", 0, lambda worker: ", ".join(worker["hosts"])),
    Column("pid", "right", 80, lambda worker: str(worker["pid"] or "")),
    Column("ranks", "right", 88, lambda worker: str(worker["ranks"])),
    Column("calls", "right", 64, lambda worker: str(worker["calls"])),
    Column("memory", "right", 0, lambda worker: _memory(worker["memory_bytes"])),
    Column("state", "left", 56, lambda worker: worker["state"]),
    Column("function", "left", 0, lambda worker: worker["function"] or ""),
    Column("for", "right", 0, lambda worker: format_seconds(worker["seconds"]) if worker["function"] else ""),
)


def _workers(workers: list[dict[str, Any]], terminal_width: int) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim")
    columns = [column for column in COLUMNS if column.terminal_width <= terminal_width]
    for column in columns:  # only names of functions are shortened
        is_fixed = column.name != "function"
        table.add_column(column.name, justify=column.justify, no_wrap=is_fixed, overflow="ellipsis")
    for worker in workers:
        table.add_row(*(column.text(worker) for column in columns))
    return table


def _memory(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_memory(size_bytes)

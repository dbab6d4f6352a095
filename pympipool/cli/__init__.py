"""What `pympipool` does in a terminal: one module for each command, imported only when it is asked for.

    pympipool WORDS  ->  main()  ->  the module of that command: add_arguments(parser), run(options) -> exit code

To add a command: a module here with `HELP`, `add_arguments` and `run` (see `Command`), and its name in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from pympipool import __version__
from pympipool.cli.encoding import use_ascii_fallback

__all__ = ["COMMANDS", "Command", "main"]

COMMANDS = ("info", "check", "bench", "trace")
"""The commands, in the order of their help; each a module of this package."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class Command(Protocol):
    """What the module of a command has.

    Attributes:
        HELP: One line that says what the command does.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command."""

    def run(self, options: argparse.Namespace) -> int:
        """Does it; the exit code of the program: 0 when all is well."""


def main(words: Sequence[str] | None = None) -> int:
    """The program `pympipool`.

    Args:
        words: Its arguments; default: those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong (code 2), or ask for help or the version (code 0).
    """
    words = sys.argv[1:] if words is None else words
    parser = _parser(words)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else nobody reads it, or who does takes any character
            use_ascii_fallback(stream)
    try:
        code: int = options.run(options)
        if sys.stdout is not None:  # as after `pympipool info >&-`
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough, as in `pympipool info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush complains
        return 1
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of one command if the first word names it; of all, for their help, otherwise."""
    parser = argparse.ArgumentParser("pympipool", description="Up-scale Python functions, serial or MPI-parallel.")
    parser.add_argument("--version", action="version", version=f"pympipool {__version__}")
    choices = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in [words[0]] if words and words[0] in COMMANDS else COMMANDS:
        command = cast(Command, import_module(f"{__name__}.{name}"))
        its_own = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(its_own)
        its_own.set_defaults(run=command.run)
    return parser

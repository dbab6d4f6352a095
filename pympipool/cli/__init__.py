"""The program `pympipool`: one module for each command, imported only when the command is called.

    pympipool ARGUMENTS  ->  main()  ->  the module of that command: add_arguments(parser), run(options) -> exit code

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
from pympipool._util.reprs import did_you_mean
from pympipool._util.uncompiled import why_uncompiled
from pympipool.cli.encoding import use_ascii_fallback

__all__ = ["COMMANDS", "Command", "main"]

COMMANDS = ("info", "check", "bench", "top", "trace", "cache", "jobs", "join")
"""Commands in the order of the help; each is a module of this package."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""


class Command(Protocol):
    """The interface of a command's module.

    Attributes:
        HELP: One line that describes the command.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the command."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command. Return the exit code of the program: 0 for success."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program `pympipool`.

    Args:
        arguments: Its command-line arguments; default: those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments are wrong (code 2), or request the help or the version (code 0).
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except ImportError as error:
        problem = why_uncompiled(error)
        if not problem:
            raise
        print(f"pympipool: {problem}", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str]) -> int:
    parser = _parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        meant = did_you_mean(arguments[0], COMMANDS) or f"; there are: {', '.join(COMMANDS)}"
        parser.error(f"there is no command {arguments[0]!r}{meant}")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # other streams are closed, or take any character
            use_ascii_fallback(stream)
    try:
        code: int = options.run(options)
        if sys.stdout is not None:  # it is None after `pympipool info >&-`
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as in `pympipool info | head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the interpreter's own flush would print an error
        return 1
    return code


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of one command if the first argument names it, otherwise of all commands, for their help."""
    parser = argparse.ArgumentParser("pympipool", description="Up-scale Python functions, serial or MPI-parallel.")
    parser.add_argument("--version", action="version", version=f"pympipool {__version__}")
    choices = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in [arguments[0]] if arguments and arguments[0] in COMMANDS else COMMANDS:
        command = cast(Command, import_module(f"{__name__}.{name}"))
        subparser = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser

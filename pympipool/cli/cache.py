"""`pympipool cache`: look at the results in a cache directory, check them, and remove old ones."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import sqlite3
import sys
from collections.abc import Callable
from time import localtime, strftime, time
from typing import TYPE_CHECKING, Any

from pympipool._util.formatting import format_bytes, format_count, format_duration
from pympipool._util.reprs import safe_repr, summarize_error

if TYPE_CHECKING:
    from pympipool.caching.index import Row
    from pympipool.caching.store import Store

HELP = "list, check, remove or export the results that an Executor has kept on disk"

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool cache`."""
    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "-d", "--directory", default="cache", help="the cache_directory of the Executor (default: %(default)s)"
    )
    choices = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, action: Callable[[Store, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = choices.add_parser(name, help=text, description=text, parents=[directory])
        made.set_defaults(action=action)
        return made

    listed = add("list", _list, "list all results, the oldest first")
    listed.add_argument("--json", action="store_true", help="for programs: an object in each line")
    shown = add("show", _show, "show one result")
    shown.add_argument("key", help="its key, or the first digits of it, or the cache_key of the call")
    add("verify", _verify, "read all results in full, and remove those that are damaged")
    pruned = add("prune", _prune, "remove old results")
    pruned.add_argument(
        "--older", required=True, type=_age, metavar="AGE", help="remove those older than this: 30d, 12h"
    )
    exported = add("export", _export, "write each result as a pickle that needs no pympipool, with a list of them")
    exported.add_argument("folder", help="where to; it is made")


def run(options: argparse.Namespace) -> int:
    """Do what was asked for. Return 1 if that failed, or results are damaged, otherwise 0."""
    from pympipool.caching.reading import opened

    try:
        with opened(options.directory) as store:
            code: int = options.action(store, options)
            return code
    except (OSError, ValueError) as error:
        print(f"pympipool cache: {error}", file=sys.stderr)
        return FAILED


def _age(text: str) -> int:
    """Return an age in seconds."""
    match = re.fullmatch(r"(\d+)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write a number and one of s, m, h, d, w, such as 30d")
    return int(match[1]) * UNITS_S[match[2]]


def _list(store: Store, options: argparse.Namespace) -> int:
    count = size_bytes = 0
    for row in store.index.rows():
        count, size_bytes = count + 1, size_bytes + row.size
        print(json.dumps(_as_data(row)) if options.json else _line(row))
    if not options.json:
        print(f"{format_count(count, 'result')}, {format_bytes(size_bytes)}")
    return 0


def _line(row: Row) -> str:
    written = strftime("%Y-%m-%d %H:%M", localtime(row.created))
    sizes = f"{format_duration(row.run_ns):>9} {format_bytes(row.size):>8}"
    return f"{row.key.hex()[:12]}  {written} {sizes}  {row.function}({row.arguments})"


def _as_data(row: Row) -> dict[str, Any]:
    data = {
        name: value for name, value in row._asdict().items() if name in {"function", "arguments", "created", "run_ns"}
    }
    return {"key": row.key.hex(), **data, "size_bytes": row.size}


def _show(store: Store, options: argparse.Namespace) -> int:
    from pympipool.caching.reading import find_row, read_result

    row = find_row(store, options.key)
    if row is None:
        print(f"pympipool cache: no result, or more than one, has the key {options.key!r}", file=sys.stderr)
        return FAILED
    for name, value in _as_data(row).items():
        print(f"{name:11} {value}")
    result = read_result(store, row)
    print(f"{'result':11} {summarize_error(result) if isinstance(result, Exception) else safe_repr(result)}")
    return 0


def _verify(store: Store, _options: argparse.Namespace) -> int:
    count, damaged = 0, 0
    for row, is_whole in store.verify():
        count += 1
        if not is_whole:
            damaged += 1
            print(f"damaged, removed: {_line(row)}")
    print(f"{format_count(count, 'result')}, {damaged} damaged")
    return FAILED if damaged else 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    before = time() - options.older
    old = [row for row in store.index.rows() if row.created < before]
    store.remove([row.key for row in old])
    store.remove_orphans()
    try:
        store.index.vacuum()
    except sqlite3.OperationalError as error:
        print(f"pympipool cache: the file of the index keeps its size: {error}", file=sys.stderr)
    print(f"{format_count(len(old), 'result')} removed, {format_bytes(sum(row.size for row in old))}")
    return 0


def _export(store: Store, options: argparse.Namespace) -> int:
    from pympipool.caching.reading import read_result

    os.makedirs(options.folder, exist_ok=True)
    written = 0
    with open(os.path.join(options.folder, "calls.jsonl"), "w", encoding="utf-8") as calls:
        for row in store.index.rows():
            result = read_result(store, row)
            try:
                if isinstance(result, Exception):
                    raise result
                content = pickle.dumps(result, 5)
            except Exception as error:  # code of the user's classes may raise anything
                print(f"not exported: {_line(row)}: {summarize_error(error)}", file=sys.stderr)
                continue
            name = f"{row.key.hex()}.pickle"
            with open(os.path.join(options.folder, name), "wb") as file:
                file.write(content)
            print(json.dumps({**_as_data(row), "file": name}), file=calls)
            written += 1
    print(f"{format_count(written, 'result')} exported to {options.folder}")
    return 0

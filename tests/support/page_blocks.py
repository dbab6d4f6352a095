"""The blocks of code in README.md and docs/, as scripts.

    ```python        a script of its own: run by plain Python in a fresh process, in an empty folder
    ```output        what the script before it prints; "..." stands for anything
    ```pycon         a session, checked line by line
    {code-cell}      all of a page together are one script: the notebook
    ```sh            shell: see `test_shell_blocks.py`

A comment before a block names requirements that not every machine has: `<!-- needs: dask -->`. The requirements
slurm, flux and mpi follow from the code of the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
NEEDS = re.compile(r"<!--\s*needs:\s*(.*?)\s*-->")
BY_ITSELF = {
    "slurm": re.compile(r"""backend=["']slurm["']|PySlurmExecutor"""),
    "flux": re.compile(r"""backend=["']flux["']|PyFluxExecutor|^\s*(?:import|from) flux""", re.MULTILINE),
    "mpi": re.compile(r"^\s*(?:import|from) mpi4py", re.MULTILINE),
}


@dataclass
class Block:
    """A fenced block of a page. For a script, `output` is the expected output and `needs` its requirements."""

    page: Path
    line: int
    language: str
    text: str
    output: str | None = None
    needs: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    built = ROOT / "docs" / "_build"
    found = [page for page in (ROOT / "docs").rglob("*.md") if built not in page.parents]
    return [ROOT / "README.md", *sorted(found)]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page. The cells of a notebook are one block; an output belongs to the script before it."""
    found: list[Block] = []
    for block in _fences(page):
        if block.language == "output":
            assert found[-1:], f"{block.name}: the output of what?"
            assert found[-1].language == "python", f"{block.name}: the output of what?"
            found[-1].output = (found[-1].output or "") + block.text
        elif block.language == "{code-cell}" and found and found[-1].language == "{code-cell}":
            found[-1].text += f"\n{block.text}"
        else:
            found.append(block)
    for block in found:
        block.needs |= {name for name, sign in BY_ITSELF.items() if sign.search(block.text)}
    return found


def _fences(page: Path) -> Iterator[Block]:
    needs: set[str] = set()
    text = page.read_text(encoding="utf-8")
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            needs = {name for said in NEEDS.findall(token.content) for name in re.split(r"[,\s]+", said)}
        elif token.type == "fence":
            language = token.info.split()[0] if token.info.strip() else ""
            yield Block(page, token.map[0] + 1, language, _without_options(token.content, language), needs=needs)
            needs = set()


def _without_options(text: str, language: str) -> str:
    """Remove the lines with a colon at the beginning of a cell, which are options of its display."""
    if not language.startswith("{"):
        return text
    return re.sub(r"\A(?::.*\n)+", "", text)


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in pages() for block in blocks(page) if block.language in languages]

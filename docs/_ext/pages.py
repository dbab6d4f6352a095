"""Sphinx extension for the pages of this site.

The content of pictures is put into the page itself, so that they follow its light or dark theme. An <img> cannot do
that. Links to files outside of docs/ work if a reader opens the pages in the repository. On the site they lead to the
pages that show these files. Each page of docs/tutorials can also be downloaded as a notebook (.ipynb).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.core.read import read_myst_markdown_notebook
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

PAGES_OF_FILES = {
    "examples": "examples",
    "examples/slurm": "howto/submission-scripts",
    "examples/flux": "howto/submission-scripts",
    "CHANGES.md": "changes",
}

STARRED = re.compile(r"(?<![\w`*\\])(\*{1,2})(?=\w)")
"""The beginning of `*args` outside of code."""


class PicturesInPages(SphinxPostTransform):
    """Replace images whose SVG has light and dark colours by the content of the file.

    An image NAME-light.png is shown in the light theme, and NAME-dark.png in the dark one.
    """

    default_priority = 5
    formats = ("html",)

    def run(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.app.srcdir, image["uri"])
            svg = path.read_text(encoding="utf-8") if path.suffix == ".svg" and path.is_file() else ""
            if "data-theme" in svg:
                image.replace_self(nodes.raw("", f'<div class="picture">{svg}</div>', format="html"))
            if path.stem.endswith("-light"):
                self._add_dark(image)

    def _add_dark(self, image: nodes.image) -> None:
        dark = image.deepcopy()
        dark["uri"] = image["uri"].replace("-light.", "-dark.")
        dark["candidates"] = {"*": dark["uri"]}
        self.env.images.add_file(self.env.docname, dark["uri"])
        image["classes"].append("only-light")
        dark["classes"].append("only-dark")
        image.parent.insert(image.parent.index(image) + 1, dark)


def lead_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Change links that lead out of docs/: to the page that shows the target, or to plain text if there is none."""
    here = Path(app.srcdir, name).parent
    docs = Path(app.srcdir).resolve()

    def inside(link: re.Match[str]) -> str:
        target = Path(here, link[2].partition("#")[0]).resolve()
        if docs in target.parents:
            return link[0]
        page = PAGES_OF_FILES.get(str(target.relative_to(docs.parent)))
        return f"[{link[1]}]({'../' * name.count('/')}{page}.md)" if page else link[1]

    source[0] = re.sub(r"(?<!!)\[([^][]+)\]\(((?:\.\./)+[^)\s]*)\)", inside, source[0])


def show_examples(app: Sphinx, name: str, source: list[str]) -> None:
    """Show each program of examples/ on the page of examples, in the place of the list that leads to them."""
    if name != "examples":
        return
    source[0] = source[0].partition("\n- [")[0]
    programs = sorted(Path(app.srcdir, "../examples").glob("*.py"), key=lambda path: (path.stem != "quickstart", path))
    for path in programs:
        says = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        include = f"```{{literalinclude}} ../examples/{path.name}\n:language: python\n```"
        source[0] += f"\n## {path.name}\n\n{says}\n\n{include}\n"


def show_changes(_app: Sphinx, name: str, source: list[str]) -> None:
    """Put the list of changes in the place of the page that leads to it."""
    if name == "changes":
        source[0] = "```{include} ../CHANGES.md\n:relative-docs: docs/\n```\n"


def without_missing_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Remove pages that do not exist from the table of contents."""
    if name == "index":
        app.env.note_reread()  # the page may exist in the next build
        lines = source[0].split("\n")
        page = re.compile(r"(\w[\w-]*/)*\w[\w-]*$")
        source[0] = "\n".join(line for line in lines if not page.match(line) or Path(app.srcdir, f"{line}.md").exists())


def keep_stars(_app: Sphinx, _what: str, _name: str, _it: object, _options: object, lines: list[str]) -> None:
    """Escape the stars of `*args` in docstrings, which would begin emphasis."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = STARRED.sub(r"\\\1", line).replace("\\**", "\\*\\*")


def offer_notebook(_app: Sphinx, name: str, _template: str, context: dict[str, Any], _tree: object) -> None:
    """Add a link to the notebook at the end of a tutorial."""
    if name.startswith("tutorials/"):
        file = f"{name.rpartition('/')[2]}.ipynb"
        context["body"] += f'<p><a class="notebook" href="{file}" download>This page as a notebook: {file}</a></p>'


def write_notebooks(app: Sphinx, problem: Exception | None) -> None:
    """Write each tutorial as a notebook without results, beside its page."""
    if problem is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.srcdir, "tutorials").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "{code-cell}" in text:
            notebook = read_myst_markdown_notebook(text, config=None, path=page)
            nbformat.write(notebook, Path(app.outdir, "tutorials", page.with_suffix(".ipynb").name))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register everything with Sphinx."""
    app.add_post_transform(PicturesInPages)
    app.connect("source-read", lead_to_pages)
    app.connect("source-read", without_missing_pages)
    app.connect("source-read", show_examples)
    app.connect("source-read", show_changes)
    app.connect("autodoc-process-docstring", keep_stars, priority=400)  # before napoleon
    app.connect("html-page-context", offer_notebook)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

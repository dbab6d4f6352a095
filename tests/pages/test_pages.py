"""The files, commands and messages that pages name exist."""

import ast
import builtins
import concurrent.futures.process
import functools
import inspect
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import pympipool
from pympipool import errors
from pympipool.cli import COMMANDS
from support.page_blocks import ROOT, all_blocks, pages

READ = [*pages(), *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGES", "SECURITY", "CODE_OF_CONDUCT"))]


def links(page: Path) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or ()]
    targets = [str(child.attrs.get("href") or child.attrs.get("src") or "") for child in inline]
    return [target for target in targets if target and "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page):
    assert [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()] == []


def test_reference_lists_all_public_names():
    table = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert {name for name in pympipool.__all__ if f"`{name}`" not in table} == {"__version__"}


def test_page_of_examples_lists_all_of_them():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "examples").glob("*.py") if f"../examples/{path.name}" not in page} == set()


SHOWN = re.compile(r"\[([\w/]+\.\w+)\]\(\S+\):\n\n```\w+\n(.*?\n)```", re.DOTALL)


def test_submission_scripts_are_shown_as_they_are():
    shown = SHOWN.findall((ROOT / "docs" / "howto" / "submission-scripts.md").read_text(encoding="utf-8"))
    assert len(shown) >= 8
    assert [name for name, text in shown if (ROOT / "examples" / name).read_text(encoding="utf-8") != text] == []


def test_readme_has_the_table_of_the_benchmarks():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("benchmarks -->\n")[2].partition("<!--")[0]
    assert table.count("\n") > 5
    assert table in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), "python -m benchmarks --page"


def test_saved_pictures_are_shown_on_their_page():
    saved = [(block, name) for block in all_blocks("python") for name in re.findall(r'savefig\("(.+?)"\)', block.text)]
    assert len(saved) >= 7
    hidden = [name for block, name in saved if f"(../pictures/{name})" not in block.page.read_text(encoding="utf-8")]
    assert hidden == []


@pytest.mark.parametrize("block", all_blocks("py"), ids=lambda block: block.name)
def test_shown_code_has_parameters_that_exist(block):
    """Such code needs a cluster, or is a part of a file: it is not run."""
    parameters = inspect.signature(pympipool.Executor).parameters
    calls = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]
    used = [keyword.arg for call in calls if ast.unparse(call.func) == "Executor" for keyword in call.keywords]
    assert used or "Executor" not in block.text
    assert {*used} <= {*parameters}


def test_table_for_executorlib_is_complete():
    """It names all that executorlib has in public: functions, classes, their methods and parameters, and keys of resource_dict."""
    executorlib = pytest.importorskip("executorlib", reason="pip install executorlib")
    page = (ROOT / "docs" / "howto" / "from-executorlib.md").read_text(encoding="utf-8")
    things = [getattr(executorlib, name) for name in executorlib.__all__ if not name.startswith("_")]
    classes = [thing for thing in things if inspect.isclass(thing)]
    names = {thing.__name__ for thing in things}
    names |= {name for each in classes for name in vars(each) if not name.startswith("_")}
    names |= {name for each in classes for name in inspect.signature(each).parameters}
    names |= {name for each in classes for name in re.findall(r"^ +- (\w+)", each.__doc__ or "", re.MULTILINE)}
    assert len(names) > 35
    assert {name for name in names if name not in page} == set()


def test_first_lines_help_to_choose_the_executor():
    tops = [(ROOT / name).read_text(encoding="utf-8").splitlines()[:6] for name in ("README.md", "docs/index.md")]
    assert tops[0] == tops[1]
    assert tops[0][4].startswith("**Which executor?**")


def test_both_first_pages_have_one_program():
    first, second = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/index.md"))
    program = first.partition("```python\n")[2].partition("```\n")[0]
    assert "block_allocation=True" in program
    assert program in second


SEARCHED = (
    "retry cache checkpoint resume interrupt deadlock memory random reproducibility dashboard dataframe LAMMPS ASE VASP debug"
    " login_node partition account walltime timeout oversubscription threads actor seed pdb coverage MPI GPU"
)
"""What users look for, and must find on a page for users."""


@pytest.mark.parametrize("words", SEARCHED.split())
def test_search_finds_a_page_for_users(words):
    inside = ("decisions", "design.md", "benchmarks.md")
    texts = [page.read_text(encoding="utf-8") for page in pages() if not {page.name, page.parent.name} & {*inside}]
    wanted = re.compile(rf"\b{words.replace('_', ' ')}\b", re.IGNORECASE)
    assert any(wanted.search(text) for text in texts)


SHELL = "\n".join(block.text for block in all_blocks("sh", "shell", "bash"))


def test_targets_of_make_exist():
    wanted = set(re.findall(r"^\s*(?:\w+=\S+ )*make ([\w-]+)", SHELL, re.MULTILINE))
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= wanted <= rules


def test_commands_of_pympipool_exist():
    wanted = set(re.findall(r"^\s*pympipool (\w+)", SHELL, re.MULTILINE))
    assert {"info", "check"} <= wanted <= set(COMMANDS)


def test_extras_of_pip_exist():
    wanted = {name for extras in re.findall(r'"\.\[([\w,]+)\]"', SHELL) for name in extras.split(",")}
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert {"mpich", "mpi"} <= wanted <= set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))


def test_nothing_installs_this_package_from_an_index():
    """The index has another package of this name: such a command would replace this one."""
    sources = [path for ending in ("py", "pyx") for path in (ROOT / "pympipool").rglob(f"*.{ending}")]
    command = re.compile(r"pip install\b.*\bpympipool(?!-[\d.]+-)")
    found = [f"{p.name}: {line}" for p in [*READ, *sources] for line in command.findall(p.read_text(encoding="utf-8"))]
    assert found == []


# ---- messages of the troubleshooting page ----

QUOTED = [block for block in all_blocks("text") if block.page.name == "troubleshooting.md"]


@functools.cache
def templates() -> list[re.Pattern[str]]:
    """Return a pattern for each string of the source. It matches any text in place of a filled-in value."""
    texts: list[str] = []
    for path in (ROOT / "pympipool").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                texts.append(node.value)
    for path in (ROOT / "pympipool").rglob("*.pyx"):
        texts += re.findall(r'"([^"\n]{20,})"', path.read_text(encoding="utf-8"))
    pieces = [[piece for piece in text.split("\0") if piece.strip()] for text in texts if len(text) > 8]
    return [re.compile(".+?".join(f"({re.escape(' '.join(p.split()))})" for p in parts)) for parts in pieces if parts]


def words_not_in_the_source(message: str) -> list[str]:
    """Return the plain words of a message that are missing from the strings of the source that match it."""
    in_source = [False] * len(message)
    for template in templates():
        spans = [match.span(i + 1) for match in template.finditer(message) for i in range(template.groups)]
        for start, end in [*spans, _span_of_cut_end(template, message)]:
            if end - start > 3:
                in_source[start:end] = [True] * (end - start)
    words = re.finditer(r"(?<!\S)[(]?([a-z]+)[,.;:)]?(?!\S)", message)
    return [word[1] for word in words if not all(in_source[word.start(1) : word.end(1)])]


def _span_of_cut_end(template: re.Pattern[str], message: str) -> tuple[int, int]:
    """Return the span at the end of a message that is the beginning of a string: the message was cut there."""
    first = re.sub(r"\\(.)", r"\1", template.pattern[1:].partition(")")[0])
    start = message.rfind(first[:12])
    return (start, len(message)) if start >= 0 and first.startswith(message[start:]) else (0, 0)


ASSEMBLED = {
    str(error)
    for error in (
        errors.WorkerDied(worker=3, host="node1", pid=4711, exit_code=-11, function="solve"),
        errors.WorkerDied(worker=3, host="node1", pid=4711, exit_code=-9, function="solve"),
        errors.WorkerDied(worker=3, host="node1", pid=4711, exit_code=1, function="solve"),
        errors.WorkerDied(worker=9, host="node1", pid=4790, exit_code=-11, function="solve", has_begun=False),
        errors.RemoteError(
            "mylib.NoConvergence",
            "after 100 steps",
            "TypeError: NoConvergence.__init__() missing 1 required positional argument",
        ),
    )
}
"""Messages that the source assembles from many strings."""


@pytest.mark.parametrize("block", QUOTED, ids=lambda block: block.name)
def test_quoted_messages_exist_in_the_source(block):
    kind, _, message = block.text.strip().partition(": ")
    assert any(hasattr(module, kind) for module in (builtins, errors, concurrent.futures.process))
    if kind in ("WorkerDied", "RemoteError"):
        assert message in ASSEMBLED
    else:
        others = words_not_in_the_source(" ".join(message.split()))  # some words come from values
        assert len(others) <= min(4, len(message.split()) // 4), others

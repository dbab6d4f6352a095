"""Figures follow light and dark pages, and notebooks show them without any set-up."""

import re
from xml.etree import ElementTree

import pytest

from pympipool import Executor, trace

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")

from pympipool.diagnostics import figures


@pytest.fixture(scope="module")
def seen():
    with trace() as recorded, Executor(max_workers=1, block_allocation=True) as exe:
        exe.submit(pow, 2, 5).result()
    return recorded


def test_each_colour_has_a_dark_value(seen, tmp_path):
    seen.plot(tmp_path / "run.svg")
    svg = (tmp_path / "run.svg").read_text()
    ElementTree.fromstring(svg)
    style, _, drawn = svg.partition("</style>")
    assert not re.findall("#[0-9a-f]{6}", drawn)
    used = set(re.findall(r"var\(--c([0-9a-f]{6})\)", drawn))
    assert {"333333", "ffffff", "4477aa"} <= used
    for page in ("prefers-color-scheme:dark", 'data-theme="dark"', 'data-jp-theme-light="false"', "vscode-dark"):
        rule = style[style.index(page) :]
        assert all(f"--c{colour}:" in rule for colour in used)


def test_same_trace_gives_the_same_svg(seen):
    assert figures.as_svg(seen.plot()) == figures.as_svg(seen.plot())


def test_style_of_a_picture_concerns_no_other(seen):
    assert not re.search(r"[>}]\s*\*\s*\{", figures.as_svg(seen.plot()))


def test_other_formats_are_written_as_before(seen, tmp_path):
    seen.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_notebooks_show_large_pictures_as_bitmaps(seen, monkeypatch):
    assert "<svg" in seen.plot()._repr_html_()
    monkeypatch.setattr(figures, "INLINE_MAX", 100)
    html = seen.plot()._repr_html_()
    assert "<svg" not in html
    assert 'src="data:image/png;base64,iVBOR' in html

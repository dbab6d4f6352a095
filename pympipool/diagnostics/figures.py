"""Figures of matplotlib that follow a light or dark theme, and that notebooks show without any set-up.

    Figure ─► SVG of matplotlib ─► follow_theme: each colour becomes a variable with a value for light and one for dark

Import this module only where something is drawn: it needs matplotlib.
"""

from __future__ import annotations

import base64
import colorsys
import io
import os
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INLINE_MAX = 1_000_000
"""Characters of an SVG up to which a notebook keeps it. A larger picture becomes a bitmap."""

COLOUR = re.compile(r"#([0-9a-f]{6})\b")

LIGHT_PAGES = ('body[data-theme="light"]', 'body[data-jp-theme-light="true"]', "body.vscode-light")
DARK_PAGES = ('body[data-theme="dark"]', 'body[data-jp-theme-light="false"]', "body.vscode-dark")
"""Pages with a theme of their own: those of Sphinx's furo, JupyterLab and VS Code. Elsewhere the system's theme counts."""

PAGE_COLOUR = "var(--color-background-primary,var(--jp-layout-color0,var(--vscode-editor-background,transparent)))"
"""The colour of these pages."""

PAGE, INK = "ffffff", "000000"
"""White is the colour of the page, and black is what matplotlib leaves out."""


class ThemedFigure(Figure):
    """A figure whose SVG follows the theme."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        FigureCanvasAgg(self)

    def _repr_html_(self) -> str:
        """Return the picture for a notebook. On a narrow screen it scrolls."""
        svg = as_svg(self)
        if len(svg) > INLINE_MAX:
            file = io.BytesIO()
            self.savefig(file, format="png", facecolor="white")
            svg = f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
        return f'<div style="overflow-x: auto">{svg}</div>'


def save(figure: Figure, path: str | os.PathLike[str], **options: Any) -> None:
    """Save a figure to a file, in the format of its suffix. An SVG follows the theme.

    Raises:
        OSError: The file cannot be written.
        ValueError: matplotlib does not know the format.
    """
    if os.fspath(path).lower().endswith(".svg"):
        svg = as_svg(figure, **options)
        with open(path, "w", encoding="utf-8") as file:
            file.write(svg)
    else:
        figure.savefig(path, **options)


def as_svg(figure: Figure, **options: Any) -> str:
    """Return a figure as SVG that follows the theme. The same figure gives the same text."""
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pympipool"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, **options)
    return follow_theme(file.getvalue())


def follow_theme(svg: str) -> str:
    """Give each colour of an SVG that matplotlib has drawn a second value, for dark pages."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">\*\{', "<style>svg.pympipool-plot *{", svg)
    found = sorted({*COLOUR.findall(svg), PAGE, INK})
    svg = COLOUR.sub(r"var(--c\1)", svg)
    light = "".join(f"--c{colour}:#{colour};" for colour in found)
    dark = "".join(f"--c{colour}:{dark_colour(colour)};" for colour in found)
    own = "svg.pympipool-plot"
    rules = [
        f"{own}{{{light}fill:var(--c{INK});background:var(--c{PAGE})}}",
        f"@media (prefers-color-scheme:dark){{{own}{{{dark}}}}}",
        f"{_within(LIGHT_PAGES, own)}{{{light}--c{PAGE}:{PAGE_COLOUR}}}",
        f"{_within(DARK_PAGES, own)}{{{dark}--c{PAGE}:{PAGE_COLOUR}}}",
    ]
    return svg.replace("<svg ", '<svg class="pympipool-plot" ', 1).replace(
        ">", f">\n<style>{''.join(rules)}</style>", 1
    )


def _within(pages: tuple[str, ...], own: str) -> str:
    return ",".join(f"{page} {own}" for page in pages)


def dark_colour(colour: str) -> str:
    """Return what a colour for white pages becomes on dark ones: greys change places, the others are light enough to be seen.

    Examples:
        >>> dark_colour("ffffff"), dark_colour("333333"), dark_colour("228833")
        ('#191919', '#eaeaea', '#31c449')
    """
    red, green, blue = (int(colour[position : position + 2], 16) / 255 for position in (0, 2, 4))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    is_grey = saturation < 0.25 or lightness > 0.85
    lightness = 1 - 0.9 * lightness**1.5 if is_grey else max(lightness, 0.48)
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))

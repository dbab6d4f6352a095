"""Colours for light and for dark in pictures that matplotlib has drawn.

A picture is drawn with the colours of the light palette, and each of them becomes a variable that the theme sets.
"""

from __future__ import annotations

import re
from html import escape

from svg import DARK, LIGHT, SANS, theme_rules

STYLE = {
    "svg.hashsalt": "pympipool",  # the same picture gives the same file
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["soft"],
    "grid.color": LIGHT["panel"],
    "legend.frameon": False,
}
"""The parameters of matplotlib without the colours of lines, which `matplotlibrc` adds."""

WIDE = 600
"""Width in pixels from which a picture scrolls on a phone instead of becoming too small."""

LINES = ("blue", "amber", "green", "soft")
"""Names of the colours of lines, in their order."""


def matplotlibrc() -> str:
    """Return a file of parameters for the scripts that draw pictures of pages."""
    values = {name: value.lstrip("#") if isinstance(value, str) else value for name, value in STYLE.items()}
    colours = ", ".join(f"'{LIGHT[name][1:]}'" for name in LINES)
    lines = [*(f"{name}: {value}" for name, value in values.items()), f"axes.prop_cycle: cycler('color', [{colours}])"]
    return "\n".join(lines)


def themed(svg: str, name: str, label: str, light: dict[str, str] = LIGHT, dark: dict[str, str] = DARK) -> str:
    """Return a picture of matplotlib that follows the theme.

    Args:
        svg: The picture, drawn with the colours of the light palette.
        name: A name for its rules, which no other picture on its page has.
        label: What it shows, for readers who do not see it.
        light: The colours that the picture has, by name.
        dark: Their counterparts in the dark theme.
    """
    head, _, body = svg[svg.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) [\d.]+"', head)
    assert view is not None, "matplotlib writes a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"(font: (?:[\w-]+ )*?[\d.]+px) [^;\"]*", rf"\1 {SANS}", body)
    for colour, value in light.items():
        body = body.replace(f": {value}", f": var(--{colour})")
    left = set(re.findall(r": (#[0-9a-f]{6})", body))
    assert not left, f"{name}: {left} are in no palette"
    width = float(view[1]) * 4 / 3
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" class="{name} plot'
    size = f'{" wide" * (width > WIDE)}" {view[0]} width="{width:.0f}" role="img" aria-label="{escape(label)}">'
    return "\n".join([f"{opening}{size}", "<style>", *theme_rules(name, light, dark), "</style>", body.strip(), ""])

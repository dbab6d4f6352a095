"""Drawing tools for the pictures of this folder.

Each picture is one SVG with colours for light and for dark. Shown by itself, as on GitHub, it follows the reader's
system. Put into a page of the site by docs/_ext/pages.py, it follows the theme of the page.
"""

from __future__ import annotations

from html import escape

LIGHT = {
    "ink": "#1c2430",
    "soft": "#5b6675",
    "line": "#c3cad3",
    "panel": "#f4f6f8",
    "face": "#ffffff",
    "blue": "#2f6fb7",
    "amber": "#c66a12",
    "green": "#2b8a5b",
    "on": "#ffffff",
}
DARK = {
    "ink": "#e6eaf0",
    "soft": "#9aa6b5",
    "line": "#465160",
    "panel": "#1d232b",
    "face": "#262e38",
    "blue": "#6aa9ee",
    "amber": "#eca04f",
    "green": "#5cc08e",
    "on": "#10151b",
}
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Picture:
    """An SVG under construction. Lengths are in pixels; colours are names of the palettes above."""

    def __init__(self, name: str, width: int, height: int, label: str) -> None:
        self.name = name
        self.width = width
        self.height = height
        self.label = label
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, *, fill: str = "none", stroke: str = "none", r: float = 5
    ) -> None:
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{r:g}" {_paint(fill, stroke)}/>')

    def line(self, *points: tuple[float, float], stroke: str = "line", arrow: bool = False, dashes: str = "") -> None:
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        end = f' marker-end="url(#{self.name}-{stroke})"' if arrow else ""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<path d="{path}" {_paint("none", stroke)} stroke-width="1.6"{dashed}{end}/>')

    def curve(self, path: str, stroke: str = "line") -> None:
        end = f' marker-end="url(#{self.name}-{stroke})"'
        self.parts.append(f'<path d="{path}" {_paint("none", stroke)} stroke-width="1.6"{end}/>')

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: float = 14,
        fill: str = "ink",
        at: str = "start",
        mono: bool = False,
        bold: bool = False,
    ) -> None:
        style = f'class="{"m" if mono else "s"}" font-size="{size:g}" text-anchor="{at}"'
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" {style}{weight} style="fill:var(--{fill})" xml:space="preserve">'
            f"{escape(content, quote=False)}</text>"
        )

    def title(self, x: float, y: float, content: str, more: str) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="s" font-size="15" font-weight="600" style="fill:var(--ink)">{content}'
            f'<tspan dx="12" font-size="14" font-weight="400" style="fill:var(--soft)">{more}</tspan></text>'
        )

    def svg(self) -> str:
        scope = f"svg.{self.name}"
        rules = [
            f"{scope}{{{_variables(LIGHT)}}}",
            f"@media (prefers-color-scheme:dark){{{scope}{{{_variables(DARK)}}}}}",
            f'body[data-theme="light"] {scope}{{{_variables(LIGHT)}}}',
            f'body[data-theme="dark"] {scope}{{{_variables(DARK)}}}',
            f"{scope} .s{{font-family:{SANS}}}",
            f"{scope} .m{{font-family:{MONO}}}",
        ]
        heads = [
            f'<marker id="{self.name}-{colour}" viewBox="0 0 8 8" refX="6.5" refY="4" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0,0.6 L7,4 L0,7.4 z" style="fill:var(--{colour})"/></marker>'
            for colour in ("line", "soft", "blue", "amber", "green")
            if any(f"url(#{self.name}-{colour})" in part for part in self.parts)
        ]
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="{self.name}" {size} role="img"',
                f' aria-label="{escape(self.label)}">',
                "<style>",
                *rules,
                "</style>",
                f"<defs>{''.join(heads)}</defs>",
                *self.parts,
                "</svg>\n",
            ]
        )


def _variables(palette: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in palette.items())


def _paint(fill: str, stroke: str) -> str:
    fill = "none" if fill == "none" else f"var(--{fill})"
    stroke = "none" if stroke == "none" else f"var(--{stroke})"
    return f'style="fill:{fill};stroke:{stroke}"'

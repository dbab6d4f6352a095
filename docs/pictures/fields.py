"""Draw the pictures of the pages by field: `make pictures`.

A block of such a page that saves a picture is run as it is, with the colours of the other pictures. A block whose
packages are not installed is left out, and its committed picture stays.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from svg import LIGHT

from pympipool.diagnostics.figures import follow_theme

HERE = Path(__file__).parent
PICTURE = re.compile(r'```python\n((?:(?!```).)*?savefig\("([\w-]+)\.svg"\).*?)```.*?!\[([^]]+)\]', re.DOTALL)
"""A block that saves a picture, its name, and the text in place of the picture."""

STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', {[LIGHT[name][1:] for name in ('blue', 'amber', 'green', 'soft')]})",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pympipool",  # the same picture gives the same file
}
"""Parameters of matplotlib."""


def draw(block: str, name: str, label: str) -> None:
    """Run a block, and keep the picture that it saves."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "matplotlibrc")
        settings.write_text("\n".join(f"{name}: {value}" for name, value in STYLE.items()), encoding="utf-8")
        variables = {**os.environ, "MATPLOTLIBRC": str(settings), "MPLBACKEND": "svg"}
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=folder, env=variables, stderr=subprocess.PIPE, text=True, check=False
        )
        if "ModuleNotFoundError" in done.stderr:
            print(f"{name}.svg is left out: {done.stderr.splitlines()[-1]}")
            return
        if done.returncode:
            raise SystemExit(f"{name}.svg cannot be drawn:\n{done.stderr}")
        svg = Path(folder, f"{name}.svg").read_text(encoding="utf-8")
    head = f'class="pympipool-plot plot" role="img" aria-label="{escape(label)}"'
    svg = follow_theme(svg).replace('class="pympipool-plot"', head, 1)
    (HERE / f"{name}.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Draw the pictures of all pages, or of those whose names are given."""
    for page in sorted((HERE.parent / "fields").glob("*.md")):
        if len(sys.argv) == 1 or page.stem in sys.argv[1:]:
            for block, name, label in PICTURE.findall(page.read_text(encoding="utf-8")):
                draw(block, name, label)


if __name__ == "__main__":
    main()

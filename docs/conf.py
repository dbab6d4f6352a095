"""Configuration of Sphinx. `make docs` builds the site into docs/_build, without the network."""

import sys
from pathlib import Path

from jupyter_client.manager import KernelManager

import pympipool
import pympipool.errors.worker_died  # autodoc looks for what it defines, and so for its lazy definition

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "pympipool"
author = "The pympipool authors"
copyright = f"2026, {author}"  # noqa: A001  the name that Sphinx wants
version = release = pympipool.__version__
pympipool.errors.WorkerDied  # noqa: B018  defines it

extensions = [
    "myst_nb",  # Markdown, and notebooks that the build runs
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Google style docstrings
    "sphinx_copybutton",
    "pages",  # _ext/pages.py
]
exclude_patterns = ["_build", "_ext", "**/.ipynb_checkpoints"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks: each build runs them again, and fails if a cell fails.
nb_execution_mode = "force"
if "transport_encryption" in KernelManager.class_trait_names():  # without it newer kernels print a warning each
    KernelManager.transport_encryption.default_value = "auto"
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# The reference
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"  # docstrings have Markdown's single backticks

# HTML
html_theme = "furo"
html_title = "pympipool"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_ext" / "scorer.js")
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f5fa8",
        "color-brand-content": "#1f5fa8",
        "font-stack--monospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7db4f0",
        "color-brand-content": "#7db4f0",
    },
    "navigation_with_keys": True,
}
highlight_language = "none"  # for blocks without a language
pygments_style = "tango"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

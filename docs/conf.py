"""How the site is built: `sphinx-build -W -b html docs build/docs`. No network is needed."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "mmcompress"
author = "The mmcompress authors"
project_copyright = "The mmcompress authors"
version = release = version_of("mmcompress")

extensions = [
    "mathml",
    "recipes",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "first_lines",
    "sphinx_copybutton",
]
# Pages of `measured/` include what commands wrote into `results/`.
exclude_patterns = ["results/**", "**/_*.md"]

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
highlight_language = "bash"

# Docstrings quote code with one backtick.
default_role = "literal"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"mmcompress {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# A prompt is no part of what is copied.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

"""The first line of an attribute's docstring as it is written.

Napoleon reads what stands before a colon there as the attribute's type.
"""

from typing import Any

from sphinx.application import Sphinx

INLINE = ("attribute", "data", "property")
PLACE = "first line"

_kept: list[str] = []


def setup(app: Sphinx) -> dict[str, Any]:
    """Put something else in its place while Napoleon, whose priority is 500, reads the rest."""
    app.connect("autodoc-process-docstring", _take, priority=499)
    app.connect("autodoc-process-docstring", _give_back, priority=501)
    return {"parallel_read_safe": True}


def _take(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    _kept.clear()
    if what in INLINE and lines:
        _kept.append(lines[0])
        lines[0] = PLACE


def _give_back(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if _kept:
        lines[lines.index(PLACE)] = _kept.pop()

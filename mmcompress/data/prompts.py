"""Prompt templates for zero-shot classification."""

import logging
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from mmcompress.data.text import read_text

log = logging.getLogger(__name__)

ENSEMBLES = {
    "imagenet": OPENAI_IMAGENET_TEMPLATES,
    "imagenet_simple": SIMPLE_IMAGENET_TEMPLATES,
}
"""Those of open_clip: the 80 of CLIP (arXiv:2103.00020), and its 7 best together."""

NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
"""Of a CLIP_benchmark folder: one class name, one template with `{c}`, per line."""


def templates_of(given: str | Sequence[str]) -> list[str]:
    """Templates with one `{}` each.

    Args:
        given: the templates themselves, or the name of an ensemble.
    Raises:
        ValueError: no such ensemble, or a template without a place for the name.
    """
    if isinstance(given, str):
        if given not in ENSEMBLES:
            raise ValueError(
                f"data.templates={given!r} is no ensemble: choose one of {', '.join(ENSEMBLES)}, "
                "or give a list of templates with {} for the class name"
            )
        return [template("{}") for template in ENSEMBLES[given]]
    return [_checked(template) for template in given]


def names_of(given: Sequence[Any]) -> list[str]:
    """Class names of a configuration, where YAML reads `no` as false and `007` as 7.

    Raises:
        ValueError: no list, or one that holds something else than texts.
    """
    if isinstance(given, str):
        raise ValueError(f"data.class_names={given!r} must be a list of names")
    for name in given:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"data.class_names holds {name!r}, which is no name: put names in quotation marks"
            )
    return list(given)


def read_names(folder: Path) -> list[str]:
    """Class names of a CLIP_benchmark folder; none when it has no such file."""
    return _lines(folder / NAMES_FILE)


def read_templates(folder: Path) -> list[str]:
    """Templates of a CLIP_benchmark folder; the bare name when it has no such file."""
    file = folder / TEMPLATES_FILE
    lines = [line.replace("{c}", "{}") for line in _lines(file)]
    return [_checked(line, f"{file}: ") for line in lines] or ["{}"]


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    blank = [str(number) for number, line in enumerate(lines, start=1) if not line]
    if blank:
        log.warning("%s: left out line %s, which is empty", file, ", ".join(blank))
    return [line for line in lines if line]


def _checked(template: Any, origin: str = "") -> str:
    try:
        fields = [f[1:] for f in Formatter().parse(template) if f[1] is not None]
    except (TypeError, ValueError):
        fields = []
    if fields != [("", "", None)]:
        raise ValueError(
            f"{origin}template {template!r} must hold {{}} once, for the class name, and no other "
            "brace"
        )
    return template

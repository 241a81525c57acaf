"""Prompt templates for zero-shot classification."""

from collections.abc import Sequence
from pathlib import Path

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

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


def read_names(folder: Path) -> list[str]:
    """Class names of a CLIP_benchmark folder; none when it has no such file."""
    file = folder / NAMES_FILE
    return _lines(file) if file.is_file() else []


def read_templates(folder: Path) -> list[str]:
    """Templates of a CLIP_benchmark folder; the bare name when it has no such file."""
    file = folder / TEMPLATES_FILE
    found = _lines(file) if file.is_file() else []
    return [_checked(line.replace("{c}", "{}")) for line in found] or ["{}"]


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def _checked(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"template {template!r} must hold {{}} once, for the class name")
    return template

"""Where the parts of a checkout lie, in a checkout and in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def project_path(name: str) -> Path:
    """Path of `conf` or `train.py`: beside the package in a checkout, inside it in a wheel."""
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name

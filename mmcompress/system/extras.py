"""Parts of a run that work with an optional package only say so before the run begins."""

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def needs_package(module: str, *, extra: str) -> Callable[[T], T]:
    """Mark a `_target_` that works with an optional package only.

    Args:
        module: that it imports.
        extra: of mmcompress, which installs it.
    """

    def mark(target: T) -> T:
        target.package_needed = (module, extra)  # type: ignore[attr-defined]
        return target

    return mark


def package_missing(target: Any) -> str:
    """What has to be installed for a `_target_`; empty when it has all that it needs."""
    module, extra = getattr(target, "package_needed", ("", ""))
    if not module or importlib.util.find_spec(module) is not None:
        return ""
    return f'needs the package {module}: pip install "mmcompress[{extra}]"'


def require_package(module: str, *, extra: str, asks: str) -> None:
    """Refuse work that an optional package does.

    Args:
        module: that it imports.
        extra: of mmcompress, which installs it.
        asks: what needs it, as the message begins: "writing ONNX graphs".
    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f'{asks} needs the package {module}: pip install "mmcompress[{extra}]"')

"""The manifest of an export: which graphs there are, what they read, and how that is prepared.

`docs/onnx.md` specifies it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "manifest.json"
FORMAT = "mmcompress-export"
VERSION = 1

FIELDS: dict[str, type] = {
    "format": str,
    "version": int,
    "runtime": str,
    "towers": dict,
    "files": dict,
    "tensors": list,
}
"""Those without which nothing can be read."""


class NotAnExport(ValueError):
    """A folder that holds no export, or a damaged one."""

    def __init__(self, folder: Path, problem: str, fix: str = "export the artifact again") -> None:
        super().__init__(f"{folder} {problem}: {fix}")


def is_export(folder: Path) -> bool:
    """Whether the manifest in a folder says that it is one; an artifact's says otherwise."""
    try:
        return json.loads((folder / FILE).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read_export(folder: Path, runtime: str) -> dict[str, Any]:
    """The manifest, once all files that it names are there in full length.

    Args:
        runtime: what the graphs must be for: `onnx`.
    Raises:
        NotAnExport: says what is wrong.
    """
    try:
        manifest = json.loads((folder / FILE).read_bytes())
    except OSError as error:
        raise NotAnExport(folder, f"holds no {FILE} of an export", "give its folder") from error
    except (ValueError, RecursionError) as error:
        raise NotAnExport(folder, f"has a {FILE} that is no JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        fix = f"mmcompress export --to {runtime} makes one of an artifact"
        raise NotAnExport(folder, f"has a {FILE} that is of no export", fix)
    if manifest.get("version") != VERSION:
        theirs = manifest.get("version")
        fix = "export the artifact with this version"
        raise NotAnExport(folder, f"is of version {theirs}, and {VERSION} is read", fix)
    for name, kind in FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise NotAnExport(folder, f"has a {FILE} without {name}")
    if manifest["runtime"] != runtime:
        fix = f"load it with runtime={manifest['runtime']}"
        raise NotAnExport(folder, f"is for {manifest['runtime']} and not for {runtime}", fix)
    _check_files(folder, manifest["files"])
    return manifest


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    for name, entry in files.items():
        if Path(name).name != name:
            raise NotAnExport(folder, f"names the file {name!r}, which lies elsewhere")
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise NotAnExport(folder, f"has a {name} that is missing or cut short")

"""`manifest.json`: canonical JSON that carries its own checksum."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcompress.format.errors import ArtifactError

FORMAT_VERSION = 3
"""What is written."""

OLDEST = 2
"""What is read too."""

TENSORS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"

PAYLOADS = "payloads"
"""The tensor of a file that holds all payloads of its encoded weights."""

MOST_FILES = 10_000

SHORT, LONGEST = 2**22, 2**26
"""Bytes that any manifest may have, and that none may have."""

DEEPEST = 64
"""Objects and lists inside each other; a spec needs some eight."""

Manifest = dict[str, Any]

FIELDS: dict[str, type] = {
    "format_version": int,
    "adapter": str,
    "spec": dict,
    "structure": list,
    "codecs": dict,
    "kinds": list,
    "forms": list,
    "tensors": dict,
    "aliases": dict,
    "dense_dtype": str,
    "dense": dict,
    "versions": dict,
    "run": dict,
    "files": list,
    "assets": dict,
    "checksum": str,
}
STRUCTURE_FIELDS: dict[str, type] = {"step": str, "edit": str, "version": int, "modules": dict}
DENSE_FIELDS: dict[str, type] = {"bytes": int, "parameters": int, "dtype": str}
FILE_FIELDS: dict[str, type] = {"name": str, "bytes": int, "sha256": str, "tensors": int}


def sign(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: canonical JSON, the checksum of the rest put in.

    Raises:
        ValueError: a value is not JSON, or not finite.
    """
    # One round trip, for sorting looks at keys before they become strings.
    plain = json.loads(_canonical({k: v for k, v in manifest.items() if k != "checksum"}))
    checksum = hashlib.sha256(_canonical(plain)).hexdigest()
    return _canonical(plain | {"checksum": checksum})


def parse(data: bytes, path: Path) -> Manifest:
    """The manifest that `sign` wrote, of this format or the one before.

    Args:
        data: content of the file.
        path: of the file, for messages.
    Raises:
        ArtifactError: not JSON, a newer format, damaged, or a field is amiss.
    """
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(path, f"is no JSON ({error})") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1:
        raise ArtifactError(path, "is no manifest of mmcompress")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            path, f"has format version {version}, newer than {FORMAT_VERSION}", "upgrade mmcompress"
        )
    if version < OLDEST:
        old = f"has format version {version}, which is no longer read"
        raise ArtifactError(path, old, "save it again with this version")
    try:
        _check_plain(manifest)
        signed = sign(manifest)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(path, f"holds what no manifest holds ({error})") from error
    # Comparing all bytes also finds what parsing forgives: spaces, repeated keys.
    if signed != data:
        raise ArtifactError(path, "does not match its checksum, it was damaged or edited")
    return manifest


def check_manifest(manifest: Manifest, path: Path) -> None:
    """Refuse a manifest of this format whose fields are not of the right type.

    Raises:
        ArtifactError: a field is amiss.
    """
    problem = _find_problem(manifest)
    if problem:
        raise ArtifactError(path, problem)


def artifact_folder(folder: Path) -> Path:
    """`folder`, or the artifact in it where it is the folder of a run."""
    inside = folder / "artifact"
    if not (folder / MANIFEST_FILE).exists() and (inside / MANIFEST_FILE).exists():
        return inside
    return folder


def files_of(manifest: Manifest) -> list[str]:
    """Names of the files that hold the tensors."""
    return [file["name"] for file in manifest["files"]]


def stored_bytes(manifest: Manifest) -> int:
    """Bytes of these files."""
    return sum(file["bytes"] for file in manifest["files"])


def most_of_manifest(stored: int) -> int:
    """Bytes that a manifest may have beside `stored` bytes of tensors, before it is read at all."""
    return min(max(SHORT, stored // 8), LONGEST)


def _check_plain(manifest: Manifest) -> None:
    """Refuse what is JSON and stands in no manifest that `sign` was given.

    Raises:
        ValueError: lists in lists without end, a number beyond 64 bits, or half a character.
    """
    waiting: list[tuple[int, Any]] = [(0, manifest)]
    while waiting:
        depth, value = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} times")
        if isinstance(value, dict):
            waiting += [(depth + 1, part) for item in value.items() for part in item]
        elif isinstance(value, list):
            waiting += [(depth + 1, part) for part in value]
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("a number does not fit 64 bits")
        elif isinstance(value, str) and not value.isascii():
            value.encode()  # a surrogate alone is no text: a ValueError of its own


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _find_problem(manifest: Manifest) -> str | None:
    found = check_fields("the manifest", manifest, FIELDS)
    found = found or check_fields("dense", manifest["dense"], DENSE_FIELDS)
    for field, kind in (("aliases", str), ("codecs", int), ("assets", str)):
        found = found or check_values(field, manifest[field].values(), kind)
    for field, fields in (("files", FILE_FIELDS), ("structure", STRUCTURE_FIELDS)):
        for position, item in enumerate(manifest[field] if not found else []):
            found = found or check_fields(f"{field}[{position}]", item, fields)
    if found:  # what follows looks inside these fields
        return found
    for position, edit in enumerate(manifest["structure"]):
        name = f"structure[{position}]"
        found = found or check_values(name, edit["modules"].values(), dict)
    return found or find_contradiction(manifest) or _find_foreign_file(manifest["files"])


def find_contradiction(manifest: Manifest) -> str | None:
    """What is wrong with the dense model that a manifest states; None where nothing is."""
    if min(manifest["dense"]["bytes"], manifest["dense"]["parameters"]) < 1:
        return "dense states no bytes or no parameters"
    if manifest["dense_dtype"] not in ("float32", "float16"):
        return f"dense_dtype={manifest['dense_dtype']!r} is neither float32 nor float16"
    return None


def _find_foreign_file(files: Sequence[Mapping[str, Any]]) -> str | None:
    names = [file["name"] for file in files]
    count = len(names)
    if not 1 <= count <= MOST_FILES:
        return f"files names {count:,} files of tensors"
    expected = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    if names != ([TENSORS_FILE] if count == 1 else expected):
        return f"files names {names[:3]}, no files of tensors"
    if any(file["tensors"] < 0 or file["bytes"] < 0 for file in files):
        return "files states a number below zero"
    return None


def check_fields(name: str, value: Any, fields: Mapping[str, type]) -> str | None:
    """What is wrong with an object that must have exactly these fields; None where nothing is."""
    if not isinstance(value, dict) or value.keys() != fields.keys():
        return f"{name} does not have exactly the fields {', '.join(fields)}"
    wrong = [key for key, kind in fields.items() if type(value[key]) is not kind]
    return f"{name}: {', '.join(wrong)} of the wrong type" if wrong else None


def check_values(name: str, values: Iterable[Any], kind: type) -> str | None:
    """What is wrong with values that must all be of one type; None where nothing is."""
    if all(type(value) is kind for value in values):
        return None
    return f"{name} holds values that are not {kind.__name__}"

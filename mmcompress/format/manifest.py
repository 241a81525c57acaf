"""`manifest.json`: canonical JSON that carries its own checksum."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mmcompress.format import version_2
from mmcompress.format.errors import ArtifactError
from mmcompress.format.table import read_table

FORMAT_VERSION = 3
"""What is written."""

OLDEST = 2
"""What is read too."""

TENSORS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"

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
    "skeleton": str,
    "kinds": list,
    "weights": dict,
    "aliases": dict,
    "dense_dtype": str,
    "dense": dict,
    "reasons": dict,
    "versions": dict,
    "run": dict,
    "tensors": dict,
    "assets": dict,
    "checksum": str,
}
STRUCTURE_FIELDS: dict[str, type] = {"step": str, "edit": str, "version": int, "modules": dict}
DENSE_FIELDS: dict[str, type] = {"bytes": int, "parameters": int, "dtype": str}
TENSORS_FIELDS: dict[str, type] = {"bytes": int, "sha256": str}


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
    """The manifest that `sign` wrote, every field of the right type, in the words of version 3.

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
    if version == 2:
        try:
            manifest = version_2.upgrade(manifest)
        except ValueError as error:
            raise ArtifactError(path, str(error), "get it from who made it") from error
    problem = _find_problem(manifest)
    if problem:
        raise ArtifactError(path, problem)
    return manifest


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
    found = _check_fields("the manifest", manifest, FIELDS)
    found = found or _check_fields("dense", manifest["dense"], DENSE_FIELDS)
    found = found or _check_fields("tensors", manifest["tensors"], TENSORS_FIELDS)
    for field, kind in (("aliases", str), ("reasons", list), ("assets", str)):
        found = found or _check_values(field, manifest[field].values(), kind)
    if found:  # what follows looks inside these fields
        return found
    for reason, keys in manifest["reasons"].items():
        found = found or _check_values(f"reasons[{reason!r}]", keys, str)
    if found:
        return found
    if min(manifest["dense"]["bytes"], manifest["dense"]["parameters"]) < 1:
        return "dense states no bytes or no parameters"
    if manifest["dense_dtype"] not in ("float32", "float16"):
        return f"dense_dtype={manifest['dense_dtype']!r} is neither float32 nor float16"
    for position, edit in enumerate(manifest["structure"]):
        name = f"structure[{position}]"
        found = _check_fields(name, edit, STRUCTURE_FIELDS)
        found = found or _check_values(name, edit["modules"].values(), dict)
        if found:
            return found
    try:
        read_table(manifest["kinds"], manifest["weights"])
    except ValueError as error:
        return str(error)
    return None


def _check_fields(name: str, value: Any, fields: dict[str, type]) -> str | None:
    if not isinstance(value, dict) or value.keys() != fields.keys():
        return f"{name} does not have exactly the fields {', '.join(fields)}"
    wrong = [key for key, kind in fields.items() if type(value[key]) is not kind]
    return f"{name}: {', '.join(wrong)} of the wrong type" if wrong else None


def _check_values(name: str, values: Any, kind: type) -> str | None:
    if all(type(value) is kind for value in values):
        return None
    return f"{name} holds values that are not {kind.__name__}"

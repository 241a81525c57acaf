"""Manifests of format 2, which mmcompress 0.1 wrote, as those of format 3.

They name the Python class that made an edit: the names below are all that 0.1 knew, and they stay
where the classes have moved. They name weights by their whole keys, and say nothing of dense
tensors: they hold a checksum of the names, shapes and dtypes of the model that the adapter builds.
So that model has to be built before such a manifest can be upgraded.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcompress.format.codecs.table import LATEST
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import (
    DENSE_FIELDS,
    TENSORS_FILE,
    Manifest,
    check_fields,
    check_values,
    find_contradiction,
)
from mmcompress.format.names import Entry, to_tree

Describe = Callable[[Manifest], Sequence[Entry]]
"""The tensors of the model that a manifest describes, every one of its state dict; it gets the
manifest but for what is known of tensors."""

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
TENSORS_FIELDS: dict[str, type] = {"bytes": int, "sha256": str}

STRUCTURE_FIELDS: dict[str, type] = {"method": str, "step": str, "modules": dict}

EDITS: dict[str, tuple[str, int]] = {
    "mmcompress.compression.lowrank.lowrank.LowRank": ("lowrank", 1),
    "mmcompress.compression.lowrank.joint_qkv.JointQKV": ("joint_qkv", 1),
    "mmcompress.compression.pruning.structured.Structured": ("cut", 1),
    "mmcompress.compression.sharing.cross_layer.CrossLayer": ("share_blocks", 1),
    "mmcompress.compression.sharing.cross_tower.CrossTower": ("share_towers", 1),
    "mmcompress.compression.sharing.hashed_embedding.HashEmbedding": ("hashed_embedding", 1),
    "mmcompress.compression.quantization.qwt.QwT": ("compensation", 1),
    "mmcompress.compression.quantization.activations.Activations": ("quantized_input", 1),
}
"""Class in format 2 → name and version of the edit."""

CODECS = {"quantise": "quantize"}
"""Codecs that are called otherwise now."""


def with_files(old: Manifest, path: Path) -> Manifest:
    """A checked manifest of format 2 as one of format 3 that knows no tensors yet.

    Raises:
        ArtifactError: a field is amiss.
    """
    problem = _find_problem(old)
    if problem:
        raise ArtifactError(path, problem)
    file = {"name": TENSORS_FILE, "tensors": 0} | old["tensors"]
    kept = {
        key: value for key, value in old.items() if key not in ("skeleton", "weights", "reasons")
    }
    kinds = [_upgrade_kind(kind) for kind in old["kinds"]]
    return kept | {
        "format_version": 3,
        "structure": [_upgrade_edit(edit, path) for edit in old["structure"]],
        "codecs": dict(LATEST),
        "kinds": kinds,
        "forms": [],
        "tensors": {},
        "files": [file],
    }


def upgrade(old: Manifest, path: Path, describe: Describe) -> Manifest:
    """A checked manifest of format 2 as one of format 3.

    Args:
        old: as it was read.
        path: of its file, for messages.
        describe: the tensors of the model.
    Raises:
        ArtifactError: a field is amiss, or the model is not the one that was stored.
    """
    new = with_files(old, path)
    state = {entry.name: entry for entry in describe(new)}
    for key in [*old["weights"], *old["aliases"]]:
        if key not in state:
            raise ArtifactError(path, f"lists {key}, which the model does not have")
    if fingerprint(state.values()) != old["skeleton"]:
        problem = "describes a model whose tensors are not those that were stored"
        raise ArtifactError(path, problem, "install the library versions that it names")
    why = {key: reason for reason, keys in old["reasons"].items() for key in keys}
    entries = [
        replace(entry, row=old["weights"].get(key), why=why.get(key, ""))
        for key, entry in state.items()
        if key not in old["aliases"]
    ]
    new["forms"], new["tensors"] = to_tree(entries)
    new["files"][0]["tensors"] = len(entries)
    return new


def fingerprint(entries: Any) -> str:
    """SHA-256, in hex, of the names, shapes and dtypes of a model's tensors."""
    described = sorted([entry.name, list(entry.shape), f"torch.{entry.dtype}"] for entry in entries)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _upgrade_edit(old: Mapping[str, Any], path: Path) -> dict[str, Any]:
    method = old["method"]
    if method not in EDITS:
        problem = f"method={method!r} is no structural method of mmcompress 0.1"
        raise ArtifactError(path, problem, "get it from who made it")
    edit, version = EDITS[method]
    return {"step": old["step"], "edit": edit, "version": version, "modules": old["modules"]}


def _upgrade_kind(kind: Any) -> Any:
    """What is malformed is left as it is: who reads the table says so."""
    if not isinstance(kind, dict) or not isinstance(kind.get("chain"), list):
        return kind
    chain = [
        stage | {"codec": CODECS.get(stage["codec"], stage["codec"])}
        if isinstance(stage, dict) and isinstance(stage.get("codec"), str)
        else stage
        for stage in kind["chain"]
    ]
    return kind | {"chain": chain}


def _find_problem(old: Manifest) -> str | None:
    found = check_fields("the manifest", old, FIELDS)
    found = found or check_fields("dense", old["dense"], DENSE_FIELDS)
    found = found or check_fields("tensors", old["tensors"], TENSORS_FIELDS)
    for field, kind in (("aliases", str), ("reasons", list), ("assets", str), ("weights", list)):
        found = found or check_values(field, old[field].values(), kind)
    for reason, keys in old["reasons"].items() if not found else []:
        found = found or check_values(f"reasons[{reason!r}]", keys, str)
    for position, edit in enumerate(old["structure"] if not found else []):
        name = f"structure[{position}]"
        found = found or check_fields(name, edit, STRUCTURE_FIELDS)
        found = found or check_values(name, edit["modules"].values(), dict)
    return found or find_contradiction(old)

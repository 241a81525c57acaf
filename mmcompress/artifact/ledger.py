"""Where the bytes of an artifact went: every one of both files, by tensor."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmcompress.artifact.load import open_tensors
from mmcompress.artifact.manifest import MANIFEST_FILE, TENSORS_FILE, Manifest
from mmcompress.backbones.base import Backbone

SIZES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes per element of the dtypes that artifacts store."""


@dataclass(frozen=True)
class LedgerRow:
    """One payload.

    Attributes:
        tensor: key in the model's state dict; the file's name for `header` and `manifest`.
        modality: tower it belongs to, `shared` when to none.
        role: what the weight does, `other` for what is no compressible weight.
        payload: `codes`, `scale`, `zero_point`, `codebook`, `indices`, `mask`, `dense`, `header`
            or `manifest`.
        bytes: as stored.
        note: how it is encoded, or why it was left dense.
    """

    tensor: str
    modality: str
    role: str
    payload: str
    bytes: int
    note: str


def list_rows(folder: Path, manifest: Manifest, backbone: Backbone) -> list[LedgerRow]:
    """All rows; their bytes add up to the size of the two files.

    Args:
        folder: of the artifact.
        manifest: its manifest.
        backbone: the model in it, on any device.
    """
    with open_tensors(folder) as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        sizes = {n: prod(s.get_shape()) * SIZES[s.get_dtype()] for n, s in slices.items()}
    roles = {target.name: target.role for target in backbone.targets()}
    rows = []
    for key in backbone.model.state_dict():
        if key in manifest["weights"]:
            weight = manifest["weights"][key]
            rows += _weight_rows(key, weight, sizes)
            for name in weight["payload"].values():
                sizes.pop(name, None)  # a shared codebook counts for the first that reads it
        elif key not in manifest["aliases"]:
            note = _dense_note(key, manifest, is_target=key in roles)
            modality, role = backbone.modality_of(key), roles.get(key, "other")
            rows.append(LedgerRow(key, modality, role, "dense", sizes[key], note))
    file = folder / TENSORS_FILE
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    rows.append(LedgerRow(TENSORS_FILE, "shared", "other", "header", header, "names and shapes"))
    size = (folder / MANIFEST_FILE).stat().st_size
    rows.append(LedgerRow(MANIFEST_FILE, "shared", "other", "manifest", size, "how to read it"))
    total = file.stat().st_size + size
    assert sum(row.bytes for row in rows) == total, "the ledger does not add up"
    return rows


def summarise(rows: Iterable[LedgerRow]) -> dict[tuple[str, str, str], int]:
    """Bytes by (modality, role, payload), in order of first appearance."""
    total: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        total[row.modality, row.role, row.payload] += row.bytes
    return dict(total)


def summarise_size(rows: Iterable[LedgerRow], manifest: Manifest) -> dict[str, Any]:
    """The numbers of a run record, `size` in it.

    Returns:
        dense_bytes, artifact_bytes, compression_ratio (dense / stored), bits_per_weight (stored
        bits / dense parameters), dense_dtype (of the dense model that dense_bytes measures) and
        by_modality (stored bytes; they add up to artifact_bytes).
    """
    by_modality: Counter[str] = Counter()
    for row in rows:
        by_modality[row.modality] += row.bytes
    stored, dense = by_modality.total(), manifest["dense"]
    return {
        "dense_bytes": dense["bytes"],
        "artifact_bytes": stored,
        "compression_ratio": dense["bytes"] / stored,
        "bits_per_weight": 8 * stored / dense["parameters"],
        "dense_dtype": dense["dtype"],
        "by_modality": dict(sorted(by_modality.items())),
    }


def _weight_rows(key: str, weight: Mapping[str, Any], sizes: Mapping[str, int]) -> list[LedgerRow]:
    codecs = " → ".join(stage["codec"] for stage in weight["chain"])
    note = f"{', '.join(weight['steps'])}: {codecs or 'floats'}"
    return [
        LedgerRow(key, weight["modality"], weight["role"], payload, sizes[name], note)
        for payload, name in weight["payload"].items()
        if name in sizes
    ]


def _dense_note(key: str, manifest: Manifest, *, is_target: bool) -> str:
    if key in manifest["reasons"]:
        return manifest["reasons"][key]
    if not is_target:
        return "not a compressible weight"
    for edit in reversed(manifest["structure"]):
        if any(key.startswith(f"{module}.") for module in edit["modules"]):
            return f"{edit['step']}: stored as floats, no later step selected it"
    return "no step selected it"

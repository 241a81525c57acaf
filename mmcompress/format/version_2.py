"""Manifests of format version 2, which mmcompress 0.1 wrote, in the words of today's.

They name the Python class that made an edit. The names below are all that 0.1 knew, and they stay
where the classes have moved.
"""

from typing import Any

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
"""Class in version 2 → name and version of the edit."""


def upgrade(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as version 3 would have written it, except for its checksum.

    Args:
        manifest: of version 2, its checksum found right; its fields may be of any type.
    Raises:
        ValueError: it names a class that is none of `EDITS`.
    """
    upgraded = manifest | {"format_version": 3}
    if isinstance(manifest.get("structure"), list):
        upgraded["structure"] = [_upgrade_edit(entry) for entry in manifest["structure"]]
    return upgraded


def _upgrade_edit(entry: Any) -> Any:
    """The entry with an edit's name; one of another form is left for the check of all fields."""
    if not isinstance(entry, dict) or entry.keys() != {"method", "step", "modules"}:
        return entry
    method = entry["method"]
    if not isinstance(method, str):
        return entry
    if method not in EDITS:
        raise ValueError(f"method={method!r} is no structural method of mmcompress 0.1")
    edit, version = EDITS[method]
    return {"step": entry["step"], "edit": edit, "version": version, "modules": entry["modules"]}

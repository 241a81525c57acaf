"""Manifests of format version 2, which mmcompress 0.1 wrote, as the present one has them."""

from typing import Any

METHODS = {
    "mmcompress.compression.lowrank.joint_qkv.JointQKV": ("low_rank_qkv", 1),
    "mmcompress.compression.lowrank.lowrank.LowRank": ("low_rank", 1),
    "mmcompress.compression.pruning.structured.Structured": ("cut", 1),
    "mmcompress.compression.quantization.activations.Activations": ("quantized_input", 1),
    "mmcompress.compression.quantization.qwt.QwT": ("compensation", 1),
    "mmcompress.compression.sharing.cross_layer.CrossLayer": ("shared_blocks", 1),
    "mmcompress.compression.sharing.cross_tower.CrossTower": ("shared_towers", 1),
    "mmcompress.compression.sharing.hashed_embedding.HashEmbedding": ("hashed_embedding", 1),
}
"""Python classes that version 2 named → edit and its version."""


def upgrade(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest in the present form; what is amiss elsewhere stays for the checks that follow.

    Args:
        manifest: of format version 2, unchecked.
    Raises:
        ValueError: it names a method that version 2 did not have.
    """
    structure = manifest.get("structure")
    if isinstance(structure, list):
        structure = [_upgrade_edit(edit) for edit in structure]
    return manifest | {"format_version": 3, "structure": structure}


def _upgrade_edit(edit: Any) -> Any:
    if not isinstance(edit, dict) or "method" not in edit:
        return edit
    name = edit["method"]
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r} is no structural method of this mmcompress")
    edit_name, version = METHODS[name]
    others = {key: value for key, value in edit.items() if key != "method"}
    return others | {"edit": edit_name, "version": version}

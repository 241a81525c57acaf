"""What holds the weights of an export, in a few lines."""

import json
from pathlib import Path

from mmcompress.inputs.export import FILE, is_export


def containers(folder: Path) -> list[str]:
    """One line for each container: tensors, bytes, share, and whether what is computed with it
    is exactly what the artifact decodes to.

    Args:
        folder: of an export; no line for a checkpoint of another library, which is dense.
    """
    if not is_export(folder):
        return []
    rows = json.loads((folder / FILE).read_bytes())["tensors"]
    total = sum(row["bytes"] for row in rows)
    groups: dict[tuple[str, bool], list[int]] = {}
    for row in rows:
        groups.setdefault((row["container"], row["exact"]), []).append(row["bytes"])
    return [
        f"{container}: {len(sizes)} tensors, {sum(sizes):,} bytes ({sum(sizes) / total:.1%})"
        + ("" if exact else ", not exact")
        for (container, exact), sizes in sorted(groups.items(), key=lambda g: -sum(g[1]))
    ]

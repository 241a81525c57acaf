"""What holds the weights of an export, in a few lines."""

import json
from collections.abc import Iterable
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
    return lines((row["container"], row["bytes"], row["exact"]) for row in rows)


def lines(rows: Iterable[tuple[str, int, bool]]) -> list[str]:
    """The same of tensors that are known: container, bytes, and whether it is exact."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for container, size, exact in rows:
        groups.setdefault((container, exact), []).append(size)
    total = sum(map(sum, groups.values()))
    return [
        f"{container}: {len(sizes)} tensors, {sum(sizes):,} bytes ({sum(sizes) / total:.1%})"
        + ("" if exact else ", not exact")
        for (container, exact), sizes in sorted(groups.items(), key=lambda g: -sum(g[1]))
    ]

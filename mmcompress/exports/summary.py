"""What holds the weights of an export, tensor by tensor and in a few lines."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmcompress.inputs.export import FILE


@dataclass(frozen=True)
class Contained:
    """One tensor of an export.

    Attributes:
        container: what holds it, such as `MatMulNBits 4 bits` or `float16`.
        bytes: that it takes.
        exact: whether what is computed with it is exactly what the artifact decodes to.
        decoded: whether the artifact has codes of it and the export floats.
    """

    container: str
    bytes: int
    exact: bool = True
    decoded: bool = False


def containers(folder: Path) -> list[Contained]:
    """Every tensor of an export of graphs, by its manifest."""
    rows = json.loads((folder / FILE).read_bytes())["tensors"]
    return [Contained(r["container"], r["bytes"], r["exact"], r["decoded"]) for r in rows]


def lines(tensors: Iterable[Contained]) -> list[str]:
    """One line for each container: tensors, bytes, share, and whether it is exact."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.container, tensor.exact), []).append(tensor.bytes)
    total = sum(map(sum, groups.values()))
    return [
        f"{container}: {len(sizes)} tensors, {sum(sizes):,} bytes ({sum(sizes) / total:.1%})"
        + ("" if exact else ", not exact")
        for (container, exact), sizes in sorted(groups.items(), key=lambda g: -sum(g[1]))
    ]

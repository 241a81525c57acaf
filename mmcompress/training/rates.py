"""How fast each parameter learns: groups of the optimizer, and the learning rate over the steps."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.parts import parts_of_tensors

MODEL = "model."
"""How the names of a backbone's parameters begin, except those of its own."""


def warmup_cosine(step: int, *, total: int, warmup_ratio: float) -> float:
    """Factor on the learning rate: linear from zero, then half a cosine to zero.

    Example:
        >>> [round(warmup_cosine(s, total=10, warmup_ratio=0.2), 2) for s in (0, 1, 6, 10)]
        [0.5, 1.0, 0.5, 0.0]
    """
    warmup = round(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return (1 + math.cos(math.pi * progress)) / 2


def check_part_lr(part_lr: Mapping[str, float], backbone: Backbone) -> None:
    """Refuse a learning rate for a part that the model does not have.

    Raises:
        ValueError: names the part, and those that there are.
    """
    names = [name for name, _ in backbone.model.named_parameters()]
    present = sorted(set(parts_of_tensors(backbone, names).values()))
    for part in part_lr:
        if part not in present:
            raise ValueError(
                f"part_lr has {part!r}, and the parts of this model are {', '.join(present)}: "
                "name one of them"
            )


def parameter_groups(
    backbone: Backbone, part_lr: Mapping[str, float] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Matrices decay with the optimizer's own weight decay; biases, norms and scalars do not.

    Args:
        backbone: its parameters are trained, unless they require no gradient.
        part_lr: part → share of the optimizer's learning rate; 1 for the others.
    Returns:
        Groups of an optimizer, each with its `share`; see `scale_rates`.
    """
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    inside = [name.removeprefix(MODEL) for name in trained if name.startswith(MODEL)]
    of_name = parts_of_tensors(backbone, inside) if part_lr else {}
    shares = {f"{MODEL}{name}": part_lr.get(part, 1.0) for name, part in of_name.items()}
    groups: list[dict[str, Any]] = []
    for share in sorted({1.0, *part_lr.values()}, reverse=True):
        own = [p for name, p in trained.items() if shares.get(name, 1.0) == share]
        groups += [
            {"params": [p for p in own if p.ndim > 1], "share": share},
            {"params": [p for p in own if p.ndim <= 1], "share": share, "weight_decay": 0.0},
        ]
    return groups


def scale_rates(groups: list[dict[str, Any]]) -> None:
    """Give each group of an optimizer, in place, its share of the learning rate."""
    for group in groups:
        group["lr"] *= group["share"]

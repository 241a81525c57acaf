"""How many weights each tensor loses, so that all together reach one sparsity.

* `uniform`: every tensor loses the same share.
* `global`: one threshold on the magnitudes of all weights.
* `modality`: one threshold per tower, so that the towers' different magnitudes do not make one pay
  for the other: "MULTIFLOW: Shifting Towards Task-Agnostic Vision-Language Pruning", Farina et al.
  2024, arXiv:2404.05621, equation 7.
* `ecoflap`: what a block keeps beyond a floor is proportional to how much the loss changes when its
  weights are perturbed: "ECoFLaP: Efficient Coarse-to-Fine Layer-Wise Pruning for Vision-Language
  Models", Sung et al. 2024, arXiv:2310.02998, section 3.2. Where we differ: weights outside the
  blocks, which the paper does not prune, are groups of their own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mmcompress.backbones.base import Target
from mmcompress.compression.statistics import Statistic

Allocation = Literal["uniform", "global", "modality", "ecoflap"]
ALLOCATIONS: tuple[str, ...] = get_args(Allocation)

MARGIN = 0.1
"""How far a block may exceed the sparsity of all, unless `max_sparsity` says otherwise: both of the
paper's settings, 0.5 at a sparsity of 0.4 and 0.6 at 0.5."""


def allocate(
    targets: Sequence[Target],
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    *,
    sparsity: float,
    allocation: Allocation,
    max_sparsity: float | None = None,
) -> dict[str, int]:
    """How many weights each target loses.

    Args:
        targets, weights, statistics: as `Step.plan` gets them; `ecoflap` needs `loss_change`.
        sparsity: of all targets together.
        allocation: how it is spread.
        max_sparsity: what `ecoflap` may take from a block; `sparsity + MARGIN` when None.
    """
    selected = {t.name: weights[t.name] for t in targets}
    if allocation == "global":
        return threshold_counts(selected, sparsity)
    if allocation == "modality":
        counts: dict[str, int] = {}
        for tower in _grouped(targets, lambda t: t.modality).values():
            counts |= threshold_counts({name: selected[name] for name in tower}, sparsity)
        return counts
    shares = dict.fromkeys(selected, sparsity)
    if allocation == "ecoflap":
        limit = min(sparsity + MARGIN, 1.0) if max_sparsity is None else max_sparsity
        changes = {name: statistics[name].loss_change or 0.0 for name in selected}
        sizes = {name: weight.numel() for name, weight in selected.items()}
        for block in ecoflap_sparsities(
            _grouped(targets, block_of), sizes, changes, sparsity=sparsity, max_sparsity=limit
        ):
            shares |= block
    return {name: round(shares[name] * weight.numel()) for name, weight in selected.items()}


def _grouped(targets: Sequence[Target], key: Callable[[Target], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for target in targets:
        groups.setdefault(key(target), []).append(target.name)
    return groups


def block_of(target: Target) -> str:
    """The transformer block that a weight lies in; its own name when it lies in none.

    Example:
        >>> block_of(Target("vision.layers.3.mlp.fc1", "weight", "image", "mlp.up", "linear"))
        'vision.layers.3'
    """
    found = re.match(r"(.*?\.\d+)\.", target.name)
    return found[1] if found else target.name


def ecoflap_sparsities(
    blocks: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    changes: Mapping[str, float],
    *,
    sparsity: float,
    max_sparsity: float,
) -> list[dict[str, float]]:
    """The sparsity of each weight (arXiv:2310.02998, section 3.2), the same all over a block.

    Each block first keeps a share 1 − max_sparsity. What is left to keep is handed out in
    proportion to the blocks' importances; what exceeds a block's size goes to the others.

    Args:
        blocks: names of the weights in each.
        sizes: numbers of weights, by name.
        changes: of the loss when a weight is perturbed, by name; summed over a block.
        sparsity: of all together, at most `max_sparsity`.
        max_sparsity: of a block.
    Returns:
        By name, one dict per block.

    Example:
        >>> blocks, sizes = {"a": ["a.w"], "b": ["b.w"]}, {"a.w": 100, "b.w": 100}
        >>> ecoflap_sparsities(blocks, sizes, {"a.w": 3, "b.w": 1}, sparsity=0.5, max_sparsity=0.6)
        [{'a.w': 0.45}, {'b.w': 0.55}]
    """
    numbers = torch.tensor([sum(sizes[w] for w in b) for b in blocks.values()]).double()
    scores = torch.tensor([sum(changes[w] for w in b) for b in blocks.values()]).double()
    kept = numbers * (1 - max_sparsity)
    while (missing := (1 - sparsity) * numbers.sum() - kept.sum()) > 1e-6 * numbers.sum():
        room = kept < numbers
        open_scores = torch.where(room, scores, 0.0)
        if not open_scores.any():  # blocks that nothing depends on share by size
            open_scores = torch.where(room, numbers, 0.0)
        kept = torch.minimum(kept + missing * open_scores / open_scores.sum(), numbers)
    shares = (1 - kept / numbers).tolist()
    return [
        dict.fromkeys(names, round(share, 12))
        for names, share in zip(blocks.values(), shares, strict=True)
    ]


def threshold_counts(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """How many weights each tensor loses when one threshold on |W| holds for all.

    Args:
        weights: float32, by name.
        sparsity: of all together.
    Returns:
        By name; they add up to `round(sparsity · total)` but for ties at the threshold.
    """
    wanted = round(sparsity * sum(weight.numel() for weight in weights.values()))
    threshold = kth_magnitude(list(weights.values()), wanted)
    return {name: int((w.abs() < threshold).sum()) for name, w in weights.items()}


def kth_magnitude(weights: Sequence[Tensor], k: int) -> float:
    """The magnitude that has `k` smaller ones before it in sorted order; exact, and no sorting.

    The bits of a non-negative float32, read as an integer, are in its order: two histograms, of
    the upper and then of the lower 16 bits, find it without a copy of all weights.

    Args:
        weights: float32.
        k: from 0 to one less than there are weights.

    Example:
        >>> kth_magnitude([torch.tensor([3.0, -1.0]), torch.tensor([0.5])], 1)
        1.0
    """
    upper = sum(torch.bincount(_bits(w) >> 16, minlength=2**16) for w in weights)
    assert isinstance(upper, Tensor)
    high = int((upper.cumsum(0) <= k).sum())
    k -= int(upper[:high].sum())
    parts = [bits[bits >> 16 == high] & 0xFFFF for bits in map(_bits, weights)]
    lower = torch.bincount(torch.cat(parts), minlength=2**16)
    low = int((lower.cumsum(0) <= k).sum())
    return torch.tensor(high << 16 | low, dtype=torch.int32).view(torch.float32).item()


def _bits(weight: Tensor) -> Tensor:
    return weight.abs().flatten().view(torch.int32)

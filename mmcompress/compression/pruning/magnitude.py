"""Unstructured magnitude pruning, W ⊙ M: the smallest weights become zero.

The gradual schedule is that of "To prune, or not to prune: exploring the efficacy of pruning for
model compression", Zhu & Gupta 2017, arXiv:1710.01878, equation 1. Where we differ: with a global
threshold the sparsity of each layer is fixed once, on the dense weights, and the schedule scales
it; a weight that is masked stays masked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Target
from mmcompress.compression.base import Compressor, Decision
from mmcompress.compression.statistics import Statistic


def smallest_mask(weight: Tensor, pruned: int) -> Tensor:
    """Keep all but the `pruned` weights of smallest magnitude; ties fall in memory order.

    Args:
        weight: any shape.
        pruned: how many to drop, at most all.
    Returns:
        bool, shape of `weight`, True = kept.

    Example:
        >>> smallest_mask(torch.tensor([[0.1, -3.0], [2.0, -0.2]]), 2).tolist()
        [[False, True], [True, False]]
    """
    order = weight.abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:pruned]] = False
    return mask.view_as(weight)


def cubic_sparsity(progress: float, *, begin: float, end: float) -> float:
    """Share of the final sparsity that is due (arXiv:1710.01878, eq. 1, from zero).

    Args:
        progress: share of training done, in [0, 1].
        begin, end: where the ramp starts and where it is complete.

    Example:
        >>> cubic_sparsity(0.25, begin=0.0, end=0.5)
        0.875
    """
    if progress >= end:
        return 1.0
    ramp = max(progress - begin, 0.0) / (end - begin)
    return 1.0 - (1.0 - ramp) ** 3


def global_counts(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """How many weights each tensor loses when one threshold holds for all.

    Returns:
        By name; they add up to `round(sparsity · total)` but for ties at the threshold.
    """
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    wanted = round(sparsity * magnitudes.numel())
    threshold = magnitudes.sort().values[wanted] if wanted else magnitudes.new_tensor(0.0)
    return {name: int((w.abs() < threshold).sum().item()) for name, w in weights.items()}


class Mask(nn.Module):
    """Parametrisation W → W ⊙ M.

    Args:
        weight: gives the shape.
        pruned: weights to drop when the schedule is complete.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, pruned: int) -> None:
        super().__init__()
        self.pruned = pruned
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def prune(self, weight: Tensor, share: float) -> None:
        """Drop `share` of the weights that are to go, the smallest that are left."""
        self.mask = smallest_mask(weight * self.mask, round(share * self.pruned))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Magnitude(Compressor):
    """Drop the smallest weights.

    Args:
        sparsity: share of the selected weights that become zero, in (0, 1).
        scope: `local` prunes every tensor by `sparsity`; `global` compares all magnitudes.
        schedule: `one_shot` prunes before training, `cubic` while training.
        begin, end: of the cubic ramp, as shares of training.
        updates: how often the cubic ramp moves the masks.
        **selectors: `modality`, `role`, `granularity`.
    """

    stage = "mask"
    granularities = ("linear", "embedding", "conv", "matrix")
    no_speedup = "unstructured mask, dense kernels do the same work"

    def __init__(
        self,
        *,
        sparsity: float,
        scope: Literal["local", "global"] = "local",
        schedule: Literal["one_shot", "cubic"] = "one_shot",
        begin: float = 0.0,
        end: float = 0.5,
        updates: int = 20,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if not 0 < sparsity < 1:
            raise ValueError(
                f"sparsity={sparsity} must lie between 0 and 1, both excluded: 0 prunes nothing "
                "and 1 leaves no weight"
            )
        if scope not in ("local", "global"):
            raise ValueError(f"scope={scope!r} must be local or global")
        if schedule not in ("one_shot", "cubic"):
            raise ValueError(f"schedule={schedule!r} must be one_shot or cubic")
        if not 0 <= begin < end <= 1:
            raise ValueError(f"begin={begin} and end={end} must satisfy 0 <= begin < end <= 1")
        if updates < 1:
            raise ValueError(f"updates={updates} must be at least 1")
        self.sparsity = sparsity
        self.scope = scope
        self.schedule = schedule
        self.begin, self.end, self.updates = begin, end, updates
        self._done = -1

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        selected = {t.name: weights[t.name] for t in targets}
        if self.scope == "global":
            counts = global_counts(selected, self.sparsity)
        else:
            counts = {name: round(self.sparsity * w.numel()) for name, w in selected.items()}
        one_shot = self.schedule == "one_shot"
        return {name: {"pruned": count, "one_shot": one_shot} for name, count in counts.items()}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        weight = getattr(module, parameter).detach()
        mask = Mask(weight, decision["pruned"])
        if decision["one_shot"]:
            mask.prune(weight, 1.0)
        return mask

    def on_step(self, progress: float) -> None:
        if self.schedule == "one_shot":
            return
        update = int(min(progress / self.end, 1.0) * self.updates)
        if update == self._done:
            return
        self._done = update
        share = cubic_sparsity(update / self.updates * self.end, begin=self.begin, end=self.end)
        for applied in self.applied.values():
            cast(Mask, applied.parametrization).prune(applied.original.detach(), share)

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        return Encoding(mask=cast(Mask, parametrization).mask)

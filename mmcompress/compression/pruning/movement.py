"""Movement pruning: weights that training moves away from zero stay, those it moves to zero go.

"Movement Pruning: Adaptive Sparsity by Fine-Tuning", Sanh et al. 2020, arXiv:2005.07683: hard
movement pruning, sections 3 and 4. Every weight has a score S that is trained with it; W' = W ⊙ M,
where M keeps the weights of the highest scores in a matrix, and the gradient of S passes straight
through M: ∂L/∂S = ∂L/∂W' ⊙ W (equation 3). The share that goes follows the cubic schedule.

Where we differ: scores start from a share of the weights' magnitudes, for after few steps movements
are mostly noise; `start: 0` is the paper's, where magnitudes only order what has not moved. S is
trained at the learning rate of the weights: under Adam a factor on it would be one on `start`. The
paper's allocation, the same share of each matrix, is one of several.
"""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Applied, Decision
from mmcompress.compression.pruning.allocation import Allocation
from mmcompress.compression.pruning.masks import (
    Mask,
    Masked,
    keep_above,
    kth_smallest,
    kth_smallest_near,
)
from mmcompress.compression.pruning.schedule import cubic_sparsity
from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.selectors import Selectors, only_selectors
from mmcompress.compression.statistics import Statistic

LEAST = 1e-6
"""Of `start`: far below one step of an optimizer."""


class MovementMask(Mask):
    """Parametrization W → W ⊙ M(S).

    Args:
        weight: gives the shape, and the order in which untrained weights go.
        pruned: weights to drop when the schedule is complete.
        start: share of the magnitudes at which scores begin.
    """

    def __init__(self, weight: Tensor, pruned: int, *, start: float) -> None:
        super().__init__(weight, pruned)
        self.scores = nn.Parameter(max(start, LEAST) * weight.abs())
        self._threshold: float | None = None
        """The highest score that was dropped last time."""

    def follow_schedule(self, weight: Tensor, share: float) -> None:
        """Keep the highest scores as they are now; `share` of the weights that are to go, go."""
        pruned = round(share * self.pruned)
        if pruned == 0:
            self.mask = torch.ones_like(self.mask)
            return
        scores = self.scores.detach().reshape(1, -1)
        threshold = None
        if self._threshold is not None:  # one step of training moves it little
            threshold = kth_smallest_near(scores, pruned, self._threshold)
        if threshold is None:
            threshold = kth_smallest(scores, pruned)
        self.mask = keep_above(scores, threshold, pruned).view_as(self.mask)
        self._threshold = float(threshold)

    def forward(self, weight: Tensor) -> Tensor:
        return Masked.apply(weight, self.mask, self.scores)


class Movement(ScoredPruning):
    """Weights without those of lowest score, where training the scores decides.

    Args:
        start: share of the magnitudes at which scores begin; 0 is the paper's, for long training.
            Legal: number of at least 0.
        begin: where the cubic ramp begins, as a share of training. Legal: number in [0, end).
        end: where it ends; masks go on moving after it. Legal: number in (begin, 1].

    The other settings are those of `ScoredPruning`. What is no argument here has no meaning:
    training moves one mask over the whole tensor after each of its steps.
    """

    learns_mask = True

    def __init__(
        self,
        *,
        sparsity: float,
        allocation: Allocation = "uniform",
        max_sparsity: float | None = None,
        start: float = 1.0,
        begin: float = 0.0,
        end: float = 0.5,
        **selectors: Unpack[Selectors],
    ) -> None:
        super().__init__(
            sparsity=sparsity,
            allocation=allocation,
            max_sparsity=max_sparsity,
            schedule="cubic",
            begin=begin,
            end=end,
            **only_selectors(type(self), selectors),
        )
        if start < 0:
            raise ValueError(f"start={start} must be at least 0")
        self.start = start

    def _decide(self, target: Target, count: int, matrix: Tensor) -> Decision:
        return {"pruned": count, "start": self.start}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> MovementMask:
        return MovementMask(getattr(module, parameter).detach(), **decision)

    def on_step(self, applied: Mapping[str, Applied[Mask]], progress: float) -> None:
        share = cubic_sparsity(progress, begin=self.begin, end=self.end)
        for one in applied.values():
            one.parametrization.follow_schedule(one.original.detach(), share)

"""SparseGPT: prune column by column, and let the weights that are left make up for it.

"SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", Frantar & Alistarh 2023,
arXiv:2301.00774, algorithm 1. Where we differ: how many weights a block of columns loses is rounded
so that the layer's sparsity comes out exactly; embeddings and bare parameters, which have no input
statistic to correct by, are pruned by magnitude.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Decision, as_matrix
from mmcompress.compression.pruning.allocation import Allocation
from mmcompress.compression.pruning.masks import Mask, lowest_mask
from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.selectors import Selectors, only_selectors
from mmcompress.compression.statistics import Statistic
from mmcompress.functional.error_feedback import BLOCK, feed_back_errors


def sparsegpt(
    weight: Tensor,
    factor: Tensor,
    pruned: int,
    *,
    group_size: int | None = None,
    block_size: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """Prune a matrix and correct what is left (arXiv:2301.00774, algorithm 1).

    Args:
        weight: (out, in).
        factor: upper Cholesky factor of the inverse Hessian (in, in).
        pruned: weights to drop in the matrix, or in each group.
        group_size: neighbors in a row of which `pruned` are dropped (N:M); the matrix when None.
        block_size: columns whose mask is chosen at once.
    Returns:
        The corrected weight (out, in), zero outside the mask; and the mask, bool, True = kept.
    """
    inputs = weight.shape[1]
    columns, kept = weight.T.contiguous(), torch.ones_like(weight, dtype=torch.bool).T.contiguous()
    diagonal = factor.diagonal()[:, None]
    span = group_size or block_size  # columns whose mask is chosen at once
    dropped = 0

    def pruned_column(j: int) -> Tensor:
        nonlocal dropped
        if j % span == 0:
            chosen = slice(j, j + span)
            scores = (columns[chosen] / diagonal[chosen]).square().T.contiguous()
            due = pruned
            if group_size is None:
                due = round(pruned * min(j + span, inputs) / inputs) - dropped
                dropped += due
            kept[chosen] = lowest_mask(scores, due, group_size=group_size).T
        return torch.where(kept[j], columns[j], 0.0)

    feed_back_errors(
        columns, factor, pruned_column, block_size=block_size, group_size=group_size or 1
    )
    return columns.T.contiguous(), kept.T.contiguous()


class SparseGPT(ScoredPruning):
    """Weights pruned before training, of which those that are left make up for those that went.

    Args:
        block_size: columns whose mask is chosen at once. Legal: whole number of at least 1.

    The other settings are those of `ScoredPruning`. What is no argument here has no meaning:
    the mask is chosen once, before training, while errors are fed back.
    """

    reads_inputs = True

    def __init__(
        self,
        *,
        sparsity: float,
        pattern: str | None = None,
        allocation: Allocation = "uniform",
        max_sparsity: float | None = None,
        block_size: int = 128,
        **selectors: Unpack[Selectors],
    ) -> None:
        super().__init__(
            sparsity=sparsity,
            pattern=pattern,
            allocation=allocation,
            max_sparsity=max_sparsity,
            **only_selectors(type(self), selectors),
        )
        if block_size < 1:
            raise ValueError(f"block_size={block_size} must be at least 1")
        self.block_size = block_size

    def _decide(self, target: Target, count: int, matrix: Tensor) -> Decision:
        return super()._decide(target, count, matrix) | {"block_size": self.block_size}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> Mask:
        if not decision["scaled"] or statistic is None:
            return super().apply(module, parameter, decision, statistic)
        weight = getattr(module, parameter).detach()
        corrected, kept = sparsegpt(
            as_matrix(weight),
            statistic.needed_inputs.inverse_cholesky(),
            decision["pruned"],
            group_size=decision["group_size"],
            block_size=decision["block_size"],
        )
        mask = Mask(weight, decision["pruned"], group_size=decision["group_size"])
        mask.mask, mask.initial = kept.view_as(weight), corrected.view_as(weight)
        return mask

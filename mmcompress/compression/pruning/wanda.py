"""Wanda: a weight matters when it is large and when its input is large.

"A Simple and Effective Pruning Approach for Large Language Models", Sun et al. 2023,
arXiv:2306.11695. Where we differ: embeddings and bare parameters, which have no input norm, are
pruned by magnitude; a gradual schedule keeps the input norms of the dense model.
"""

from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Decision
from mmcompress.compression.modality_balance import WeighsTokens
from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.statistics import INPUTS, InputStatistic


def wanda_importance(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Weight magnitude times input norm (arXiv:2306.11695, equation 1).

    Args:
        weight: (out, in).
        input_norm: (in,), L2 norm over all calibration tokens.
    Returns:
        (out, in), non-negative; compare within a row.
    """
    return weight.abs() * input_norm


class Wanda(WeighsTokens, ScoredPruning):
    """Weights without those of least |W_ij| ‖X_j‖₂, by default compared within each output row.

    Args:
        **settings: those of `ScoredPruning` and of `WeighsTokens`.
    """

    compares = "row"
    reads_inputs = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.needs = self.needs - {INPUTS} | {self.need}

    def _decide(self, target: Target, count: int, matrix: Tensor) -> Decision:
        return super()._decide(target, count, matrix) | self.decided()

    @classmethod
    def scales(cls, weight: Tensor, statistic: InputStatistic) -> tuple[Tensor, Tensor]:
        return torch.ones_like(weight[:, 0]), input_norm(statistic)


def input_norm(statistic: InputStatistic) -> Tensor:
    """‖X_j‖₂ over all calibration tokens, (in,)."""
    return statistic.second_moment.diagonal().clamp(min=0).sqrt()

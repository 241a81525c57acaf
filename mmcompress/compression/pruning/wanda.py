"""Wanda: a weight matters when it is large and when its input is large.

"A Simple and Effective Pruning Approach for Large Language Models", Sun et al. 2023,
arXiv:2306.11695. Where we differ: embeddings and bare parameters, which have no input norm, are
pruned by magnitude; a gradual schedule keeps the input norms of the dense model.
"""

import torch
from torch import Tensor

from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.statistics import InputStatistic


def wanda_importance(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Weight magnitude times input norm (arXiv:2306.11695, equation 1).

    Args:
        weight: (out, in).
        input_norm: (in,), L2 norm over all calibration tokens.
    Returns:
        (out, in), non-negative; compare within a row.
    """
    return weight.abs() * input_norm


class Wanda(ScoredPruning):
    """Weights without those of least |W_ij| ‖X_j‖₂, by default compared within each output row."""

    compares = "row"
    reads_inputs = True

    @classmethod
    def scales(cls, weight: Tensor, statistic: InputStatistic) -> tuple[Tensor, Tensor]:
        return torch.ones_like(weight[:, 0]), input_norm(statistic)


def input_norm(statistic: InputStatistic) -> Tensor:
    """‖X_j‖₂ over all calibration tokens, (in,)."""
    return statistic.second_moment.diagonal().clamp(min=0).sqrt()

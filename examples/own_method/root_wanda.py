"""Wanda with the root of the input norm: between magnitude pruning and Wanda (arXiv:2306.11695)."""

import torch
from torch import Tensor

from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.pruning.wanda import input_norm
from mmcompress.compression.statistics import InputStatistic


class RootWanda(ScoredPruning):
    """Weights without those of least |W_ij| √‖X_j‖₂, compared within each output row."""

    compares = "row"
    reads_inputs = True

    @classmethod
    def scales(cls, weight: Tensor, statistic: InputStatistic) -> tuple[Tensor, Tensor]:
        return torch.ones_like(weight[:, 0]), input_norm(statistic).sqrt()

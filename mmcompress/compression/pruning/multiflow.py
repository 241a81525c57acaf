"""MULTIFLOW: a weight matters when it is large and when the neurons that it connects carry much.

"MULTIFLOW: Shifting Towards Task-Agnostic Vision-Language Pruning", Farina et al. 2024,
arXiv:2404.05621, equations 6 and 8; equation 7 is `allocation: modality`. Where we differ:
embeddings and bare parameters are pruned by magnitude.
"""

from torch import Tensor

from mmcompress.compression.pruning.scored import ScoredPruning
from mmcompress.compression.statistics import InputStatistic


def neuron_importances(weight: Tensor, input_rms: Tensor) -> tuple[Tensor, Tensor]:
    """How much passes through each output and each input (arXiv:2404.05621, equation 6).

    Args:
        weight: (out, in).
        input_rms: (in,), root of the mean squared activation of each input.
    Returns:
        Of the outputs (out,), and of the inputs (in,).
    """
    flow = weight.abs() * input_rms
    return flow.mean(dim=1), flow.mean(dim=0)


class MultiFlow(ScoredPruning):
    """Weights without those of least flow b_o a_i |W_oi|, by default compared across the tensor."""

    reads_inputs = True

    @classmethod
    def scales(cls, weight: Tensor, statistic: InputStatistic) -> tuple[Tensor, Tensor]:
        mean_square = statistic.second_moment.diagonal().clamp(min=0) / statistic.tokens
        return neuron_importances(weight, mean_square.sqrt())

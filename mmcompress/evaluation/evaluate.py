"""Score a backbone: the one driver of all evaluators."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Evaluator, check_split, inference


def evaluate(
    backbone: Backbone, data: PairData, evaluators: Mapping[str, Evaluator], split: str
) -> dict[str, float]:
    """Run every evaluator on one split.

    The backbone runs in eval mode on the device where its weights are; its mode is restored. On
    one machine the numbers are the same to the last digit in every process.

    Args:
        evaluators: by name, in the order in which they run.
    Returns:
        Metric name → value, those of all evaluators together.
    Raises:
        ValueError: an unknown split, or two evaluators that yield one name.
    """
    check_split(data, split)
    device = next(backbone.parameters()).device

    def encode(modality: str, inputs: Tensor) -> Tensor:
        return backbone.encode(modality, inputs.to(device)).float().cpu()

    metrics: dict[str, float] = {}
    # Loaders draw random numbers: without the fork, training after a baseline that was measured
    # would differ from training after one that was read from the cache.
    with torch.random.fork_rng(devices=[]), inference(backbone):
        for name, evaluator in evaluators.items():
            for metric, value in evaluator(encode, data, split):
                if metric in metrics:
                    raise ValueError(
                        f"evaluation.evaluators.{name} yields {metric}, which another evaluator "
                        "has yielded: drop one of the two"
                    )
                metrics[metric] = value
    return metrics

"""Score a model: the one driver of all evaluators."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Generator, encoder, generator
from mmcompress.backbones.examples import Example
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Comparison, Encode, Evaluator, check_split, inference
from mmcompress.functional.finite import check_rows

log = logging.getLogger(__name__)


def evaluate(
    model: Backbone | Encode,
    data: PairData,
    evaluators: Mapping[str, Evaluator | Comparison],
    split: str,
    *,
    dense: Backbone | None = None,
) -> dict[str, float]:
    """Run every evaluator on one split.

    A backbone runs in eval mode on the device where its weights are; its mode is restored. On
    one machine the numbers are the same to the last digit in every process.

    Args:
        model: what is scored: a backbone, or how another runtime embeds.
        data: with what prepares its inputs attached.
        evaluators: by name, in the order in which they run.
        dense: what a `Comparison` compares with; without it none runs.
    Returns:
        Metric name → value, those of all evaluators together.
    Raises:
        ValueError: an unknown split, two evaluators that yield one name, or a metric that is NaN
            or infinite.
        NotFiniteError: embeddings are NaN or infinite.
    """
    check_split(data, split)
    encode = _Encoder(model) if isinstance(model, Backbone) else model

    def run(name: str, evaluator: Evaluator | Comparison) -> Iterable[tuple[str, float]]:
        if not isinstance(evaluator, Comparison):
            return evaluator(encode, data, split)
        if dense is None:
            log.warning("%s left out: there is no dense model to compare with", name)
            return []
        return evaluator.compare(encode, _Encoder(dense), data, split)

    metrics: dict[str, float] = {}
    # Loaders draw random numbers: without the fork, training after a baseline that was measured
    # would differ from training after one that was read from the cache.
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        for each in {each for each in (model, dense) if isinstance(each, Backbone)}:
            stack.enter_context(inference(each))
        for name, evaluator in evaluators.items():
            for metric, value in run(name, evaluator):
                if metric in metrics:
                    raise ValueError(
                        f"evaluation.evaluators.{name} yields {metric}, which another evaluator "
                        "has yielded: drop one of the two"
                    )
                if not math.isfinite(value):
                    raise ValueError(
                        f"evaluation.evaluators.{name} gives {metric}={value}: the model's outputs "
                        "are out of range, choose a milder recipe or a lower optimizer.lr"
                    )
                metrics[metric] = value
    return metrics


class _Encoder:
    """A backbone on the device where its weights are."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.device = backbone, next(backbone.parameters()).device

    def __call__(self, modality: str, inputs: Tensor, /) -> Tensor:
        model = encoder(self.backbone, "this evaluation needs", "choose another evaluation")
        rows = model.encode(modality, inputs.to(self.device)).float().cpu()
        return check_rows(f"{modality} embeddings", rows)

    def answer_logits(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        moved = {key: tensor.to(self.device) for key, tensor in batch.items()}
        logits, targets = self._generator.answer_logits(moved)
        return logits.float().cpu(), targets.cpu()

    def generate(self, examples: Sequence[Example], *, max_tokens: int) -> list[str]:
        return self._generator.generate(examples, max_tokens=max_tokens)

    @property
    def _generator(self) -> Generator:
        return generator(self.backbone, "this evaluation needs", "choose another evaluation")

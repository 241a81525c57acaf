"""Whether objective and evaluators can work with backbone and data, tried on a few items.

Before a run has a folder and before the dense model is scored, for what does not go together is
found out by doing it.
"""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.examples import Example
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Comparison, Evaluator, inference
from mmcompress.objectives.base import Loss

PAIRS = 2
TELLS = "mmcompress.evaluation"
"""The logger of evaluators, which will say again what they leave out."""


class _Enough(Exception):
    """An evaluator has come to where it runs the model."""


class _Encode:
    """Ends an evaluator at its first batch."""

    def __call__(self, modality: str, inputs: Tensor, /) -> Tensor:
        raise _Enough

    def answer_logits(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        raise _Enough

    def generate(self, examples: Sequence[Example], *, max_tokens: int) -> list[str]:
        raise _Enough


def rehearse(
    backbone: Backbone,
    data: PairData,
    objective: Loss | None,
    evaluators: Mapping[str, Evaluator | Comparison],
    split: str,
) -> None:
    """Take the first step of training and of each evaluator.

    Args:
        data: attached to `backbone`.
        objective: None where nothing is trained.
    Raises:
        ValueError: what does not go together.
    """
    few = copy.copy(data)
    few.eval_batch_size, few.num_workers = 1, 0
    with torch.random.fork_rng(devices=[]), inference(backbone), _silent(logging.getLogger(TELLS)):
        if objective is not None:
            batch = next(iter(few.loader(few.splits["train"], captions="first", batch_size=PAIRS)))
            objective(backbone, _on_device(batch, backbone), teacher=backbone)
        for evaluator in evaluators.values():
            _begin(evaluator, _Encode(), few, split)


def _begin(evaluator: Any, encode: _Encode, data: PairData, split: str) -> None:
    try:
        if isinstance(evaluator, Comparison):
            list(evaluator.compare(encode, encode, data, split))
        else:
            list(evaluator(encode, data, split))
    except _Enough:
        pass


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _on_device(batch: Mapping[str, Any], backbone: Backbone) -> dict[str, Tensor]:
    device = next(backbone.parameters()).device
    return {key: value.to(device) for key, value in batch.items()}

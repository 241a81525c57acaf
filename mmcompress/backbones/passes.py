"""How to run a model: what calibration, latency and search know of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

Batch = Mapping[str, Tensor]
"""Modality → preprocessed inputs; of a `Generator` what its `prepare` gives."""

LABELS, TOKEN_KIND = "labels", "token_kind"
"""Keys that every `Generator` gives beside those of its library's processor."""


def all_tokens(batch: Batch) -> None:
    """The `valid` of a pass whose tokens all are content."""


@dataclass(frozen=True)
class Pass:
    """One way to run a model on a batch. All passes together run every target.

    Attributes:
        name: of the pass; a tower's pass has the name of its modality.
        run: batch → what the model gives.
        modalities: of the targets whose inputs the pass shows.
        valid: batch → which tokens (B, T) are content and not padding; None when all are.
        repeats: whether it runs towers again that other passes show. In such a pass only targets of
            `modalities` count; in others every target that runs.
        timed: whether it is part of what latency measures: everything once.
    """

    name: str
    run: Callable[[Batch], Tensor]
    modalities: Collection[str]
    valid: Callable[[Batch], Tensor | None] = all_tokens
    repeats: bool = False
    timed: bool = True

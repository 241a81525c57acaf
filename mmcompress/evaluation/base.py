"""The contract that every evaluator fulfils, and how a split is embedded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmcompress.backbones.examples import Example
from mmcompress.backbones.passes import LABELS
from mmcompress.data.base import PairData
from mmcompress.functional.finite import check_rows
from mmcompress.functional.not_finite import NotFiniteError, not_scored
from mmcompress.system.progress import progress

ABOUT = ("label", "owner", "content", "wording")
"""What batches say of items beside the inputs of the encoders."""


class Encode(Protocol):
    """How evaluators run the model that they score; what it gives is on the CPU."""

    def __call__(self, modality: str, inputs: Tensor, /) -> Tensor:
        """Embeddings (B, D), L2-normalized, float32.

        Raises:
            NotFiniteError: some are NaN or infinite; what follows from them would be no score.
        """

    def answer_logits(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of a `Generator` what it expects of each token, and the tokens."""

    def generate(self, examples: Sequence[Example], *, max_tokens: int) -> list[str]:
        """Of a `Generator` what it answers."""


class Evaluator(Protocol):
    """Constructor arguments are its config and stay in `vars(self)`: they key the baseline cache.

    A call yields `(metric name, value)`. Data that lack what it needs make it yield nothing, after
    one logged line that says what is missing.
    """

    def __call__(
        self, encode: Encode, data: PairData, split: str
    ) -> Iterable[tuple[str, float]]: ...


@runtime_checkable
class Comparison(Protocol):
    """An evaluator that looks at the dense model beside the one it scores."""

    def compare(
        self, encode: Encode, dense: Encode, data: PairData, split: str
    ) -> Iterable[tuple[str, float]]:
        """The metrics, by name.

        Args:
            encode, dense: of the model that is scored, and of the dense one.
            data: what they are run on.
            split: `val` or `test`.
        """
        ...


def embed(encode: Encode, batches: DataLoader, *modalities: str) -> dict[str, Tensor]:
    """Embeddings (N, D) of a whole data set, by modality, in the order of the data set.

    What batches say of items comes along: `label` (N,); `owner` (T,), the item that each of the T
    texts describes; `content` (N,) and `wording` (T,), equal for equal items and texts.

    Raises:
        ValueError: the backbone that makes the batches lacks a modality.
        NotFiniteError: embeddings are NaN or infinite; says of which items.
    """
    parts: dict[str, list[Tensor]] = {}
    bad: dict[str, list[int]] = {}
    items = 0
    for batch in progress(batches, f"embed {' and '.join(modalities)}"):
        for modality in modalities:  # all of them before the model runs
            if LABELS in batch:
                raise ValueError(
                    "this evaluation needs embeddings and the model writes texts: set "
                    "evaluation=transcription or evaluation=answers"
                )
            if modality not in batch:
                there = ", ".join(key for key in batch if key not in ABOUT)
                raise ValueError(
                    f"this evaluation needs {modality} inputs and the backbone takes "
                    f"{there or 'none of the data'} alone: set evaluation=agreement"
                )
        for modality in modalities:
            try:
                rows = check_rows(modality, encode(modality, batch[modality]))
            except NotFiniteError as error:
                bad.setdefault(modality, []).extend(_items_of(batch, modality, error.rows, items))
                continue
            parts.setdefault(modality, []).append(rows)
        for key in ABOUT:
            if key in batch and key != "owner":
                parts.setdefault(key, []).append(batch[key])
        if "owner" in batch:
            parts.setdefault("owner", []).append(items + batch["owner"])
            items += int(batch["owner"][-1]) + 1  # ascending, and each item has a text
        else:
            items += len(batch[modalities[0]])
    for modality, found in bad.items():
        names = _names_of(batches, found, items)
        raise NotFiniteError(not_scored(f"{modality} embeddings", names, items), found)
    return {key: torch.cat(found) for key, found in parts.items()}


def _items_of(
    batch: Mapping[str, Tensor], modality: str, rows: Sequence[int], first: int
) -> list[int]:
    """The items that rows of a batch belong to, each once, `first` being the batch's first."""
    if modality == "text" and "owner" in batch:
        rows = batch["owner"][list(rows)].unique().tolist()
    return [first + row for row in rows]


def _names_of(batches: DataLoader, items: Sequence[int], total: int) -> list[str]:
    """What the data set calls them; numbers where it has no names, or where items were left out."""
    keys = getattr(batches.dataset, "keys", [])
    return [keys[item] if len(keys) == total else str(item) for item in items]


def check_split(data: PairData, split: str) -> None:
    """Refuse a split that `data` does not have, or of which nothing can be read.

    Args:
        data: the data set.
        split: `train`, `val` or `test`.
    Raises:
        ValueError: names the splits there are, or the first item and what is wrong with it.
    """
    if split not in data.splits:
        raise ValueError(
            f"evaluation.split={split!r} is not a split of {data.name}: "
            f"choose one of {', '.join(data.splits)}"
        )
    data.check_readable(split)


@contextmanager
def inference(model: nn.Module) -> Iterator[Any]:
    """Eval mode without gradients; afterwards every module has its old mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module, training in modes.items():
            module.training = training

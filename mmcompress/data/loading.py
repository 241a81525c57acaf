"""Loaders: in which order items are read, and what becomes of those that cannot be."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from mmcompress.data.items import Items
from mmcompress.data.losses import Losses

Batch = dict[str, Tensor]
"""Modality → preprocessed inputs; `label` (B,) where items have one; `owner` (T,), the item in the
batch that each text describes, where items have texts of their own; `content` (B,) and `wording`
(T,), equal for equal items and equal texts; `concept` (B,), equal for items whose texts are prompts
with the same class name."""

LOST = "lost"
"""Those items of a batch that could not be read; `Loader` takes them out."""

FAILED = "failed"
"""In place of a batch, the error that ends the run."""


class EpochOrder(RandomSampler):
    """An order that depends on seed and epoch only, so that a resumed run sees what it would have.

    Lightning calls `set_epoch`, and puts its own sampler in this one's place under DDP.
    """

    def __init__(self, dataset: Items, seed: int) -> None:
        super().__init__(dataset)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(len(self), generator=generator).tolist()


class Loader(DataLoader):
    """Batches of `PairData.collate`; says which items could not be read, and how many.

    It does so itself, for a worker process forgets with each pass what it has told.

    Raises:
        ValueError: no item of a pass can be read.
    """

    _read = 0
    """Batches that were read in this pass; one of which no item could be read is among them."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        items, first, some = cast(Items, self.dataset), None, False
        losses = Losses() if items.losses is None else items.losses
        for self._read, batch in enumerate(super().__iter__(), start=1):
            if FAILED in batch:
                raise batch[FAILED]
            for lost in batch.pop(LOST):
                losses.add(lost.reason, lost.item, str(lost))
                first = first or lost.args[0]
            losses.tell_names(items.title)
            if batch:
                some = True
                yield batch
        if first and not some:
            raise items.none_readable(first)
        losses.tell_counts(items.title)


class ResumableLoader(Loader):
    """A loader whose place in the epoch Lightning writes to checkpoints and reads back."""

    _skipped = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        skipped, self._skipped = self._skipped, 0
        self._read = 0
        for batch in super().__iter__():
            if self._read > skipped:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._read % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._skipped = state["batches"]

"""Paired data: what every data set hands to calibration, training and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset

from mmcompress.backbones.base import Backbone

Batch = dict[str, Tensor]


class PairDataset(Dataset):
    """Images and one caption each; index i gives `{"image": image, "text": caption}`.

    Args:
        images: uint8 tensors (3, H, W) or PIL images.
        captions: as many strings.
        augment: image → image, applied at each access.
    """

    def __init__(
        self,
        *,
        images: Sequence[Any],
        captions: Sequence[str],
        augment: Callable[[Any], Any] | None = None,
    ) -> None:
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images but {len(captions)} captions: pair them up")
        self.images = images
        self.captions = captions
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        return {
            "image": self.augment(image) if self.augment else image,
            "text": self.captions[index],
        }


@dataclass(frozen=True)
class Classification:
    """A labelled set for zero-shot classification.

    `labels` (N,) int64 index `class_names`; each template holds one `{}` for a class name.
    """

    name: str
    dataset: PairDataset
    labels: Tensor
    class_names: Sequence[str]
    templates: Sequence[str]


class EpochOrder(RandomSampler):
    """An order that depends on seed and epoch only, so that a resumed run sees what it would have.

    Lightning calls `set_epoch`, and puts its own sampler in this one's place under DDP.
    """

    def __init__(self, dataset: PairDataset, seed: int) -> None:
        super().__init__(dataset)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(len(self), generator=generator).tolist()


class ResumableLoader(DataLoader):
    """A loader whose place in the epoch Lightning writes to checkpoints and reads back."""

    _given = 0
    _skipped = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        skipped, self._skipped = self._skipped, 0
        self._given = 0
        for batch in super().__iter__():
            self._given += 1
            if self._given > skipped:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._skipped = state["batches"]


class PairData(pl.LightningDataModule, ABC):
    """Base of all data sets: splits in, loaders of preprocessed batches out.

    A subclass gives `build_splits` and, where it has labels, `classification`. The backbone owns
    preprocessing and tokenisation, so it is attached before loaders are asked for.

    Args:
        batch_size: training pairs per step; negatives of the contrastive loss come from them.
        eval_batch_size: items per encoder call in evaluation.
        calibration_size: pairs of `train` that calibration sees.
        num_workers: worker processes per loader.
        seed: orders the training pairs and draws the calibration sample.
    """

    name: str
    splits: dict[str, PairDataset]
    backbone: Backbone

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        calibration_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for key, value in {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "calibration_size": calibration_size,
        }.items():
            if value < 1:
                raise ValueError(f"data.{key}={value} must be at least 1")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.calibration_size = calibration_size
        self.num_workers = num_workers
        self.seed = seed

    @abstractmethod
    def build_splits(self) -> dict[str, PairDataset]:
        """`{"train": …, "val": …, "test": …}`, disjoint."""

    def classification(self, split: str) -> Classification | None:
        """The labelled set of `split`, None where the data has no labels."""
        return None

    def attach(self, backbone: Backbone) -> None:
        """Read the splits and use `backbone` to preprocess and tokenise from now on."""
        self.backbone = backbone
        if not hasattr(self, "splits"):
            self.splits = self.build_splits()

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Inputs of the modalities that the backbone has."""
        batch = {}
        if "image" in self.backbone.modalities:
            batch["image"] = self._pixels([item["image"] for item in items])
        if "text" in self.backbone.modalities:
            batch["text"] = self.backbone.tokenize([item["text"] for item in items])
        return batch

    def _pixels(self, images: list[Any]) -> Tensor:
        if all(torch.is_tensor(image) and image.shape == images[0].shape for image in images):
            return self.backbone.preprocess(torch.stack(images))  # one call is much cheaper
        return torch.stack([self.backbone.preprocess(image) for image in images])

    def _loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        return DataLoader(dataset, collate_fn=self.collate, num_workers=self.num_workers, **options)

    def train_dataloader(self) -> DataLoader:
        train = self.splits["train"]
        # A last batch of few pairs would have few negatives, so it is left out.
        return ResumableLoader(
            train,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            batch_size=min(self.batch_size, len(train)),
            sampler=EpochOrder(train, self.seed),
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> DataLoader:
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> DataLoader:
        return self._loader(self.splits[split], batch_size=self.eval_batch_size)

    def calibration_dataloader(self) -> DataLoader:
        """Pairs of `train` without augmentation, a sample that depends on `seed` only."""
        train = self.splits["train"]
        plain = PairDataset(images=train.images, captions=train.captions)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        sample = Subset(plain, order[: self.calibration_size].tolist())
        return self._loader(sample, batch_size=self.eval_batch_size)

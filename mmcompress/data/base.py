"""Paired data: what every data set hands to calibration, training and evaluation."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmcompress.backbones.base import Prepares
from mmcompress.backbones.examples import Example, Waveform
from mmcompress.config.errors import USER_ERRORS
from mmcompress.data.content import content_id
from mmcompress.data.decode import cropped, resampled
from mmcompress.data.examples import EXAMPLES, example_of
from mmcompress.data.items import Item, Items, Repeatable, Sample
from mmcompress.data.loading import FAILED, LOST, EpochOrder, Loader, ResumableLoader
from mmcompress.data.losses import NAMED, Losses, by_reason
from mmcompress.functional.pictures import drop_alpha
from mmcompress.inputs.files import Unreadable

log = logging.getLogger(__name__)

Captions = Literal["all", "first", "random"]


SENSED = ("image", "audio")
"""What an item may hold beside text and label."""
TAKEN_BY = {
    "image": "a backbone of images, such as backbone=mini",
    "audio": "a backbone of sounds, such as backbone=clap_small, or backbone=hf with a CLAP",
}


@dataclass(frozen=True)
class Classification:
    """A labeled set for zero-shot classification.

    The labels of `dataset` index `class_names`; each template holds one `{}` for a class name.
    Where classes have `names` of their own, the templates are filled with all names of a class
    (class-specific prompts, as in CuPL, Pratt et al. 2022, arXiv:2209.03320).
    """

    name: str
    dataset: Items
    class_names: Sequence[str]
    templates: Sequence[str]
    names: Sequence[Sequence[str]] | None = None

    def prompts(self, label: int) -> list[str]:
        """What the text tower reads for one class."""
        names = [self.class_names[label]] if self.names is None else self.names[label]
        return [template.format(name) for name in names for template in self.templates]


class PairData(ABC):
    """Base of all data sets: splits in, loaders of preprocessed batches out.

    A subclass gives `build_splits` and, where its items have labels, `class_names` and
    `templates`. The backbone owns preprocessing and tokenization, so it is attached before loaders
    are asked for.

    Args:
        batch_size: training pairs per step; negatives of the contrastive loss come from them.
        eval_batch_size: items per encoder call in evaluation.
        calibration_size: pairs of `train` that calibration sees.
        num_workers: worker processes per loader.
        seconds: sounds that last longer are cut to this; when None, to what the model hears.
        seed: orders the training pairs and draws the calibration sample.

    Attributes:
        remedy: what to do when no item can be read.
    """

    name: str
    splits: dict[str, Items]
    backbone: Prepares
    class_names: Sequence[str] = ()
    templates: Sequence[str] = ("{}",)
    remedy: str = Items.remedy

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        calibration_size: int = 256,
        num_workers: int = 0,
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        for key, value in {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "calibration_size": calibration_size,
        }.items():
            if value < 1:
                raise ValueError(f"data.{key}={value} must be at least 1")
        if num_workers < 0:
            raise ValueError(f"data.num_workers={num_workers} must not be negative")
        if seconds is not None and seconds <= 0:
            raise ValueError(f"data.seconds={seconds} must be positive, or null for whole sounds")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.calibration_size = calibration_size
        self.num_workers = num_workers
        self.seconds = seconds
        self.seed = seed
        self._told: set[str] = set()

    @abstractmethod
    def build_splits(self) -> dict[str, Items]:
        """`{"train": …, "val": …, "test": …}`, disjoint."""

    def classification(self, split: str) -> Classification | None:
        """The labeled set of `split`, None where the data has no labels."""
        if not self.class_names:
            return None
        return Classification(self.name, self.splits[split], self.class_names, self.templates)

    def classifications(self, split: str) -> dict[str, Classification]:
        """The labeled sets of `split`, by what metrics call them; "" where there is only one."""
        labeled = self.classification(split)
        return {} if labeled is None else {"": labeled}

    def warn_once(self, message: str) -> None:
        """Log a line, unless it was logged before: both models are scored on the same data."""
        if message not in self._told:
            log.warning("%s %s", self.name, message)
        self._told.add(message)

    def attach(self, backbone: Prepares) -> None:
        """Read the splits and use `backbone` to preprocess and tokenize from now on.

        What splits leave out is logged, at most once.

        Raises:
            ValueError: a split is empty.
        """
        self.backbone = backbone
        if not hasattr(self, "splits"):
            self.splits = self.checked(self.build_splits())

    def checked(self, splits: dict[str, Items]) -> dict[str, Items]:
        """The splits, after what they leave out was logged: at most once.

        Raises:
            ValueError: one is empty, or has a label that is too high.
        """
        for split, items in splits.items():
            self._check(split, items)
        return splits

    def _check(self, split: str, items: Items) -> None:
        items.title, items.remedy = f"{self.name} {split}", self.remedy
        items.losses = items.losses or Losses()
        items.losses.tell_names(items.title)
        items.losses.tell_counts(items.title)
        if len(items) == 0:
            lost = by_reason(items.losses.counts)
            why = f" ({lost})" if lost else ""
            raise ValueError(f"data {self.name}: split {split} is empty{why}")
        if items.labels is None or not self.class_names:
            return
        if max(items.labels) >= len(self.class_names):
            key = items.keys[items.labels.index(max(items.labels))]
            raise ValueError(
                f"data {self.name}: item {key} of {split} has label {max(items.labels)} and there "
                f"are {len(self.class_names)} class names: make them match"
            )
        empty = sorted({*range(len(self.class_names))} - {*items.labels})
        if empty and split != "val":  # which may be a small part of `train`
            names = ", ".join(self.class_names[index] for index in empty[:NAMED])
            items.losses.say(
                f"{items.title}: {len(empty)} of {len(self.class_names)} classes have no item: "
                f"{names}{', …' if len(empty) > NAMED else ''}"
            )

    def check_readable(self, split: str) -> None:
        """Refuse a split of which no item can be read; it reads until one can be.

        Raises:
            ValueError: says what is wrong with the first item, or that the backbone takes none of
                what the first readable one holds.
        """
        items = self.splits[split].plain()
        first = ""
        for index in range(len(items)):
            item = items[index]
            if not isinstance(item, Unreadable):
                self._check_modalities(item)
                return
            first = first or item.args[0]
        raise items.none_readable(first)

    def _check_modalities(self, item: Item) -> None:
        there = [key for key in SENSED if key in item]
        wanted = [key for key in SENSED if key in self.backbone.modalities]
        if there and wanted and not set(there) & set(wanted):
            raise ValueError(
                f"data {self.name} holds {' and '.join(there)}, and the backbone "
                f"({type(self.backbone).__name__}) takes {' and '.join(self.backbone.modalities)}: "
                f"choose {TAKEN_BY[there[0]]}, or data with {wanted[0]}"
            )

    def summary(self) -> dict[str, dict[str, Any]]:
        """Split → `items`, those that were found, and `left_out`, reason → how many.

        Items that turned out damaged count among both; what was not read yet cannot be known.
        """
        return {
            split: {"items": len(items), "left_out": items.losses.counts if items.losses else {}}
            for split, items in self.splits.items()
        }

    def collate(
        self, items: Sequence[Item | Unreadable], *, captions: Captions = "all"
    ) -> dict[str, Any]:
        """Inputs of the modalities that the backbone has, labels, and which items are lost.

        Args:
            items: for one that could not be read, the reason.
            captions: `all` that an item has, and `owner` says whose they are, `content` and
                `wording` which items and captions are equal; or one for each item,
                the `first` or a `random` one, a prompt with the class name where it has none.
                With `random` sounds are cut at a random place, else in the middle.
        """
        read = [item for item in items if not isinstance(item, Unreadable)]
        batch: dict[str, Any] = {LOST: [i for i in items if isinstance(i, Unreadable)]}
        if not read:
            return batch
        if self.backbone.reads_examples:
            return {**batch, **self.backbone.prepare([self._example(i, captions) for i in read])}
        if "image" in self.backbone.modalities and "image" in read[0]:
            batch["image"] = self._pixels([item["image"] for item in read])
        if "audio" in self.backbone.modalities and "audio" in read[0]:
            waves = [self._heard(item["audio"], captions == "random") for item in read]
            batch["audio"] = self.backbone.preprocess_audio(waves)
        if "label" in read[0]:
            batch["label"] = torch.tensor([self._label(item) for item in read])
        if "text" in self.backbone.modalities:
            batch |= self._texts(read, captions)
        seen = next((key for key in ("image", "audio") if key in batch), None)
        if captions == "all" and seen is not None:
            batch["content"] = torch.tensor([content_id(item[seen]) for item in read])
        return batch

    def collate_examples(self, items: Sequence[Item | Unreadable]) -> dict[str, Any]:
        """What a generative model is asked, with all answers, and which items are lost."""
        lost = [item for item in items if isinstance(item, Unreadable)]
        read = [item for item in items if not isinstance(item, Unreadable)]
        examples = {EXAMPLES: [self._example(item, "all") for item in read]} if read else {}
        return {LOST: lost, **examples}

    def _example(self, item: Item, captions: Captions) -> Example:
        texts = _as_list(item.get("text", []))
        if captions == "random" and texts and "prompt" not in item:  # of answers the first counts
            texts = [_drawn(texts)]
        sound = None
        if "audio" in item and "audio" in self.backbone.modalities:
            heard = self._heard(item["audio"], False)
            sound = Waveform(heard, self.backbone.sampling_rate)
        return example_of(item, texts, sound)

    def _batch(
        self, items: Sequence[Any], *, collate: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """`collate`, or the error that ends the run: see `Items.__getitems__`."""
        failures = [i for i in items if isinstance(i, Exception) and not isinstance(i, Unreadable)]
        try:
            return {FAILED: failures[0]} if failures else collate(items)
        except USER_ERRORS as error:
            return {FAILED: error}

    def _texts(self, items: Sequence[Item], captions: Captions) -> dict[str, Tensor]:
        if captions == "all":
            if "text" not in items[0]:
                return {}
            texts = [_as_list(item["text"]) for item in items]
            owners = [i for i, of_item in enumerate(texts) for _ in of_item]
            flat = [text for of_item in texts for text in of_item]
            return {
                "text": self.backbone.tokenize(flat),
                "owner": torch.tensor(owners),
                "wording": torch.tensor([content_id(text) for text in flat]),
            }
        choices = [
            _as_list(item["text"]) if "text" in item else self._prompts(item) for item in items
        ]
        chosen = [_drawn(texts) if captions == "random" else texts[0] for texts in choices]
        found = {"text": self.backbone.tokenize(chosen)}
        if "text" not in items[0]:
            names = list(self.class_names)
            found["concept"] = torch.tensor([names.index(names[i["label"]]) for i in items])
        return found

    def _prompts(self, item: Item) -> list[str]:
        name = self.class_names[self._label(item)]
        return [template.format(name) for template in self.templates]

    def _label(self, item: Item) -> int:
        label, classes = item["label"], len(self.class_names)
        if label < 0 or 0 < classes <= label:
            raise ValueError(
                f"data {self.name}: an item has label {label} and there are {classes} class "
                "names: make them match"
            )
        return label

    def _heard(self, wave: Waveform, anywhere: bool) -> Tensor:
        """What the model hears of a sound: `seconds` of it, or as much as the model can take."""
        at = float(torch.rand(())) if anywhere else 0.5
        seconds = self.seconds or (self.backbone.window if anywhere else None)
        if seconds is not None:
            wave = cropped(wave, seconds, at=at)
        return resampled(wave, self.backbone.sampling_rate).samples

    def _pixels(self, images: list[Any]) -> Tensor:
        if all(torch.is_tensor(image) and image.shape == images[0].shape for image in images):
            return self.backbone.preprocess(torch.stack(images))  # one call is much cheaper
        if not self.backbone.reads_alpha:
            images = [drop_alpha(image) for image in images]
        return torch.stack([self.backbone.preprocess(image) for image in images])

    def loader(
        self,
        items: Items,
        *,
        captions: Captions = "all",
        kind: type[Loader] = Loader,
        collate: Callable[..., dict[str, Any]] | None = None,
        **options: Any,
    ) -> Loader:
        """Preprocessed batches of items.

        Args:
            captions: of `collate`.
            collate: items → batch, in place of `self.collate`.
            **options: of `torch.utils.data.DataLoader`; in order, `eval_batch_size` at a time,
                when there are none.
        """
        return kind(
            items,
            collate_fn=partial(
                self._batch, collate=collate or partial(self.collate, captions=captions)
            ),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options or {"batch_size": self.eval_batch_size},
        )

    def train_dataloader(self) -> DataLoader:
        train = self.splits["train"]
        return self.loader(
            Repeatable(train, self.seed),
            captions="random",
            kind=ResumableLoader,
            batch_size=min(self.batch_size, len(train)),
            sampler=EpochOrder(train, self.seed),
            drop_last=True,  # a last batch of few pairs would have few negatives
        )

    def val_dataloader(self) -> DataLoader:
        """Pairs of `val` for validation while training."""
        return self.loader(self.splits["val"], captions="first")

    def eval_dataloader(self, split: str) -> DataLoader:
        """All of a split for evaluation, with all captions."""
        return self.loader(self.splits[split])

    def example_dataloader(self, split: str) -> DataLoader:
        """All of a split as lists of `Example`, under the key `EXAMPLES`, with all answers."""
        return self.loader(self.splits[split], collate=self.collate_examples)

    def calibration_dataloader(self) -> DataLoader:
        """Pairs of `train` without augmentation, a sample that depends on `seed` only."""
        train = self.splits["train"]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        sample = Sample(train.plain(), order[: self.calibration_size].tolist())
        return self.loader(sample, captions="first")


def _drawn(texts: Sequence[str]) -> str:
    """One of them at random; where there is no choice, no random number is used up."""
    return texts[int(torch.randint(len(texts), ()))] if len(texts) > 1 else texts[0]


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)

"""A model of two matrices whose scores can be worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.capabilities import Encoder
from mmcompress.data.base import Classification, PairData
from mmcompress.data.items import Items, PairDataset

COLORS = ("red", "green", "blue")


class ColorModel(Encoder):
    """Image → its mean color; text → the unit vector of the color it names. Both are weights."""

    adapter = "color"
    roles: ClassVar[Sequence[tuple[str, str, str]]] = [
        (r"image\.weight", "image", "proj"),
        (r"text\.weight", "text", "embed"),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [("image", "image"), ("text", "text")]

    def __init__(self) -> None:
        super().__init__(
            nn.ModuleDict({"image": nn.Linear(3, 3, bias=False), "text": nn.Embedding(3, 3)})
        )
        for module in self.model.values():
            nn.init.eye_(module.weight)
        self.calls: list[tuple[str, int, bool]] = []
        """(modality, batch size, training mode) of every encoding."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        self.calls.append(("image", len(pixels), self.model["image"].training))
        return self.model["image"](pixels.mean(dim=(2, 3)))

    def encode_text(self, ids: Tensor) -> Tensor:
        self.calls.append(("text", len(ids), self.model["text"].training))
        return self.model["text"](ids[:, 0])

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(1.0)

    def preprocess(self, image: Any) -> Tensor:
        return image.float() / 255

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        found = [[i for i, c in enumerate(COLORS) if c in text.split()] for text in texts]
        return torch.tensor(found)

    @property
    def spec(self) -> dict[str, Any]:
        return {"colors": list(COLORS)}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        return cls()


class ColorData(PairData):
    """One plain picture and one caption per color; `val` has no labels."""

    name = "colors"

    def build_splits(self) -> dict[str, Items]:
        images = [torch.zeros(3, 2, 2, dtype=torch.uint8) for _ in COLORS]
        for channel, image in enumerate(images):
            image[channel] = 255
        pairs = PairDataset(images=images, captions=[f"all {color}" for color in COLORS])
        return {"train": pairs, "val": pairs, "test": pairs}

    def classification(self, split: str) -> Classification | None:
        if split != "test":
            return None
        dataset = self.splits[split]
        return Classification(
            name="color",
            dataset=PairDataset(images=dataset.images, captions=dataset.captions, labels=range(3)),
            class_names=COLORS,
            templates=["a {} thing", "something {}"],
        )


@pytest.fixture
def model() -> ColorModel:
    """Every image closest to its own caption."""
    return ColorModel()


@pytest.fixture
def data(model: ColorModel) -> ColorData:
    colors = ColorData(eval_batch_size=2)
    colors.attach(model)
    return colors


@pytest.fixture
def confused(model: ColorModel) -> ColorModel:
    """Takes red pictures for green ones and green ones for red ones."""
    other = ColorModel()
    with torch.no_grad():
        other.model["image"].weight.copy_(torch.eye(3)[[1, 0, 2]])
    return other

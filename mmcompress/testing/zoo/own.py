"""Models of no library: the packaged classifier, and encoders that a user might have written."""

from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.custom import Custom
from mmcompress.backbones.mlp import MLP
from mmcompress.testing.zoo.family import Family, randomized, seeded

SIZE, WORDS, DIM = 32, 4096, 64


class Pictures(nn.Module):
    """Three convolutions and a projection: (B, 3, 32, 32) → (B, 64)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in [(3, 32), (32, 64), (64, 128)]:
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        self.layers, self.projection = nn.Sequential(*layers), nn.Linear(128, DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(self.layers(pixels).mean(dim=(2, 3)))


class Bag(nn.Module):
    """The mean of word vectors, projected: (B, L) → (B, 64). Token 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, DIM, padding_idx=0)
        self.projection = nn.Linear(DIM, DIM)

    def forward(self, ids: Tensor) -> Tensor:
        counts = (ids > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.projection(self.words(ids).sum(dim=1) / counts)


def hash_words(texts: list[str]) -> Tensor:
    """Token ids (B, L) by the letters of each word, padded to the longest text."""
    rows = [[1 + hashed(word) for word in text.lower().split()] for text in texts]
    return nn.utils.rnn.pad_sequence([torch.tensor(row or [0]) for row in rows], batch_first=True)


def hashed(word: str) -> int:
    return reduce(lambda value, byte: (31 * value + byte) % (WORDS - 1), word.encode(), 0)


def _custom(folder: Path) -> Backbone:
    steps = [v2.RGB(), v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToPureTensor()]
    with seeded():
        backbone = Custom(
            image_encoder=Pictures(),
            text_encoder=Bag(),
            transform=v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)]),
            tokenizer=hash_words,
            pad_id=0,
            roles=[
                (r"image_encoder\.projection\.weight", "image", "proj"),
                (r"text_encoder\.projection\.weight", "text", "proj"),
            ],
        )
        return randomized(backbone).eval()


def _mlp(folder: Path) -> Backbone:
    with seeded():
        return randomized(MLP(hidden=[64, 64])).eval()


FAMILIES = [Family("mlp", _mlp), Family("custom", _custom)]

"""A family of models: one architecture, small, with random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.examples import Example, Waveform
from mmcompress.testing.zoo.words import COLORS, THINGS

M = TypeVar("M", bound=nn.Module)

CAPTIONS = [f"{color} {thing}" for thing, color in zip(THINGS, COLORS * 3, strict=False)]


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: of the file in `conf/backbone/` that loads such models, and of the architecture.
        build: folder → the same model each time; the folder is empty and takes the files that a
            user's would hold, such as a tokenizer.
    """

    name: str
    build: Callable[[Path], Backbone]


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def randomized(model: M, *, std: float | None = None) -> M:
    """All parameters drawn anew: biases of zero and scales of one would hide a mix-up.

    Args:
        std: of weights; that which keeps the size of what they are multiplied with when None.
    """
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.2)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=std or parameter[0].numel() ** -0.5)
    return model


def examples_for(backbone: Backbone, number: int = 8) -> list[Example]:
    """Questions on random pictures, or tones, with an answer of two words."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(number):
        pixels = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        rate = backbone.sampling_rate
        tone = torch.sin(2 * torch.pi * 150 * (index + 1) * torch.arange(rate) / max(rate, 1))
        found.append(
            Example(
                prompt="what is it?",
                answers=(CAPTIONS[index % len(CAPTIONS)],),
                images=(to_pil_image(pixels),) if "image" in backbone.modalities else (),
                sound=Waveform(tone, rate) if "audio" in backbone.modalities else None,
            )
        )
    return found


def batch_of(backbone: Backbone, pairs: int = 8) -> dict[str, Tensor]:
    """Random pictures, tones, captions and labels, as `PairData` would hand them over."""
    if backbone.reads_examples:
        return dict(backbone.prepare(examples_for(backbone, pairs)))
    generator = torch.Generator().manual_seed(0)
    batch: dict[str, Tensor] = {"label": torch.arange(pairs) % 4}
    if "image" in backbone.modalities:
        pixels = torch.randint(0, 256, (pairs, 3, 64, 64), generator=generator, dtype=torch.uint8)
        batch["image"] = backbone.preprocess(pixels)
    if "audio" in backbone.modalities:
        rate = backbone.sampling_rate
        seconds = torch.arange(rate) / rate
        tones = [torch.sin(2 * torch.pi * 150 * (n + 1) * seconds) for n in range(pairs)]
        batch["audio"] = backbone.preprocess_audio(tones)
    if "text" in backbone.modalities:
        batch["text"] = backbone.tokenize(CAPTIONS[:pairs])
    return batch

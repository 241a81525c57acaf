"""Pairs that are given as a list: no folder, no split, no configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmcompress.backbones.examples import Waveform
from mmcompress.data.base import PairData
from mmcompress.data.decode import read_audio
from mmcompress.data.items import Item, Items
from mmcompress.functional.pictures import with_alpha
from mmcompress.inputs.files import Unreadable, read_image


class ListedPairs(Items):
    """Pairs (picture, text) or (sound, text); files are read when they are asked for.

    Args:
        pairs: of a path, a PIL image or a tensor (3, H, W), and one caption or a list of several.
            For sounds: of a path, or (samples, rate).
        sense: what the first of each pair is: `image` or `audio`.
    Raises:
        ValueError: one is no pair.

    Example:
        >>> from PIL import Image
        >>> items = ListedPairs([(Image.new("L", (8, 8)), "a square")])
        >>> items[0]["image"].mode, items[0]["text"]
        ('RGB', 'a square')
    """

    def __init__(self, pairs: Sequence[Any], sense: str = "image") -> None:
        for index, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not _is_text(pair[1]):
                raise ValueError(
                    f"data[{index}] is a {type(pair).__name__} and must be a pair of "
                    f"{'a picture' if sense == 'image' else 'a sound'} and a text: "
                    '(…, "a photo of a cat")'
                )
        self.pairs, self.sense = pairs, sense

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Item:
        value, text = self.pairs[index]
        read = as_picture if self.sense == "image" else as_waveform
        try:
            return {self.sense: read(value), "text": text}
        except Unreadable as error:
            raise error.within(str(value)) if isinstance(value, str | Path) else error from error
        except ValueError as error:
            raise Unreadable(str(error)) from error


class GivenPairs(PairData):
    """Splits of pairs that are given as lists.

    Args:
        splits: name of a split → pairs, as `ListedPairs` takes them.
        **options: of `PairData`.
    """

    name = "pairs"

    def __init__(self, splits: Mapping[str, Sequence[Any]], **options: Any) -> None:
        super().__init__(**options)
        self._pairs = splits

    def build_splits(self) -> dict[str, Items]:
        sense = "image" if "image" in self.backbone.modalities else "audio"
        return {name: ListedPairs(pairs, sense) for name, pairs in self._pairs.items()}


def as_picture(value: Any) -> Any:
    """A PIL image of mode RGB or RGBA, or the tensor that was given.

    Args:
        value: a path, a PIL image of any mode, or a tensor.
    Raises:
        ValueError: it is none of them, or cannot be read.
    """
    if isinstance(value, str | Path):
        return read_image(Path(value))
    return value if torch.is_tensor(value) else with_alpha(value)


def as_waveform(value: Any) -> Waveform:
    """A sound.

    Args:
        value: a path, a `Waveform`, or (samples, rate): one channel (n,) in [−1, 1], as a tensor
            or an array, and the number of samples per second.
    Raises:
        ValueError: it is none of them, or cannot be read.
    """
    if isinstance(value, Waveform):
        return value
    if isinstance(value, str | Path):
        return read_audio(Path(value))
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(
            f"a {type(value).__name__} is no sound: give a path, or (samples, rate) with the "
            "number of samples per second"
        )
    samples, rate = torch.as_tensor(value[0]), value[1]
    if samples.ndim != 1 or len(samples) == 0 or not isinstance(rate, int) or rate < 1:
        raise ValueError(
            f"samples of shape {tuple(samples.shape)} with rate={rate!r} are no sound: give one "
            "channel (n,) and a whole number of samples per second"
        )
    return Waveform(samples, rate)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, tuple | list)
        and len(value) > 0
        and all(isinstance(text, str) for text in value)
    )

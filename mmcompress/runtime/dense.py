"""A loaded model that embeds pictures, texts and sounds: every weight is decoded to float32."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import encoder
from mmcompress.data.decode import Waveform, resampled
from mmcompress.data.pairs import as_picture, as_waveform
from mmcompress.data.text import check_characters
from mmcompress.functional.finite import check_rows
from mmcompress.functional.pictures import drop_alpha
from mmcompress.inputs.files import Unreadable
from mmcompress.system.progress import progress

T = TypeVar("T")

SHOWN_FROM = 4
"""Batches from which on a progress bar is drawn."""


class DenseModel:
    """Embeds pictures, texts and sounds with a model of ordinary PyTorch modules.

    Inputs are prepared by the model's own preprocessing and tokenizer, and no gradients are kept.

    Args:
        backbone: runs on the device where its weights are; it is put into evaluation mode.

    Example:
        >>> import mmcompress as mmc
        >>> model = DenseModel(mmc.backbone("mini"))
        >>> model.embed_texts(["red heart", "blue heart"]).shape
        torch.Size([2, 192])
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone.eval()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model embeds: some of `image`, `text` and `audio`."""
        return self.backbone.modalities

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """Embeddings (N, D) of pictures: float32 on the CPU, L2-normalized, without gradient.

        Args:
            images: N of them: paths, PIL images, or tensors (3, H, W) of uint8 or of floats in
                [0, 1]. They may differ in size and kind. A tensor (N, 3, H, W) is N pictures.
            batch_size: pictures in memory at a time.
        Raises:
            ValueError: there is none, one cannot be read, or the model has no image tower.

        Example:
            >>> import mmcompress as mmc
            >>> from PIL import Image
            >>> model = DenseModel(mmc.backbone("mini"))
            >>> found = model.embed_images([Image.new("RGB", (80, 60), "red")])
            >>> found.shape, round(found.norm().item(), 4)
            (torch.Size([1, 192]), 1.0)
        """
        return self._embed("image", images, batch_size, as_picture, self._pixels)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Embeddings (N, D) of texts: float32 on the CPU, L2-normalized, without gradient.

        Args:
            texts: N strings; what exceeds the model's context length is cut off.
            batch_size: texts in memory at a time.
        Raises:
            ValueError: there is none, one is no string, or the model has no text tower.
        """
        return self._embed("text", texts, batch_size, _text, self.backbone.tokenize)

    def embed_audio(self, sounds: Sequence[Any], *, batch_size: int = 32) -> Tensor:
        """Embeddings (N, D) of sounds: float32 on the CPU, L2-normalized, without gradient.

        Args:
            sounds: N of them: paths, or pairs (samples, rate) of samples (n,) in [−1, 1], a tensor
                or an array, and their number per second. They are resampled to what the model
                hears, and cut to their middle where it hears less.
            batch_size: sounds in memory at a time.
        Raises:
            ValueError: there is none, one cannot be read, or the model has no audio tower.
        """
        return self._embed("audio", sounds, batch_size, as_waveform, self._features)

    def _embed(
        self,
        modality: str,
        inputs: Sequence[T],
        batch_size: int,
        read: Callable[[T], Any],
        prepare: Callable[[list[Any]], Tensor],
    ) -> Tensor:
        name = "texts" if modality == "text" else "sounds" if modality == "audio" else "images"
        self._check(modality, name, inputs, batch_size)
        model = encoder(self.backbone, "this needs", "load one that embeds its inputs")
        device = next(model.parameters()).device
        starts = progress(range(0, len(inputs), batch_size), f"embed {name}", least=SHOWN_FROM)
        parts = []
        with torch.inference_mode():
            for start in starts:
                numbers = range(start, min(start + batch_size, len(inputs)))
                batch = [_read(name, number, read, inputs[number]) for number in numbers]
                rows = model.encode(modality, prepare(batch).to(device))
                parts.append(check_rows(f"{modality} embeddings", rows.float().cpu()))
        return torch.cat(parts).clone()  # an ordinary tensor, which may take part in training

    def _check(self, modality: str, name: str, inputs: Any, batch_size: int) -> None:
        if modality not in self.modalities:
            raise ValueError(
                f"this model embeds {' and '.join(self.modalities)}, and no {modality}: load one "
                f"that has a tower for {name}"
            )
        if isinstance(inputs, str | Path | dict) or not hasattr(inputs, "__len__"):
            raise ValueError(
                f"embed_{'audio' if modality == 'audio' else name} takes a list and got a "
                f"{type(inputs).__name__}: put it in [ ]"
            )
        if len(inputs) == 0:
            raise ValueError(f"there are no {name} to embed: give at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")

    def _pixels(self, images: list[Any]) -> Tensor:
        """As `PairData` hands pictures to an image tower."""
        if all(torch.is_tensor(image) and image.shape == images[0].shape for image in images):
            return self.backbone.preprocess(torch.stack(images))
        if not self.backbone.reads_alpha:
            images = [drop_alpha(image) for image in images]
        return torch.stack([self.backbone.preprocess(image) for image in images])

    def _features(self, waves: list[Waveform]) -> Tensor:
        rate = self.backbone.sampling_rate
        return self.backbone.preprocess_audio([resampled(wave, rate).samples for wave in waves])


def _read(name: str, number: int, read: Callable[[T], Any], value: T) -> Any:
    """One input; what goes wrong with it says which of the list it is."""
    try:
        return read(value)
    except Unreadable as error:  # a file
        raise ValueError(
            f"{name}[{number}]={value}: {error}: repair the file or leave it out"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}[{number}]: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} is no text: give a string")
    check_characters(value, repr(value[:20]))
    return value

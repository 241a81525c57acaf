"""A model of your own: any modules that map a batch of one modality to embeddings.

`examples/own_model/` is a worked example.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Row
from mmcompress.backbones.bert_blocks import split_blocks
from mmcompress.backbones.capabilities import Classifier, Encoder
from mmcompress.backbones.fused import split_fused

MODALITIES = ("image", "audio", "text")


class Towers(nn.Module):
    """The encoders, `image_encoder` and so on, and the logarithm of the logit scale."""

    def __init__(self, encoders: dict[str, nn.Module], logit_scale: float) -> None:
        super().__init__()
        for modality, encoder in encoders.items():
            self.add_module(f"{modality}_encoder", encoder)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))


class Custom(Encoder, Classifier):
    """Adapter for encoders that you give.

    Attention of PyTorch, open_clip and timm in them is split into `nn.Linear`s at once. Every
    linear layer, embedding and 2D convolution is a target; `roles` names them, and makes targets of
    other parameters.

    Args:
        image_encoder, audio_encoder, text_encoder: batch → embeddings (B, D); two of them to train
            and to search, one is enough for the rest.
        transform: of an image, PIL or uint8 tensor (…, 3, H, W), to the encoder's input.
        audio_transform: of waveforms (samples,) to the encoder's input (B, …).
        sampling_rate: of these waveforms, in Hz.
        tokenizer: list of strings → token ids (B, L).
        pad_id: token that is padding, which calibration does not count; None when there is none.
        logit_scale: factor on cosine similarities at the start of training.
        roles: rows (pattern of the weight's path, modality, role).
    Raises:
        ValueError: no encoder, or one without what prepares its inputs.
    """

    adapter = "custom"
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (rf"{modality}_encoder\.", modality) for modality in MODALITIES
    ]
    model: Towers

    def __init__(
        self,
        *,
        image_encoder: nn.Module | None = None,
        audio_encoder: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        transform: Callable[[Any], Tensor] | None = None,
        audio_transform: Callable[[Sequence[Tensor]], Tensor] | None = None,
        sampling_rate: int = 0,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        pad_id: int | None = None,
        logit_scale: float = 1 / 0.07,
        roles: Sequence[Sequence[str]] = (),
    ) -> None:
        given = {"image": image_encoder, "audio": audio_encoder, "text": text_encoder}
        encoders = {modality: m for modality, m in given.items() if m is not None}
        prepare = {"image": transform, "audio": audio_transform, "text": tokenizer}
        if not encoders:
            raise ValueError("backbone: give image_encoder, audio_encoder or text_encoder")
        for modality in encoders:
            if prepare[modality] is None:
                names = {"image": "transform", "audio": "audio_transform", "text": "tokenizer"}
                raise ValueError(f"backbone.{modality}_encoder needs backbone.{names[modality]}")
        super().__init__(Towers(encoders, logit_scale))
        split_attention(self.model)
        split_fused(self.model)
        split_blocks(self.model)
        self.modalities = tuple(encoders)
        self.roles: Sequence[Row] = [(p, modality, role) for p, modality, role in roles]
        self.sampling_rate = sampling_rate
        self._transform, self._audio_transform = transform, audio_transform
        self._tokenizer = tokenizer
        self._pad_id = pad_id

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.model.image_encoder(pixels)  # type: ignore[operator]

    def encode_audio(self, features: Tensor) -> Tensor:
        return self.model.audio_encoder(features)  # type: ignore[operator]

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.model.text_encoder(ids)  # type: ignore[operator]

    def class_logits(self, inputs: Tensor) -> Tensor:
        """What the one encoder gives: where it is a classifier, a logit for each class."""
        (modality,) = self.modalities
        return getattr(self, f"encode_{modality}")(inputs)

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    def preprocess(self, image: Any) -> Tensor:
        return super().preprocess(image) if self._transform is None else self._transform(image)

    def preprocess_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        if self._audio_transform is None:
            return super().preprocess_audio(waveforms)
        return self._audio_transform(waveforms)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        if self._tokenizer is None:
            raise ValueError("Custom without a text_encoder cannot read texts")
        return self._tokenizer(list(texts))

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        if modality != "text" or self._pad_id is None:
            return None
        return torch.ne(inputs, self._pad_id)

    @property
    def spec(self) -> dict[str, Any]:
        return {"modalities": list(self.modalities)}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        raise TypeError("a model of the user's own is built by what the user gives")

"""An exported model as data and evaluators see a backbone: tensors in, tensors out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.examples import Example
from mmcompress.backbones.passes import Batch
from mmcompress.runtime.graphs import GraphModel

WRITES_NOTHING = (
    "this evaluation needs a model that writes texts and an export gives embeddings: set "
    "runtime=dense"
)


class Deployed:
    """Prepares inputs for `PairData` and embeds them for evaluators, by another runtime.

    Args:
        model: of `GraphModel`.
    """

    reads_alpha = True
    reads_examples = False

    def __init__(self, model: GraphModel) -> None:
        self.model = model
        self.modalities, self.sampling_rate = model.modalities, model.sampling_rate

    @property
    def window(self) -> float | None:
        """Seconds that the model hears of a longer sound; None where it hears none."""
        sounds = self.model.manifest["towers"].get("audio")
        if sounds is None:
            return None
        return sounds["prepare"]["samples"] / sounds["prepare"]["sampling_rate"]

    def preprocess(self, image: Any) -> Tensor:
        """A PIL image or a tensor (…, 3, H, W) → the tower's input."""
        if torch.is_tensor(image) and image.ndim > 3:
            return torch.stack([self.preprocess(picture) for picture in image])
        return torch.from_numpy(self.model.prepare("image", [image])[0])

    def preprocess_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Waveforms (samples,) at `sampling_rate` → the tower's input."""
        sounds = [(wave.numpy(), self.sampling_rate) for wave in waveforms]
        return torch.from_numpy(self.model.prepare("audio", sounds))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L)."""
        return torch.from_numpy(self.model.prepare("text", list(texts)))

    def __call__(self, modality: str, inputs: Tensor, /) -> Tensor:
        """Embeddings (B, D), L2-normalized.

        Raises:
            NotFiniteError: some are NaN or infinite.
        """
        return torch.from_numpy(self.model.encode(modality, inputs.numpy()))

    def answer_logits(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Refused: an export embeds."""
        raise ValueError(WRITES_NOTHING)

    def generate(self, examples: Sequence[Example], *, max_tokens: int) -> list[str]:
        """Refused: an export embeds."""
        raise ValueError(WRITES_NOTHING)

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """Refused: an export embeds."""
        raise ValueError(WRITES_NOTHING)

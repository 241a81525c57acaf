"""A loaded model that embeds pictures, texts and sounds: every weight is decoded to float32."""

from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import encoder, generator
from mmcompress.backbones.examples import Example, Waveform
from mmcompress.data.decode import resampled
from mmcompress.data.examples import as_pil
from mmcompress.data.pairs import as_picture, as_waveform
from mmcompress.functional.finite import check_rows
from mmcompress.functional.pictures import drop_alpha
from mmcompress.runtime.base import Embedder


class DenseModel(Embedder[Tensor]):
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
        return self.backbone.modalities

    @property
    def bytes(self) -> int:
        """What parameters and buffers take in memory, those that are shared once."""
        tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())

    def _read(self, modality: str, value: Any) -> Any:
        return as_picture(value) if modality == "image" else as_waveform(value)

    def _run(self, modality: str, batch: list[Any]) -> Tensor:
        model = encoder(self.backbone, "this needs", "load one that embeds its inputs")
        device = next(model.parameters()).device
        with torch.inference_mode():
            rows = model.encode(modality, self._prepared(modality, batch).to(device))
            return check_rows(f"{modality} embeddings", rows.float().cpu())

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).clone()  # an ordinary tensor, which may take part in training

    def _transcribed(self, batch: list[Any], max_tokens: int) -> list[str]:
        model = generator(self.backbone, "transcripts need", "load a speech-to-text model")
        with torch.inference_mode():
            return model.generate([Example(sound=wave) for wave in batch], max_tokens=max_tokens)

    def _answered(self, images: list[Any], prompts: list[str], max_tokens: int) -> list[str]:
        model = generator(self.backbone, "answers need", "load an image-text model that writes")
        asked = [
            Example(prompt, images=(as_pil(image),))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        with torch.inference_mode():
            return model.generate(asked, max_tokens=max_tokens)

    def _prepared(self, modality: str, batch: list[Any]) -> Tensor:
        if modality == "image":
            return self._pixels(batch)
        if modality == "audio":
            return self._features(batch)
        return self.backbone.tokenize(batch)

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

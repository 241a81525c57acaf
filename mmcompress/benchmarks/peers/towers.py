"""The two towers of a CLIP as modules that take one tensor: what every library can read."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.hf.clip import HFClip


class Tower(nn.Module):
    """Encoder and projection of one modality: inputs → embeddings (B, D), not normalized."""

    def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, inputs: Tensor) -> Tensor:
        return self.projection(self.encoder(inputs).pooler_output)


class Encoding(Encoder):
    """A backbone that is trained and scored, and that no artifact holds."""

    adapter = "peer"
    modalities = ("image", "text")

    @property
    def spec(self) -> dict[str, Any]:
        raise TypeError("a model of another library is stored by that library")

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        raise TypeError("a model of another library is read by that library")


class Towers(Encoding):
    """A student that `CompressionModule` trains as it trains other backbones.

    Args:
        backbone: its weights are copied.
    """

    def __init__(self, backbone: HFClip) -> None:
        super().__init__(nn.Module())
        model = copy.deepcopy(backbone.model)
        self.image: nn.Module = Tower(model.vision_model, model.visual_projection)
        self.text: nn.Module = Tower(model.text_model, model.text_projection)
        self.log_logit_scale = model.logit_scale

    @classmethod
    def blank(cls, backbone: HFClip) -> Self:
        """NaN in place of every weight: one that a file does not bring back is found out."""
        towers = cls(backbone)
        for parameter in towers.parameters():
            nn.init.constant_(parameter, torch.nan)
        return towers.eval()

    def encode(self, modality: str, inputs: Tensor) -> Tensor:
        return F.normalize(getattr(self, modality)(inputs), dim=-1)

    @property
    def logit_scale(self) -> Tensor:
        return self.log_logit_scale.exp()


class Served(Encoding):
    """What a library has read back, as `evaluate` wants it.

    Args:
        towers: modality → function from inputs to embeddings (B, D).
    """

    def __init__(self, towers: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(nn.Module())
        self.towers = dict(towers)
        self.where = nn.Parameter(torch.empty(0))

    @property
    def logit_scale(self) -> Tensor:
        raise TypeError("what is served is not trained")

    def encode(self, modality: str, inputs: Tensor) -> Tensor:
        # optimum-quanto's tensors refuse the inference mode that `evaluate` runs in.
        with torch.inference_mode(False), torch.no_grad():
            embedded = self.towers[modality](inputs.clone()).float()
        if not torch.isfinite(embedded).all():
            raise ValueError(f"the reloaded {modality} tower gives embeddings that are not finite")
        return F.normalize(embedded, dim=-1)

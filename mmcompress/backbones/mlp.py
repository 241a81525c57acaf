"""A fully connected classifier of gray images, without a second tower."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mmcompress.backbones.capabilities import Classifier, Encoder
from mmcompress.functional.rgb import to_rgb


class MLP(Classifier, Encoder):
    """Pixels → hidden layers with ReLU → one logit per class.

    `encode_image` gives the logits, so that `encode` gives them normalized, in the same order.

    Args:
        size: height and width of the images, in pixels.
        hidden: widths of the hidden layers.
        classes: how many.
    """

    adapter = "mlp"
    modalities = ("image",)
    roles = (
        (r"hidden\.\d+\.weight", "image", "mlp.up"),
        (r"head\.weight", "image", "proj"),
    )
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [("", "image")]

    def __init__(
        self, *, size: int = 28, hidden: Sequence[int] = (128,), classes: int = 10
    ) -> None:
        if min(size, classes, *hidden) < 1:
            raise ValueError(
                f"backbone.size={size}, hidden={list(hidden)}, classes={classes}: all must be at "
                "least 1"
            )
        widths = [size * size, *hidden]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        head = nn.Linear(widths[-1], classes)
        super().__init__(nn.ModuleDict({"hidden": nn.ModuleList(layers), "head": head}))
        self._spec = {"size": size, "hidden": list(hidden), "classes": classes}
        self._transform = v2.Compose(
            [
                v2.ToImage(),
                v2.Grayscale(),
                v2.Resize((size, size), antialias=True),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes) of pixels (B, 1, size, size)."""
        x = pixels.flatten(1)
        for layer in self.model["hidden"]:  # type: ignore[index]
            x = layer(x).relu()
        return self.model["head"](x)  # type: ignore[index]

    def class_logits(self, inputs: Tensor) -> Tensor:
        return self.encode_image(inputs)

    @property
    def logit_scale(self) -> Tensor:
        return torch.ones(())

    def preprocess(self, image: Any) -> Tensor:
        return self._transform(to_rgb(image)).as_subclass(torch.Tensor)

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        sides = dict.fromkeys(("height", "width"), self._spec["size"])
        resize = {"op": "resize", "size": sides, "kernel": "bilinear", "like": "tensor"}
        steps = [{"op": "gray"}, resize, {"op": "rescale", "factor": 1 / 255}]
        return {"image": {"transparency": "drop", "steps": steps}}

    @property
    def spec(self) -> dict[str, Any]:
        return self._spec

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        return cls(**spec)

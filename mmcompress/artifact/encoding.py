"""How one baked weight is to be stored."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Encoding:
    """What the steps of a recipe leave behind for the artifact, per weight.

    Attributes:
        steps: names of the steps that touched the weight, in recipe order.
        values: the stage that turns floats into codes, e.g. `{"codec": "quantize", "bits": 4, …}`
            or `{"codec": "codebook", …}`; None when the values stay floats.
        tensors: side tensors of that stage (`scale`, `zero_point`, `codebook`).
        mask: bool, shape of the weight, True = kept; None when nothing was pruned. Every weight
            outside the mask is exactly zero.
        weight: the baked weight, where the model holds it no more.
    """

    steps: list[str] = field(default_factory=list)
    values: dict[str, Any] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    weight: Tensor | None = None

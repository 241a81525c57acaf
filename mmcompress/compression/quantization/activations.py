"""Integer activations: each token that a layer reads is rounded with a scale of its own.

Together with a step that rounds the weights this is W8A8 with dynamic scales per token
("ZeroQuant", Yao et al. 2022, arXiv:2206.01861, section 4.1). With `smoothing` it is SmoothQuant
(Xiao et al. 2023, arXiv:2211.10438): input j is divided by

    s_j = max |X_j|^α / max |W_j|^(1 − α)                                              (eq. 4)

and column j of the weight multiplied by it, which moves outliers from inputs, where they spoil the
scale of their token, to weights. Where we differ: s is a stored vector of the layer and does not
move into the norm before it, since not every layer follows one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Decision
from mmcompress.compression.quantization.grid import check_bits
from mmcompress.compression.statistics import INPUTS, Statistic
from mmcompress.compression.steps import StructureStep
from mmcompress.modules.quantized_input import QuantizedInput

SMALLEST = 1e-5
"""Bound on magnitudes that are divided by."""


def smoothing_factors(input_max: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """s (arXiv:2211.10438, eq. 4).

    Args:
        input_max: (in,), largest |x| of each input.
        weight: (out, in).
        alpha: share of the difficulty that moves to the weights, in [0, 1].
    Returns:
        (in,), positive.
    """
    weight_max = weight.abs().amax(dim=0).clamp(min=SMALLEST)
    return input_max.clamp(min=SMALLEST).pow(alpha) / weight_max.pow(1 - alpha)


class Activations(StructureStep):
    """Linear layers that read rounded inputs; a later step may round their weights.

    Args:
        bits: of each input. Legal: whole number from 2 to 8.
        smoothing: SmoothQuant's α; null for no smoothing. Legal: number in [0, 1], or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("quantized_input", 1)
    granularities = ("linear",)
    no_speedup = "integer activations are simulated in floats"

    def __init__(self, *, bits: int, smoothing: float | None = None, **selectors: Any) -> None:
        super().__init__(**selectors)
        check_bits(bits)
        if smoothing is not None and not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing={smoothing} must lie in [0, 1], or be null for none")
        self.bits, self.smoothing = bits, smoothing
        self.needs = frozenset() if smoothing is None else frozenset({INPUTS})

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        decision = {"bits": self.bits, "smoothing": self.smoothing}
        return {t.name: dict(decision) for t in targets}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        assert isinstance(module, nn.Linear), module
        factors = None
        if decision["smoothing"] is not None:
            weight = module.weight.detach()
            factors = torch.ones_like(weight[0])
            if statistic is not None and statistic.inputs is not None:
                factors = smoothing_factors(statistic.inputs.abs_max, weight, decision["smoothing"])
        return QuantizedInput(module, bits=decision["bits"], factors=factors)

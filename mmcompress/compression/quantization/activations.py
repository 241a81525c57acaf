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
from mmcompress.compression.base import Compressor, Decision
from mmcompress.compression.quantization.fake_quantize import StraightThrough
from mmcompress.compression.quantization.grid import check_bits
from mmcompress.compression.statistics import INPUTS, Statistic

SMALLEST = 1e-5
"""Bound on magnitudes that are divided by."""


def round_tokens(x: Tensor, bits: int) -> Tensor:
    """Each vector to the nearest of its own −(2^(bits−1) − 1) … 2^(bits−1) − 1 steps.

    Args:
        x: (…, features).
        bits: at least 2.
    Returns:
        Shape and dtype of `x`; the gradient passes straight through.

    Example:
        >>> round_tokens(torch.tensor([[1.0, 0.4, -0.6], [30.0, 4.0, 0.0]]), 2).tolist()
        [[1.0, 0.0, -1.0], [30.0, 0.0, 0.0]]
    """
    with torch.no_grad():
        values = x.float()
        largest = values.abs().amax(dim=-1, keepdim=True)
        step = (largest / (2 ** (bits - 1) - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (values / step).round_().mul_(step).to(x.dtype)
    return StraightThrough.apply(x, rounded)


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


class QuantizedInput(nn.Module):
    """y = W Q(x / s) + b.

    Args:
        linear: the layer; with `factors` it gets a new weight W diag(s).
        bits: of each input.
        factors: s (in,), or None for none.
    """

    smoothing: Tensor | None

    def __init__(self, linear: nn.Linear, *, bits: int, factors: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits = bits
        self.linear = linear
        self.register_buffer("smoothing", factors)
        if factors is not None:
            linear.weight = nn.Parameter(linear.weight.detach() * factors)

    @property
    def weight(self) -> Tensor:
        """The inner layer's (out, in)."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def native_state(self, path: str) -> dict[str, Tensor]:
        """No library of dense models rounds what a layer reads."""
        raise ValueError(
            f"{path} rounds its inputs while the model runs, which a dense checkpoint cannot "
            "express: keep the artifact, or compress weights alone"
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.smoothing is not None:
            x = x / self.smoothing
        return self.linear(round_tokens(x, self.bits))

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """open_clip calls a text projection that is an `nn.Linear` and multiplies with others."""
        return self(x)


class Activations(Compressor):
    """Linear layers that read rounded inputs; a later step may round their weights.

    Args:
        bits: of each input. Legal: whole number from 2 to 8.
        smoothing: SmoothQuant's α; null for no smoothing. Legal: number in [0, 1], or null.
        **selectors: `modality`, `role`, `granularity`.
    """

    stage = "structure"
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

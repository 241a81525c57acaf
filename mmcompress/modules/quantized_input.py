"""A linear layer that rounds what it reads, each token with a scale of its own."""

import torch
from torch import Tensor, nn

from mmcompress.functional.straight_through import StraightThrough


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


def quantize_input(linear: nn.Module, *, bits: int, smoothing: float | None) -> QuantizedInput:
    """The layer that rounds what it reads, its factors not yet set.

    Args:
        linear: what it replaces.
        bits: of each input.
        smoothing: whether there are factors; None for none.
    """
    assert isinstance(linear, nn.Linear), linear
    factors = None if smoothing is None else torch.ones_like(linear.weight.detach()[0])
    return QuantizedInput(linear, bits=bits, factors=factors)

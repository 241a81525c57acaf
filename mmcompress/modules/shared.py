"""Linear layers whose weight stands in several places of a model."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Initial = Literal["mean", "first"]
INITIALS = ("mean", "first")

Transform = Literal["norms", "scale", "heads"]


class SharedLinear(nn.Module):
    """y = s ⊙ T(W x) + b: W is shared, s, T and b belong to one place.

    Args:
        shared: holds W, without a bias.
        own: the layer that it replaces here: gives the bias, and s fitted to its weight.
        heads: T mixes this many heads of the output, starting from the identity; None for no T.
    """

    def __init__(self, shared: nn.Linear, own: nn.Linear, heads: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = own.in_features, own.out_features
        self.shared = shared
        self.scale = nn.Parameter(fitted_scale(own.weight.detach(), shared.weight.detach()))
        self.bias = None if own.bias is None else nn.Parameter(own.bias.detach().clone())
        # What is trained is the difference to the identity, which may decay.
        self.mix = None if heads is None else nn.Parameter(own.weight.new_zeros(heads, heads))

    @property
    def weight(self) -> Tensor:
        """What this place computes with (out, in)."""
        return self._mixed(self.shared.weight.T).T * self.scale[:, None]

    def _mixed(self, y: Tensor) -> Tensor:
        if self.mix is None:
            return y
        heads = y.unflatten(-1, (len(self.mix), -1))  # … H D/H
        return (heads + torch.einsum("gh,...hd->...gd", self.mix, heads)).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        y = self._mixed(self.shared(x)) * self.scale
        return y if self.bias is None else y + self.bias


def fitted_scale(weight: Tensor, shared: Tensor) -> Tensor:
    """The factors s that minimise ‖W − diag(s) W_s‖, row by row.

    Args:
        weight, shared: (out, in).
    Returns:
        (out,); 1 for rows of zeros.
    """
    energy = shared.square().sum(dim=1)
    fitted = (weight * shared).sum(dim=1) / energy.clamp(min=1e-30)
    return torch.where(energy > 0, fitted, torch.ones_like(fitted))


def merged(tensors: Sequence[Tensor], initial: Initial) -> Tensor:
    """What several places share to begin with."""
    return tensors[0].clone() if initial == "first" else torch.stack(list(tensors)).mean(dim=0)


@torch.no_grad()
def share_linear(
    layers: Sequence[nn.Linear], *, transform: Transform, initial: Initial, heads: int | None = None
) -> list[nn.Module]:
    """One weight for all the layers.

    Args:
        layers: of one shape.
        transform: `norms`: one layer, its bias included; `scale`: a scale per channel and a bias
            for each place; `heads`: where `heads` is given, a mixing of the heads too.
        initial: what the shared weight starts from.
        heads: of the output.
    Returns:
        What to put in place of each layer.
    """
    first = layers[0]
    weight = merged([layer.weight for layer in layers], initial)
    if transform == "norms":
        first.weight.copy_(weight)
        if first.bias is not None:
            biases = [layer.bias for layer in layers if layer.bias is not None]
            first.bias.copy_(merged(biases, initial))
        return [first] * len(layers)
    shared = nn.Linear(first.in_features, first.out_features, bias=False, device="meta")
    shared.weight = nn.Parameter(weight)
    return [SharedLinear(shared, layer, heads) for layer in layers]

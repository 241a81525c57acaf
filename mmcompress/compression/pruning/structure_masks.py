"""Masks on the structures of attentions and MLPs: where their weights lie, and what one costs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Target
from mmcompress.compression.base import Applied, Parametrization
from mmcompress.compression.pruning.encodings import keep_in_encoding
from mmcompress.modules.anatomy import ATTENTIONS, MLPS, attention_parts, is_rotary, mlp_parts
from mmcompress.modules.cuts import (
    check_attention,
    check_layers,
    check_mlp,
)
from mmcompress.modules.lowrank import LowRankLinear
from mmcompress.system.distributed import mean

_MASKED = {*(p.k for p in ATTENTIONS), *(p.out for p in ATTENTIONS), *(p.down for p in MLPS)}
MASKED = sorted(_MASKED, key=len, reverse=True)
"""Where in an attention or MLP the layers lie that masks are put on, long names first."""


def unit_of(target: Target) -> str:
    """Path of the attention or MLP that holds a layer, or a factor of one."""
    layer = target.module.removesuffix(".u").removesuffix(".v")
    return next(layer.removesuffix(f".{name}") for name in MASKED if layer.endswith(f".{name}"))


class StructureMask(Parametrization):
    """Parametrization W → W · α on the rows, squared, or on the columns.

    Args:
        weight: (rows, columns).
        unit: path of the attention or MLP.
        heads: how often α is repeated along the masked dimension.
        rows: α² is on the rows; α is on the columns otherwise.
        squared: gather squares of gradients.
        gradient: of the loss at `weight`, from calibration; zero when None.
    """

    alpha: Tensor
    gathered: Tensor
    update: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        unit: str,
        heads: int,
        rows: bool,
        squared: bool,
        gradient: Tensor | None,
    ) -> None:
        super().__init__()
        self.unit, self.heads, self.rows, self.squared = unit, heads, rows, squared
        structures = weight.shape[0 if rows else 1] // heads
        self.register_buffer("alpha", weight.new_ones(structures))
        self.register_buffer("gathered", weight.new_zeros(structures))
        self.register_buffer("update", torch.tensor(0))
        if gradient is not None:
            with torch.enable_grad():
                alpha = self.alpha.clone().requires_grad_()
                masked = weight * self._factor(alpha)
            self._gather(*torch.autograd.grad(masked, alpha, gradient))

    def _factor(self, alpha: Tensor) -> Tensor:
        return alpha.square().repeat(self.heads)[:, None] if self.rows else alpha.repeat(self.heads)

    def _gather(self, gradient: Tensor) -> None:
        self.gathered = self.gathered + (gradient.square() if self.squared else gradient)

    def set_alpha(self, alpha: Tensor, update: int) -> None:
        """The masks after update number `update`."""
        self.alpha = alpha
        self.update = torch.full_like(self.update, update)

    def forward(self, weight: Tensor) -> Tensor:
        alpha = self.alpha
        if torch.is_grad_enabled():
            alpha = alpha.clone().requires_grad_()
            alpha.register_hook(lambda gradient: self._gather(mean(gradient)))
        return weight * self._factor(alpha)


def units_of(applied: Mapping[str, Applied[StructureMask]]) -> list[list[StructureMask]]:
    """The masks of each module: two of an attention, one of an MLP."""
    units: dict[str, list[StructureMask]] = {}
    for one in applied.values():
        mask = one.parametrization
        units.setdefault(mask.unit, []).append(mask)
    return list(units.values())


def cost(masks: Sequence[StructureMask], applied: Mapping[str, Applied[StructureMask]]) -> int:
    """Weights that one structure takes with it: a row of q, k, v or of the first layer for
    each head, and as many columns of the last."""
    shapes = {id(one.parametrization): one.original.shape for one in applied.values()}
    total = 0
    for mask in masks:
        rows, columns = shapes[id(mask)]
        total += 3 * columns if mask.rows else rows
    return masks[0].heads * (total if len(masks) > 1 else 2 * total)


def is_removable(module: nn.Module) -> bool:
    """Whether dimensions of all heads of an attention, or neurons of an MLP, can go by masks."""
    mlp = mlp_parts(module)
    try:
        if mlp is None:
            check_attention(module, norms=())
            return not is_rotary(module)
        check_mlp(module)
        return mlp.gate is None  # else a neuron has a row in two layers
    except ValueError:
        return False


class Layers:
    """The weights of an attention or MLP that its structures lie in, by name.

    Args:
        path: of the module.
        module: the attention or MLP.
    Raises:
        ValueError: one of its layers cannot be made smaller.
    """

    def __init__(self, path: str, module: nn.Module) -> None:
        def name(layer: str, factor: str) -> str:
            low_rank = isinstance(module.get_submodule(layer), LowRankLinear)
            return f"{path}.{layer}.{factor}.weight" if low_rank else f"{path}.{layer}.weight"

        attention, mlp = attention_parts(module), mlp_parts(module)
        if attention is not None:
            check_layers(module, (attention.q, attention.k, attention.v, attention.out))
            self.rows = [name(n, "u") for n in (attention.q, attention.k, attention.v)]
            self.columns = name(attention.out, "v")
            self.masked = [self.rows[1], self.columns]
        else:
            assert mlp is not None
            check_layers(module, (mlp.up, mlp.down))
            self.rows, self.columns = [name(mlp.up, "u")], name(mlp.down, "v")
            self.masked = [self.columns]

    def cut_encodings(
        self, encodings: Mapping[str, Encoding], kept: Sequence[int]
    ) -> dict[str, Encoding]:
        """Those of the module's weights once only these rows and columns are left.

        Raises:
            ValueError: the values of a weight cannot be cut there.
        """
        dims = dict.fromkeys(self.rows, 0) | {self.columns: 1}
        return {
            name: keep_in_encoding(encodings[name], kept, dim)
            for name, dim in dims.items()
            if name in encodings
        }

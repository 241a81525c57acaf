"""One `nn.Linear` each for q, k and v where timm keeps them in one.

timm calls its `qkv` (and `kv`) as a layer and cuts the output, so a layer that puts the same output
together from parts can stand in its place; the outputs are the same up to rounding.
"""

import torch
from torch import Tensor, nn

from mmcompress.backbones.native import native_state

PARTS = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}
"""Name of a fused layer → what its output rows are for, in order."""


class SplitLinear(nn.Module):
    """A fused projection, its parts side by side.

    Args:
        **layers: by name, in the order of their outputs; all read the same input.
    """

    def __init__(self, **layers: nn.Linear) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., sum of the parts' outputs)."""
        return torch.cat([layer(x) for layer in self.children()], dim=-1)

    def native_state(self, path: str) -> dict[str, Tensor]:
        """One matrix; biases beside it where k has none."""
        states = {name: native_state(layer, "") for name, layer in self.named_children()}
        found = {f"{path}.weight": torch.cat([state["weight"] for state in states.values()])}
        biases = {name: state["bias"] for name, state in states.items() if "bias" in state}
        if len(biases) == len(states):
            return found | {f"{path}.bias": torch.cat(list(biases.values()))}
        parent = path.rpartition(".")[0]
        return found | {f"{parent}.{name[0]}_bias": bias for name, bias in biases.items()}


def split_fused(model: nn.Module) -> None:
    """Replace, in place, every fused projection inside `model` by its parts."""
    for path, module in list(model.named_modules()):
        name = path.rpartition(".")[2]
        if name in PARTS and isinstance(module, nn.Linear):
            parent = model.get_submodule(path.rpartition(".")[0])
            biases = _take_biases(parent, module, parts=len(PARTS[name]))
            model.set_submodule(path, _split(module, PARTS[name], biases))


def _split(fused: nn.Linear, parts: tuple[str, ...], biases: list[Tensor | None]) -> SplitLinear:
    weights = fused.weight.chunk(len(parts))
    layers = zip(parts, weights, biases, strict=True)
    return SplitLinear(**{f"{part}_proj": linear(weight, bias) for part, weight, bias in layers})


def _take_biases(parent: nn.Module, fused: nn.Linear, *, parts: int) -> list[Tensor | None]:
    """The layer's own; or those that EVA and BEiT keep beside it, of which k has none."""
    if getattr(parent, "q_bias", None) is None:
        return [None] * parts if fused.bias is None else list(fused.bias.chunk(parts))
    beside = [parent.q_bias, None, parent.v_bias]
    for name in ("q_bias", "k_bias", "v_bias"):
        setattr(parent, name, None)
    return beside  # type: ignore[return-value]


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer that owns a copy, so that saving finds no views into a fused matrix."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer

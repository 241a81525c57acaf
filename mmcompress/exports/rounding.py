"""Inputs of linear layers in 8 bits as exported graphs round them, emulated in floats."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from mmcompress.backbones.capabilities import Encoder

LEVELS = 255

SKEWED = 3.0
"""Ends of which one is farther from zero by more than this factor stay where they are."""


@dataclass(frozen=True)
class Range:
    """Between which values a layer's inputs lie; zero is one of them.

    Attributes:
        low: at most 0.
        high: at least 0.

    Example:
        >>> Range(-1.0, 1.55).zero_point
        100
    """

    low: float
    high: float

    @property
    def step(self) -> float:
        """Between two levels."""
        return (self.high - self.low) / LEVELS or 1.0

    @property
    def zero_point(self) -> int:
        """The level of zero."""
        return min(max(round(-self.low / self.step), 0), LEVELS)

    def joined(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high))

    def centered(self) -> "Range":
        """With zero in the middle, where that costs at most a bit and a half: OpenVINO's fastest
        kernels know no zero point.

        Example:
            >>> Range(-1.0, 127.0).centered() == Range(-1.0, 127.0)
            True
            >>> Range(-100.0, 127.0).centered(), Range(-100.0, 127.0).centered().zero_point
            (Range(low=-128.0, high=127.0), 128)
        """
        if -self.low * SKEWED < self.high or self.high * SKEWED < -self.low:
            return self
        step = max(self.high / 127, -self.low / 128)
        return Range(-128 * step, 127 * step)

    def round(self, x: Tensor) -> Tensor:
        """To the nearest level; what lies outside goes to the ends.

        Example:
            >>> Range(0.0, 255.0).round(torch.tensor([-3.0, 0.4, 0.6, 300.0]))
            tensor([  0.,   0.,   1., 255.])
        """
        levels = (x / self.step).round().add(self.zero_point).clamp(0, LEVELS)
        return (levels - self.zero_point) * self.step


Ranges = Mapping[str, Range]
"""By the path of a layer."""


def range_of(x: Tensor) -> Range:
    """The extremes of a tensor."""
    low, high = torch.aminmax(x.detach())
    return Range(min(low.item(), 0.0), max(high.item(), 0.0))


def dynamic_uint8(x: Tensor) -> Tensor:
    """A tensor rounded to 256 levels between its extremes, zero being one of them.

    `DynamicQuantizeLinear` of the ONNX standard: one scale for the whole tensor.

    Example:
        >>> dynamic_uint8(torch.tensor([0.0, 0.4, 1.0, 255.0]))
        tensor([  0.,   0.,   1., 255.])
    """
    return range_of(x).round(x)


def input_ranges(
    model: Encoder, batches: Iterable[Mapping[str, Tensor]], *, centered: bool = False
) -> dict[str, Range]:
    """What each linear layer, and each convolution of patches, reads of some data.

    Args:
        model: whose weights are final.
        batches: modality → inputs.
        centered: put zero in the middle, see `Range.centered`.
    Returns:
        Path in `model.model` → range; layers that share a weight share a range. A layer that read
        nothing has none.
    """
    found: dict[int, Range] = {}

    def look(weight: int, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = range_of(inputs[0])
        found[weight] = found[weight].joined(seen) if weight in found else seen

    layers = dict(_rounding_layers(model.model))
    hooks = [
        layer.register_forward_pre_hook(partial(look, id(layer.weight)))
        for layer in layers.values()
    ]
    try:
        with torch.inference_mode():
            for batch in batches:
                for modality in model.modalities:
                    model.encode(modality, batch[modality])
    finally:
        for hook in hooks:
            hook.remove()
    weights = {path: id(layer.weight) for path, layer in layers.items()}
    ends = {weight: r.centered() if centered else r for weight, r in found.items()}
    return {path: ends[weight] for path, weight in weights.items() if weight in ends}


@contextmanager
def rounded_inputs(model: nn.Module, ranges: Ranges | None = None) -> Iterator[None]:
    """Linear layers round what they read, until the block ends.

    Args:
        model: of the layers.
        ranges: of those that round; all do when None, each tensor between its own extremes.
    """

    def rounds(path: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rounded = dynamic_uint8(inputs[0]) if ranges is None else ranges[path].round(inputs[0])
        return (rounded, *inputs[1:])

    layers = [
        (path, layer)
        for path, layer in _rounding_layers(model)
        if (isinstance(layer, nn.Linear) if ranges is None else path in ranges)
    ]
    hooks = [layer.register_forward_pre_hook(partial(rounds, path)) for path, layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_patches(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a convolution reads windows that lie side by side, which makes it a linear layer."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.stride == module.kernel_size
        and module.padding in ("valid", (0, 0))
        and module.dilation == (1, 1)
    )


def _rounding_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear) or is_patches(layer):
            yield path, layer

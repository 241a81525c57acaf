"""Inputs of linear layers in 8 bits as ONNX Runtime rounds them, emulated in floats."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def dynamic_uint8(x: Tensor) -> Tensor:
    """A tensor rounded to 256 levels between its extremes, zero being one of them.

    `DynamicQuantizeLinear` of the ONNX standard: one scale for the whole tensor.

    Example:
        >>> import torch
        >>> dynamic_uint8(torch.tensor([0.0, 0.4, 1.0, 255.0]))
        tensor([  0.,   0.,   1., 255.])
    """
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    scale = (high - low) / 255
    if scale == 0:
        return x
    zero = (-low / scale).round().clamp(0, 255)
    return ((x / scale).round().add(zero).clamp(0, 255) - zero) * scale


@contextmanager
def rounded_inputs(model: nn.Module) -> Iterator[None]:
    """Every linear layer of a model rounds what it reads, until the block ends."""

    def rounds(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (dynamic_uint8(inputs[0]), *inputs[1:])

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(rounds) for layer in linear]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

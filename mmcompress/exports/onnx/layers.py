"""Modules that hold codes and say, when they are traced, which ONNX operators multiply with them.

They run in the exporter alone: `torch.onnx.ops.symbolic` has no values elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import ops

from mmcompress.exports.onnx.grids import Blocks
from mmcompress.exports.rounding import Range

EXACT, INTEGER = 0, 4
"""`accuracy_level` of MatMulNBits: inputs as they are, or in 8 bits."""


class Held(nn.Module):
    """A weight in its container.

    Attributes:
        container: in words.
        exact: whether it holds what the artifact decodes to; inputs may be rounded all the same.
        decoded: whether the artifact has codes of it, and this floats.
    """

    container: str
    exact = True
    decoded = False

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def _hold(self, **arrays: np.ndarray | None) -> None:
        for name, array in arrays.items():
            tensor = None if array is None else torch.from_numpy(np.ascontiguousarray(array))
            self.register_buffer(name, tensor)


class NBits(Held):
    """x (…, in) → x Wᵀ (…, out) by `com.microsoft.MatMulNBits`.

    Args:
        blocks: W.
        columns: `in`.
        column_scale: (in,), which x is multiplied with first; None for none.
        level: `EXACT` or `INTEGER`.
        state_width: write into the graph that x is `in` wide, for runtimes that do not infer it.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    column_scale: Tensor | None

    def __init__(
        self,
        blocks: Blocks,
        columns: int,
        column_scale: np.ndarray | None,
        *,
        level: int,
        state_width: bool = False,
    ) -> None:
        super().__init__()
        self.container = f"MatMulNBits {blocks.bits} bits, blocks of {blocks.block_size}"
        if level == INTEGER:
            self.container += ", inputs int8"
        self._hold(codes=blocks.codes, scale=blocks.scale, zero_point=blocks.zero_point)
        self._hold(column_scale=column_scale)
        self.rows, self.columns, self.state_width = len(blocks.codes), columns, state_width
        self.attributes: dict[str, Any] = {
            "K": columns,
            "N": self.rows,
            "bits": blocks.bits,
            "block_size": blocks.block_size,
            "accuracy_level": level,
        }

    def forward(self, x: Tensor) -> Tensor:
        if self.column_scale is not None:
            x = x * self.column_scale
        if self.state_width:
            sizes = torch.tensor([0] * (x.ndim - 1) + [self.columns])  # 0: as it is
            x = ops.symbolic("Reshape", [x, sizes], dtype=x.dtype, shape=x.shape)
        inputs = [x, self.codes, self.scale]
        inputs += [] if self.zero_point is None else [self.zero_point]
        return ops.symbolic(
            "com.microsoft::MatMulNBits",
            inputs,
            self.attributes,
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.rows),
            version=1,
        )


class Int8(Held):
    """x (…, in) → x Wᵀ (…, out), W in int8 by rows, x in 8 bits.

    Args:
        codes: (out, in) int8.
        scale: (out,) float32.
        zero_point: (out,) int8, or None for 0.
        column_scale: (in,), which x is multiplied with first; None for none.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    column_scale: Tensor | None
    container = "MatMulInteger, inputs int8 per tensor"

    def __init__(
        self,
        codes: np.ndarray,
        scale: np.ndarray,
        zero_point: np.ndarray | None,
        column_scale: np.ndarray | None,
    ) -> None:
        super().__init__()
        self._hold(codes=codes.T, scale=scale, zero_point=zero_point, column_scale=column_scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.column_scale is not None:
            x = x * self.column_scale
        levels, step, zero = ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            [x],
            dtypes=[torch.uint8, torch.float32, torch.uint8],
            shapes=[x.shape, (), ()],
        )
        return self._multiply(levels, zero) * (step * self.scale)

    def _multiply(self, levels: Tensor, zero: Tensor) -> Tensor:
        inputs = [levels, self.codes, zero]
        inputs += [] if self.zero_point is None else [self.zero_point]
        shape = (*levels.shape[:-1], self.codes.shape[1])
        sums = ops.symbolic("MatMulInteger", inputs, dtype=torch.int32, shape=shape)
        return sums.to(torch.float32)


class Int8Tokens(Int8):
    """The same with a scale for each vector of x, symmetric: what `QuantizedInput` computes.

    Args:
        bits: of an input.
    """

    container = "MatMulInteger, inputs int8 per token"
    middle: Tensor

    def __init__(self, *args: Any, bits: int) -> None:
        super().__init__(*args)
        self.bits = bits
        self._hold(middle=np.array(128, np.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.column_scale is not None:
            x = x * self.column_scale
        largest = x.abs().amax(dim=-1, keepdim=True)
        step = (largest / (2 ** (self.bits - 1) - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        levels = ((x / step).round() + 128).to(torch.uint8)
        return self._multiply(levels, self.middle) * step * self.scale


class Int8Static(Int8):
    """The same between fixed ends: `QuantizeLinear` and `DequantizeLinear` around a product, which
    runtimes make one of whole numbers.

    Args:
        codes, scale, zero_point: of `Int8`.
        inputs: between what x lies.
        unsigned: write codes and zero points as uint8: asked for sums that fit on any processor,
            ONNX Runtime makes these of int8 by itself, and fails.
    """

    container = "DequantizeLinear, inputs int8 of a fixed range"
    step: Tensor
    zero: Tensor

    def __init__(
        self,
        codes: np.ndarray,
        scale: np.ndarray,
        zero_point: np.ndarray | None,
        *,
        inputs: Range,
        unsigned: bool,
    ) -> None:
        if unsigned:
            points = np.zeros(len(codes), np.int8) if zero_point is None else zero_point
            codes, zero_point = (
                (x.astype(np.int16) + 128).astype(np.uint8) for x in (codes, points)
            )
        super().__init__(codes, scale, zero_point, None)
        self._hold(
            step=np.array(inputs.step, np.float32), zero=np.array(inputs.zero_point, np.uint8)
        )

    def forward(self, x: Tensor) -> Tensor:
        levels = ops.symbolic(
            "QuantizeLinear", [x, self.step, self.zero], dtype=torch.uint8, shape=x.shape
        )
        rounded = _dequantized([levels, self.step, self.zero], x.shape)
        weight = [self.codes, self.scale]
        weight += [] if self.zero_point is None else [self.zero_point]
        return rounded @ _dequantized(weight, self.codes.shape, axis=1)


def _dequantized(inputs: list[Tensor], shape: Sequence[int], **attributes: Any) -> Tensor:
    return ops.symbolic("DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=shape)


def shell(weight: Tensor) -> Tensor:
    """What has the dtype and the shape of a weight, which libraries ask for, and no values."""
    return weight.detach().new_zeros(()).expand(weight.shape)


class RoundedInput(nn.Module):
    """What stands for a `QuantizedInput`: x / s, which the weight's container rounds.

    Args:
        linear: with a weight in `Int8Tokens`.
        smoothing: s (in,), or None for none.
    """

    smoothing: Tensor | None

    def __init__(self, linear: "HeldLinear", smoothing: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear, self.bias, self.weight = linear, linear.bias, linear.weight
        self.register_buffer("smoothing", smoothing)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x if self.smoothing is None else x / self.smoothing)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """As in `HeldLinear`."""
        return self(x)


class HeldLinear(nn.Module):
    """A linear layer whose weight is in a container; it shows what libraries read of a layer.

    Args:
        layer: what it replaces.
        held: its weight.
    """

    def __init__(self, layer: nn.Linear, held: Held) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.held, self.bias = held, layer.bias
        self.weight = shell(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.held(x)
        return y if self.bias is None else y + self.bias

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """open_clip calls a text projection that is an `nn.Linear` and multiplies with others."""
        return self(x)


class HeldPatches(nn.Module):
    """A convolution whose windows do not overlap: cut into patches, it is a linear layer.

    Args:
        layer: what it replaces: its stride is its kernel, and it has no padding.
        held: its weight, as a matrix (out, in · height · width).
    """

    def __init__(self, layer: nn.Conv2d, held: Held) -> None:
        super().__init__()
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.held, self.bias = held, layer.bias
        self.weight = shell(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.kernel_size
        down, across = x.shape[2] // height, x.shape[3] // width
        x = x[:, :, : down * height, : across * width]
        x = x.unflatten(3, (across, width)).unflatten(2, (down, height))  # B C D h A w
        y = self.held(x.permute(0, 2, 4, 1, 3, 5).flatten(3))  # B D A out
        y = y if self.bias is None else y + self.bias
        return y.permute(0, 3, 1, 2)

"""Layers that hold a weight as it is stored, and the one that multiplies its integers."""

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.runtime.packed.weight import PackedWeight

CUDA_ROWS = 32
"""`torch._int_mm` on CUDA wants more than 16 rows."""


class PackedLayer(nn.Module):
    """A layer whose weight is not kept as floats.

    Attributes:
        kind: what it does with the codes, in words.
    """

    kind: ClassVar[str]


class PackedLinear(PackedLayer):
    """y = W x + b; W is decoded for each call, and not kept.

    Args:
        layer: what it replaces.
        packed: its weight.
    """

    kind = "decoded for each call"

    def __init__(self, layer: nn.Linear, packed: PackedWeight) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed, self.bias = packed, layer.bias

    @property
    def weight(self) -> Tensor:
        """W (out, in), decoded."""
        return self.packed()

    def rows(self, ids: Tensor) -> Tensor:
        """Rows (…, in) of W, decoded alone: what an embedding that is tied to the layer reads."""
        return self.packed.take(ids.reshape(-1)).reshape(*ids.shape, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """open_clip calls a text projection that is an `nn.Linear` and multiplies with others."""
        return self(x)


class Int8Linear(PackedLayer):
    """y = W Q(x / s) + b by products of whole numbers: what `QuantizedInput` computes in floats.

    Each input vector is rounded to int8 with a step of its own, times W's codes with sums of 32
    bits, times step and row scale.

    Args:
        layer: what it replaces.
        packed: its weight, of `is_rowwise_int8`.
        bits: of an input, 2 to 8.
        smoothing: s (in,), or None.
    """

    kind = "integers multiply"
    codes: Tensor
    scale: Tensor
    smoothing: Tensor | None

    def __init__(
        self,
        layer: "nn.Linear | PackedLinear",
        packed: PackedWeight,
        *,
        bits: int = 8,
        smoothing: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.most = 2 ** (bits - 1) - 1
        self.bias = layer.bias
        self.register_buffer("codes", packed.whole.contiguous())
        self.register_buffer("scale", cast(Tensor, packed.scale)[:, 0].float())
        self.register_buffer("smoothing", smoothing)

    @property
    def weight(self) -> Tensor:
        """W (out, in), decoded."""
        return self.codes.float() * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        if self.smoothing is not None:
            rows = rows / self.smoothing
        largest = rows.abs().amax(dim=-1, keepdim=True)
        step = (largest / self.most).clamp(min=torch.finfo(torch.float32).tiny)
        whole = (rows / step).round().to(torch.int8)
        count = len(whole)
        if x.is_cuda and count < CUDA_ROWS:
            whole = F.pad(whole, (0, 0, 0, CUDA_ROWS - count))
        sums = torch._int_mm(whole, self.codes.t())[:count]
        y = sums.float() * step * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """open_clip calls a text projection that is an `nn.Linear` and multiplies with others."""
        return self(x)


class PackedEmbedding(PackedLayer):
    """Rows of a table, decoded when they are looked up.

    Args:
        layer: what it replaces.
        packed: its table.
    """

    kind = "rows are looked up"

    def __init__(self, layer: nn.Embedding, packed: PackedWeight) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx, self.packed = layer.padding_idx, packed

    @property
    def weight(self) -> Tensor:
        """The table (num_embeddings, embedding_dim), decoded."""
        return self.packed()

    def forward(self, ids: Tensor) -> Tensor:
        return self.packed.take(ids.reshape(-1)).reshape(*ids.shape, self.embedding_dim)


class PackedConv2d(PackedLayer):
    """A convolution whose weight is decoded for each call, and not kept.

    Args:
        layer: what it replaces.
        packed: its weight.
    """

    kind = "decoded for each call"

    def __init__(self, layer: nn.Conv2d, packed: PackedWeight) -> None:
        super().__init__()
        self.geometry = {
            name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")
        }
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.packed, self.bias = packed, layer.bias

    @property
    def weight(self) -> Tensor:
        """The kernels (out, in / groups, height, width), decoded."""
        return self.packed()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, **self.geometry)


def pack_layer(layer: nn.Module, packed: PackedWeight) -> PackedLayer | None:
    """The layer with its weight packed; None where no packed layer computes what it does."""
    if type(layer) is nn.Linear:
        return PackedLinear(layer, packed)
    if type(layer) is nn.Embedding and layer.max_norm is None:
        return PackedEmbedding(layer, packed)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        return PackedConv2d(layer, packed)
    return None


def multiply_integers(layer: nn.Module, *, activations: bool) -> Int8Linear | None:
    """The layer that multiplies whole numbers, where its input and its weight are rounded so.

    Args:
        layer: with its weight packed.
        activations: round the inputs of layers that do not round them themselves.
    """
    inner = layer.linear if isinstance(layer, QuantizedInput) else layer
    if not (isinstance(inner, PackedLinear) and inner.packed.is_rowwise_int8):
        return None
    if isinstance(layer, QuantizedInput) and layer.bits <= 8:
        return Int8Linear(inner, inner.packed, bits=layer.bits, smoothing=layer.smoothing)
    return Int8Linear(inner, inner.packed) if activations and inner is layer else None

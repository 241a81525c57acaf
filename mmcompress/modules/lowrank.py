"""The modules that take a layer's place when its weight becomes U Vᵀ.

Each is built of ordinary layers named `u` and `v`, so that a later step of a recipe can target
them, and shows the attributes of the layer it replaces: libraries read `weight.dtype`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from mmcompress.modules.anatomy import attention_parts

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class LowRankLinear(nn.Module):
    """y = U (Vᵀ x) + b.

    Args:
        layer: what it replaces; gives sizes, bias, dtype and device.
        rank: inner size.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        like = _like(layer)
        self.v = nn.Linear(layer.in_features, rank, bias=False, **like)
        self.u = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **like)
        _copy_bias(layer, self.u)

    @torch.no_grad()
    def set_factors(self, u: Tensor, vt: Tensor) -> None:
        """Take over U (out, rank) and Vᵀ (rank, in)."""
        self.u.weight.copy_(u)
        self.v.weight.copy_(vt)

    @property
    def weight(self) -> Tensor:
        """The product (out, in)."""
        return self.u.weight @ self.v.weight

    @property
    def bias(self) -> Tensor | None:
        return self.u.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.v(x))

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """open_clip calls a text projection that is an `nn.Linear` and multiplies with others."""
        return self(x)


class LowRankEmbedding(nn.Module):
    """Row i of the table is V u_i.

    Args:
        layer: what it replaces.
        rank: inner size.
    """

    def __init__(self, layer: nn.Embedding, rank: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        like = _like(layer)
        self.u = nn.Embedding(layer.num_embeddings, rank, **like)
        self.v = nn.Linear(rank, layer.embedding_dim, bias=False, **like)

    @torch.no_grad()
    def set_factors(self, u: Tensor, vt: Tensor) -> None:
        """Take over U (num_embeddings, rank) and Vᵀ (rank, embedding_dim)."""
        self.u.weight.copy_(u)
        self.v.weight.copy_(vt.T)

    @property
    def weight(self) -> Tensor:
        """The product (num_embeddings, embedding_dim)."""
        return self.u.weight @ self.v.weight.T

    def forward(self, ids: Tensor) -> Tensor:
        return self.v(self.u(ids))


class LowRankConv(nn.Module):
    """A convolution to `rank` channels, then one with a kernel of 1 to all of them.

    Args:
        layer: what it replaces, one group.
        rank: inner size.
    """

    def __init__(self, layer: Convolution, rank: int) -> None:
        super().__init__()
        if layer.groups != 1:
            raise ValueError(f"low rank of a grouped convolution ({layer}) is not supported")
        like = _like(layer)
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        geometry: dict[str, Any] = {
            key: getattr(layer, key)
            for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        kinds: tuple[type[Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        kind: Any = next(kind for kind in kinds if isinstance(layer, kind))
        self.v = kind(layer.in_channels, rank, bias=False, **geometry, **like)
        self.u = kind(rank, layer.out_channels, 1, bias=layer.bias is not None, **like)
        _copy_bias(layer, self.u)

    @torch.no_grad()
    def set_factors(self, u: Tensor, vt: Tensor) -> None:
        """Take over U (out, rank) and Vᵀ (rank, in · kernel)."""
        self.u.weight.copy_(u.reshape(self.u.weight.shape))
        self.v.weight.copy_(vt.reshape(self.v.weight.shape))

    @property
    def weight(self) -> Tensor:
        """The product, with the shape of the weight that it stands for."""
        return torch.einsum("or,ri...->oi...", self.u.weight.flatten(1), self.v.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.u.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.v(x))


def factorize(layer: nn.Module, rank: int) -> LowRankLinear | LowRankEmbedding | LowRankConv:
    """The low-rank counterpart of a layer, factors not yet set."""
    if isinstance(layer, nn.Linear):
        return LowRankLinear(layer, rank)
    if isinstance(layer, nn.Embedding):
        return LowRankEmbedding(layer, rank)
    assert isinstance(layer, Convolution), layer
    return LowRankConv(layer, rank)


def joint_qkv(attention: nn.Module, *, rank: int) -> nn.Module:
    """The attention with q, k and v of low rank and one V for the three, factors not yet set.

    Args:
        attention: edited in place; its q, k and v are linear layers.
        rank: inner size.
    """
    parts = attention_parts(attention)
    assert parts is not None
    paths = (parts.q, parts.k, parts.v)
    layers = [cast(nn.Linear, attention.get_submodule(path)) for path in paths]
    factored = [LowRankLinear(layer, rank) for layer in layers]
    for path, low in zip(paths, factored, strict=True):
        low.v = factored[0].v
        attention.set_submodule(path, low)
    return attention


def _like(layer: nn.Linear | nn.Embedding | Convolution) -> dict[str, Any]:
    return {"dtype": layer.weight.dtype, "device": layer.weight.device}


def _copy_bias(source: nn.Linear | Convolution, to: nn.Linear | Convolution) -> None:
    if source.bias is not None and to.bias is not None:
        with torch.no_grad():
            to.bias.copy_(source.bias)

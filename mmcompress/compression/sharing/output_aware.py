"""A codebook fitted to what it does to a layer's output: weighted k-means, assignment with error
feedback, least squares for the entries.

"GPTVQ: The Blessing of Dimensionality for LLM Quantization", van Baalen et al. 2024,
arXiv:2402.15319, section 3; `vq` says where we differ.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcompress.compression.base import (
    power_of_two_below,
)
from mmcompress.compression.statistics import InputStatistic, Statistic
from mmcompress.functional.conjugate_gradients import conjugate_gradients
from mmcompress.functional.error_feedback import feed_back_joint_errors
from mmcompress.functional.float16 import round_to_float16
from mmcompress.functional.hessian import ridge
from mmcompress.functional.kmeans import nearest, weighted_kmeans
from mmcompress.functional.lookup import lookup

SAMPLE = 65536
"""Vectors that k-means looks at, at least 64 per entry."""

REFITS = 12
"""Iterations of the conjugate gradients."""


@dataclass
class Layer:
    """One weight that is to be quantized.

    Attributes:
        weight: (rows, columns).
        inputs: of a linear layer or a convolution; None when all columns count the same.
        row_weight: (rows,), how much each row counts.
        scale: (rows, 1) float16, by which entries are multiplied.
    """

    weight: Tensor
    inputs: InputStatistic | None
    row_weight: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, statistic: Statistic | None, *, row_scale: bool) -> "Layer":
        """With what calibration says: of inputs, or for an embedding of rows."""
        inputs, row_weight = None, weight.new_ones(len(weight))
        if statistic is not None and statistic.inputs is not None:
            seen = statistic.inputs.second_moment
            if seen.ndim == 1:  # how often each row of a table was read
                row_weight = smoothed_frequency(seen)
            else:
                inputs = statistic.inputs
        return cls(weight, inputs, row_weight, rms_scale(weight, row_scale))

    @property
    def normalized(self) -> Tensor:
        """The weight in units of its scale."""
        return self.weight / self.scale.float()

    @property
    def moment(self) -> Tensor | None:
        """(columns, columns), of the input."""
        return None if self.inputs is None else self.inputs.second_moment

    @property
    def _ridge(self) -> Tensor:
        assert self.moment is not None
        return ridge(self.moment).clamp(min=1e-14)

    @property
    def importance(self) -> Tensor:
        """How much the square of each entry counts, (rows, columns): the Hessian's diagonal."""
        columns = self.weight.new_ones(self.weight.shape[1])
        if self.moment is not None:
            columns = self.moment.diagonal() + self._ridge
        return self.row_weight[:, None] * self.scale.float().square() * columns

    def times_hessian(self, difference: Tensor) -> Tensor:
        """D H, rows weighted; H is the damped moment.

        Args:
            difference: D (rows, columns), of weights.
        """
        product = difference
        if self.moment is not None:
            product = difference @ self.moment + self._ridge * difference
        return product * self.row_weight[:, None]

    def error(self, quantized: Tensor) -> float:
        """Squared output error tr(D H Dᵀ), D the difference to the weight."""
        difference = self.weight - quantized
        return float((self.times_hessian(difference) * difference).sum())


def smoothed_frequency(counts: Tensor) -> Tensor:
    """How much each row of a table counts: calibration is a sample, and unread rows matter too.

    Args:
        counts: (rows,), how often calibration data read each row.
    Returns:
        (rows,), positive: one more mean reading for each.
    """
    return counts + counts.mean().clamp(min=1e-6)


def rms_scale(weight: Tensor, wanted: bool) -> Tensor:
    """Root mean square of each row, or ones.

    Args:
        weight: (rows, columns).
        wanted: whether rows have a scale; ones otherwise.
    Returns:
        (rows, 1) float16.
    """
    if not wanted:
        return torch.ones(len(weight), 1, dtype=torch.float16, device=weight.device)
    limits = torch.finfo(torch.float16)
    rms = weight.float().square().mean(dim=1, keepdim=True).sqrt()
    return rms.clamp(limits.smallest_normal, limits.max).half()


def assign(layer: Layer, codebook: Tensor) -> Tensor:
    """Entry of each block, with the error fed into later columns (arXiv:2402.15319, algorithm 1).

    Args:
        layer: R rows, C columns.
        codebook: (k, d); d divides C.
    Returns:
        (R · C / d,) int64, row by row.
    """
    size = codebook.shape[1]
    left = layer.normalized
    if layer.inputs is None:
        return nearest(left.reshape(-1, size), codebook)[0]
    chosen = []

    def nearest_entries(start: int, inverse: Tensor) -> Tensor:
        run = left[:, start : start + size]
        indices, _ = nearest(run @ inverse, codebook @ inverse)
        chosen.append(indices)
        return codebook[indices].T

    factor = layer.inputs.inverse_cholesky()
    feed_back_joint_errors(left.T, factor, nearest_entries, size=size)
    return torch.stack(chosen, dim=1).flatten()


def refit(
    codebook: Tensor, layers: Sequence[Layer], indices: Sequence[Tensor], shares: Sequence[float]
) -> Tensor:
    """Entries of less output error at a fixed assignment (arXiv:2402.15319, section 3.3).

    Least squares by conjugate gradients with a diagonal preconditioner; the error never rises.

    Args:
        codebook: (k, d), where to start.
        layers: that read it.
        indices: of each layer.
        shares: how much the error of each layer counts.
    Returns:
        (k, d).
    """
    places = list(zip(layers, indices, shares, strict=True))

    def gather(entries: Tensor, layer: Layer, index: Tensor) -> Tensor:
        return lookup(index, entries, layer.weight.shape) * layer.scale.float()

    def scatter(field: Tensor, index: Tensor) -> Tensor:
        blocks = field.reshape(-1, codebook.shape[1])
        return torch.zeros_like(codebook).index_add_(0, index, blocks)

    def pulled(difference: Tensor, layer: Layer, index: Tensor) -> Tensor:
        return scatter(layer.times_hessian(difference) * layer.scale.float(), index)

    residual, diagonal = torch.zeros_like(codebook), torch.zeros_like(codebook)
    for layer, index, share in places:
        difference = layer.weight - gather(codebook, layer, index)
        residual += share * pulled(difference, layer, index)
        diagonal += share * scatter(layer.importance, index)

    def normal(direction: Tensor) -> Tensor:
        curved = torch.zeros_like(codebook)
        for layer, index, share in places:
            curved += share * pulled(gather(direction, layer, index), layer, index)
        return curved

    return conjugate_gradients(codebook, residual, normal, diagonal, steps=REFITS, tolerance=1e-12)


def fit(
    layers: Sequence[Layer], *, clusters: int, block_size: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """One codebook for all layers, and the entries that each reads.

    Every layer counts by its output error relative to its output energy.

    Args:
        layers: columns divisible by `block_size`.
        clusters: k.
        block_size: d.
        seed: of k-means and of the vectors that it sees.
    Returns:
        codebook (k, d) float32, by `round_to_float16`; indices (rows · columns / d,) of each layer.
    """
    unit = power_of_two_below([layer.weight for layer in layers])
    layers = [dataclasses.replace(layer, weight=layer.weight / unit) for layer in layers]
    shares = [1 / max(layer.error(torch.zeros_like(layer.weight)), 1e-30) for layer in layers]
    generator = torch.Generator().manual_seed(seed)
    wanted = max(SAMPLE, 64 * clusters)
    total = sum(layer.weight.numel() // block_size for layer in layers)
    vectors, importance = [], []
    for layer, share in zip(layers, shares, strict=True):
        blocks = layer.normalized.reshape(-1, block_size)
        weights = (share * layer.importance).reshape(-1, block_size)
        if total > wanted:
            drawn = torch.randperm(len(blocks), generator=generator)
            drawn = drawn[: max(len(blocks) * wanted // total, clusters)].to(blocks.device)
            blocks, weights = blocks[drawn], weights[drawn]
        vectors.append(blocks)
        importance.append(weights)
    codebook = weighted_kmeans(torch.cat(vectors), torch.cat(importance), clusters, seed=seed)
    indices = [assign(layer, codebook) for layer in layers]
    codebook = refit(codebook, layers, indices, shares)
    return round_to_float16(codebook * unit), indices

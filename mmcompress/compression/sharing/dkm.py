"""Differentiable k-means: while training, every weight is an attention over the centroids.

"DKM: Differentiable K-Means Clustering Layer for Neural Network Compression", Cho et al. 2021,
arXiv:2108.12659, section 3: the attention of weights to centroids is a softmax of negative
distances, centroids are the attention's weighted means, both are iterated in every forward pass
from the centroids of the last one, and the layer computes with attention · centroids; so the
gradient reaches the weights through the clustering. In evaluation and in the end each weight is its
nearest centroid. Where we differ: distances are squared and measured in the mean squared distance
that plain k-means leaves at the start, so that one temperature suits all layers; the temperature
may fall while training; and only the last iteration carries a gradient, with its attention
recomputed on the way back, so that memory does not grow with clusters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    LEFT_DENSE,
    Applied,
    Decision,
    as_matrix,
    keep_zeros,
    kept_mask,
)
from mmcompress.compression.sharing.codebook import (
    block_in,
    check_codebook_arguments,
    does_not_fit,
    would_not_shrink,
)
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import FollowsSchedule, ValueStep
from mmcompress.functional.divisors import largest_divisor
from mmcompress.functional.float16 import round_to_float16
from mmcompress.functional.kmeans import nearest, scalar_kmeans, vector_kmeans
from mmcompress.functional.lookup import lookup

CHUNK = 2**22
"""Distances that are held at once."""

LIMIT = 2**28
"""Distances of one weight that are computed in a forward pass, at most."""

ITERATIONS = 5
"""Of a forward pass, at most; they start where the last pass ended."""

TOLERANCE = 1e-4
"""Movement of the centroids, relative to their size, at which the iteration ends."""


def attention(vectors: Tensor, centroids: Tensor, temperature: Tensor) -> Tensor:
    """Softmax over the centroids of −‖w_i − c_j‖² / τ (arXiv:2108.12659, section 3.2).

    Args:
        vectors: (n, d).
        centroids: (k, d).
        temperature: τ, a scalar.
    Returns:
        (n, k), rows add up to 1.
    """
    # ‖w‖² is the same for all centroids, and the softmax does not see it.
    distances = torch.addmm(centroids.square().sum(dim=1), vectors, centroids.T, alpha=-2.0)
    return torch.softmax(-distances / temperature, dim=1)


def _mean_parts(
    vectors: Tensor, counts: Tensor, centroids: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    weights = attention(vectors, centroids, temperature) * counts
    return weights.T @ vectors, weights.sum(dim=0)


def _soft(vectors: Tensor, centroids: Tensor, temperature: Tensor) -> Tensor:
    return attention(vectors, centroids, temperature) @ centroids


def soft_means(vectors: Tensor, counts: Tensor, centroids: Tensor, temperature: Tensor) -> Tensor:
    """The next centroids c_j = Σ_i a_ij w_i / Σ_i a_ij; one that nothing attends to stays.

    Args:
        vectors: (n, d).
        counts: (n, 1), 0 for vectors that do not take part.
        centroids: (k, d).
        temperature: a scalar.
    """
    sums, totals = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    for part, count in _chunks(len(centroids), vectors, counts):
        found = _recomputed(_mean_parts, part, count, centroids, temperature)
        sums, totals = sums + found[0], totals + found[1]
    means = sums / totals.clamp(min=1e-12)[:, None]
    return torch.where(totals[:, None] > 1e-12, means, centroids)


def soft_assigned(vectors: Tensor, centroids: Tensor, temperature: Tensor) -> Tensor:
    """What the layer computes with, A C: each vector as the weighted mean of all centroids.

    Args:
        vectors: (n, d).
        centroids: C (k, d).
        temperature: of the attention A, a scalar.
    Returns:
        (n, d).
    """
    parts = [
        _recomputed(_soft, part, centroids, temperature)
        for (part,) in _chunks(len(centroids), vectors)
    ]
    return torch.cat(parts)


def _chunks(clusters: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = max(CHUNK // clusters, 1)
    yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _recomputed(function: Any, *tensors: Tensor) -> Any:
    """The function's value; on the way back it is computed anew instead of remembered."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)


class SoftClusters(nn.Module):
    """Parametrization W → A C while training, W → nearest centroid otherwise.

    Args:
        weight: clustered here.
        clusters: k.
        block_size: neighbors in a row that form one vector; divides the columns.
        seed: of the vector k-means.
    """

    centroids: Tensor
    distortion: Tensor

    def __init__(self, weight: Tensor, *, clusters: int, block_size: int, seed: int) -> None:
        super().__init__()
        self.block_size = block_size
        vectors, counts = self._vectors(weight)
        taking_part = vectors[counts[:, 0] > 0]
        if block_size == 1:
            values, indices = scalar_kmeans(taking_part[:, 0], clusters)
            centroids = values[:, None]
        else:
            centroids, indices = vector_kmeans(taking_part, clusters, seed=seed)
        error = (taking_part - centroids[indices]).square().sum(dim=1).mean()
        self.register_buffer("centroids", centroids)
        self.register_buffer("distortion", error.clamp(min=1e-12))
        self.temperature = 1.0
        self.hard = False
        self.indices: Tensor | None = None
        """Of the last hard assignment."""

    def _vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), and (n, 1) with 0 for what an earlier mask has pruned."""
        vectors = as_matrix(weight).reshape(-1, self.block_size)
        kept = kept_mask(vectors) if self.block_size == 1 else torch.ones_like(vectors[:, :1])
        return vectors, kept.to(vectors.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        # Distances of bf16 would not tell neighboring centroids apart.
        with torch.autocast(weight.device.type, enabled=False):
            vectors, counts = self._vectors(weight)
            soft = self.training and not self.hard
            shared = self._attend(vectors, counts) if soft else self._snap(vectors)
        shared = shared.view_as(weight)
        return keep_zeros(shared, weight) if self.block_size == 1 else shared

    def _attend(self, vectors: Tensor, counts: Tensor) -> Tensor:
        temperature = self.temperature * self.distortion
        with torch.no_grad():
            centroids = self.centroids.clone()
            for _ in range(ITERATIONS):
                before = centroids
                centroids = soft_means(vectors, counts, before, temperature)
                if (centroids - before).norm() <= TOLERANCE * before.norm():
                    break
        centroids = soft_means(vectors, counts, centroids, temperature)
        if torch.is_grad_enabled():
            self.centroids.copy_(centroids.detach())
        return soft_assigned(vectors, centroids, temperature)

    @torch.no_grad()
    def _snap(self, vectors: Tensor) -> Tensor:
        codebook = round_to_float16(self.centroids)
        self.indices = nearest(vectors, codebook)[0]
        return lookup(self.indices, codebook, vectors.shape)


class DKM(ValueStep[SoftClusters], FollowsSchedule):
    """Weights that are clustered softly while training, and snapped to their centroids in the end.

    Args:
        clusters: entries of a codebook, one per weight. Legal: whole number from 2 to 65536.
        block_size: neighbors in a row that form one entry. Where it does not divide the columns of
            a weight, the largest smaller divisor takes its place. Legal: whole number of at least
            1.
        temperature: of the attention when training starts, in units of the squared error that plain
            k-means leaves. Legal: number above 0.
        final_temperature: of the attention when training ends; in between it falls geometrically.
            Null keeps the temperature. Legal: number above 0, or null.
        seed: draws the vectors that k-means starts from. Legal: whole number.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"clusters": (4, 8, 16, 32)}
    no_speedup = "shared weights are looked up into float32 before they multiply"

    def __init__(
        self,
        *,
        clusters: int,
        block_size: int = 1,
        temperature: float = 1.0,
        final_temperature: float | None = 0.05,
        seed: int = 0,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        check_codebook_arguments(clusters, block_size)
        for name, value in [("temperature", temperature), ("final_temperature", final_temperature)]:
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive: small is nearly hard")
        self.clusters, self.block_size, self.seed = clusters, block_size, seed
        self.temperature, self.final_temperature = temperature, final_temperature
        self.keeps_zeros = block_size == 1

    def check(self, target: Target, weight: Tensor) -> None:
        columns = as_matrix(weight).shape[1]
        blocks = weight.numel() // largest_divisor(columns, self.block_size or columns)
        if blocks * self.clusters > LIMIT:
            raise ValueError(
                f"clusters={self.clusters} times the {blocks} blocks of {target.name} is more than "
                f"the {LIMIT} distances that a training step can afford: lower clusters, raise "
                "block_size, or leave it out with a selector (role)"
            )

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {target.name: self._decide(weights[target.name]) for target in targets}

    def _decide(self, weight: Tensor) -> Decision:
        block_size = block_in(weight, self.block_size)
        if self.block_size == 1 and not kept_mask(weight).any():
            return {LEFT_DENSE: "all its weights are zero"}
        reason = does_not_fit(weight, self.block_size) or would_not_shrink(
            weight.numel(), clusters=self.clusters, block_size=block_size
        )
        if reason:
            return {LEFT_DENSE: reason}
        return {"clusters": self.clusters, "block_size": block_size, "seed": self.seed}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> SoftClusters:
        return SoftClusters(getattr(module, parameter).detach(), **decision)

    def on_step(self, applied: Mapping[str, Applied[SoftClusters]], progress: float) -> None:
        final = self.temperature if self.final_temperature is None else self.final_temperature
        for one in applied.values():
            clusters = one.parametrization
            clusters.temperature = self.temperature * (final / self.temperature) ** progress
            clusters.hard = progress >= 1

    def finalize(self, parametrization: SoftClusters, weight: Tensor) -> Encoding:
        assert parametrization.indices is not None, "a weight is read before it is stored"
        tensors = {
            "indices": parametrization.indices,
            "codebook": round_to_float16(parametrization.centroids),
        }
        kept = kept_mask(weight)
        mask = None if not self.keeps_zeros or kept.all() else kept
        return Encoding(values={"codec": "codebook"}, tensors=tensors, mask=mask)

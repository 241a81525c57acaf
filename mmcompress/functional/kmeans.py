"""Codebooks by k-means: of numbers, of vectors, and of vectors whose entries count differently."""

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 15
CHUNK = 4096
"""Vectors that are compared with the codebook at once, to bound memory."""


def scalar_kmeans(values: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """One-dimensional k-means from evenly spaced centroids (arXiv:1510.00149, section 3.2).

    Args:
        values: (n,).
        clusters: k.
    Returns:
        centroids (k,) ascending, and the index (n,) int64 of the nearest for each value.
    """
    ordered = values.double().sort().values
    totals = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centroids = torch.linspace(
        float(ordered[0]), float(ordered[-1]), clusters, dtype=torch.float64, device=values.device
    )
    for _ in range(ITERATIONS):
        middles = (centroids[1:] + centroids[:-1]) / 2
        inner = torch.searchsorted(ordered, middles)
        ends = torch.cat([inner, inner.new_tensor([len(ordered)])])
        starts = torch.cat([inner.new_zeros(1), inner])
        counts = ends - starts
        means = (totals[ends] - totals[starts]) / counts.clamp(min=1)
        # An empty cluster keeps its place.
        centroids = torch.where(counts > 0, means, centroids).sort().values
    centroids = centroids.to(values.dtype)
    middles = (centroids[1:] + centroids[:-1]) / 2
    return centroids, torch.searchsorted(middles, values.contiguous())


def vector_kmeans(vectors: Tensor, clusters: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means; an empty cluster moves to the vector that is served worst.

    Args:
        vectors: (n, d), n at least `clusters`.
        clusters: k.
        seed: draws the vectors that the centroids start from.
    Returns:
        centroids (k, d), and the index (n,) int64 of the nearest for each vector.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randperm(len(vectors), generator=generator)[:clusters]
    centroids = vectors[start.to(vectors.device)].clone()
    ones = torch.ones_like(vectors[:, :1])
    centroids = _lloyd(centroids, vectors, ones, vectors, nearest)
    return centroids, nearest(vectors, centroids)[0]


def weighted_kmeans(vectors: Tensor, importance: Tensor, clusters: int, *, seed: int) -> Tensor:
    """Lloyd's k-means of Σ_t h_t (v_t − c_t)²; an empty cluster moves to the vector served worst.

    Args:
        vectors: (n, d), n at least `clusters`.
        importance: (n, d), h, positive.
        clusters: k.
        seed: draws the vectors that the centroids start from, important ones more often.
    Returns:
        centroids (k, d).
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.multinomial(importance.sum(dim=1).cpu(), clusters, generator=generator)
    centroids = vectors[start.to(vectors.device)].clone()

    def find(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        return weighted_nearest(vectors, importance, centroids)

    return _lloyd(centroids, vectors, importance, importance * vectors, find)


def _lloyd(
    centroids: Tensor,
    vectors: Tensor,
    importance: Tensor,
    weighted: Tensor,
    find: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """The iterations of both; `weighted` is importance (n, 1 or d) · vectors (n, d)."""
    clusters = len(centroids)
    for _ in range(ITERATIONS):
        indices, distances = find(vectors, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, indices, weighted)
        totals = centroids.new_zeros(clusters, importance.shape[1])
        totals.index_add_(0, indices, importance)
        centroids = torch.where(totals > 0, sums / totals.clamp(min=1e-30), centroids)
        empty = (torch.bincount(indices, minlength=clusters) == 0).nonzero()[:, 0]
        if len(empty):
            centroids[empty] = vectors[distances.topk(len(empty)).indices]
    return centroids


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centroid of each vector, and half the squared distance to it.

    Args:
        vectors: (n, d).
        centroids: (k, d).
    Returns:
        (n,) int64, and (n,).
    """
    # ‖v − c‖² / 2 = ‖v‖² / 2 + (‖c‖² / 2 − v·c); only the bracket depends on c.
    offset = centroids.square().sum(dim=1) / 2  # k
    found = [
        torch.addmm(offset, chunk, centroids.T, alpha=-1.0).min(dim=1)
        for chunk in vectors.split(CHUNK)
    ]
    bracket = torch.cat([f.values for f in found])
    return torch.cat([f.indices for f in found]), vectors.square().sum(dim=1) / 2 + bracket


def weighted_nearest(
    vectors: Tensor, importance: Tensor, centroids: Tensor
) -> tuple[Tensor, Tensor]:
    """Index of the centroid with the least Σ_t h_t (v_t − c_t)² of each vector, and half of it.

    Args:
        vectors: v (n, d).
        importance: h (n, d), positive.
        centroids: c (k, d).
    Returns:
        (n,) int64, and (n,).
    """
    pieces = []
    for v, h in zip(vectors.split(CHUNK), importance.split(CHUNK), strict=True):
        bracket = torch.addmm(h @ (centroids.square().T / 2), h * v, centroids.T, alpha=-1.0)
        least = bracket.min(dim=1)
        pieces.append((least.indices, least.values + (h * v.square()).sum(dim=1) / 2))
    indices, distances = zip(*pieces, strict=True)
    return torch.cat(indices), torch.cat(distances)

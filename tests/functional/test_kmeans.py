"""k-means against Lloyd's loop, and by hand."""

import torch
from torch import Tensor

from mmcompress.functional.kmeans import scalar_kmeans, vector_kmeans, weighted_kmeans


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scalar_kmeans_by_hand() -> None:
    centroids, indices = scalar_kmeans(torch.tensor([0.0, 0.1, 5.0, 5.2, 9.0]), 3)
    torch.testing.assert_close(centroids, torch.tensor([0.05, 5.1, 9.0]))
    assert indices.tolist() == [0, 0, 1, 1, 2]


def reference_kmeans(values: list[float], clusters: int) -> list[float]:
    low, high = min(values), max(values)
    centroids = [low + (high - low) * i / (clusters - 1) for i in range(clusters)]
    for _ in range(15):
        members: list[list[float]] = [[] for _ in centroids]
        for value in values:
            distances = [abs(value - c) for c in centroids]
            members[distances.index(min(distances))].append(value)
        centroids = [sum(m) / len(m) if m else c for m, c in zip(members, centroids, strict=True)]
    return centroids


def test_scalar_kmeans_equals_lloyds_loop() -> None:
    values = random(300)
    centroids, indices = scalar_kmeans(values, 8)
    expected = torch.tensor(reference_kmeans(values.double().tolist(), 8))
    torch.testing.assert_close(centroids, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(indices, (values[:, None] - centroids).abs().argmin(dim=1))


def test_vector_kmeans_finds_separate_clouds() -> None:
    centers = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, 0.0], [0.0, -10.0]])
    labels = torch.arange(200) % 4
    vectors = centers[labels] + 0.1 * random(200, 2)
    centroids, indices = vector_kmeans(vectors, 4, seed=0)
    assert len({(int(a), int(b)) for a, b in zip(labels, indices, strict=True)}) == 4
    assert (centroids[indices] - vectors).norm(dim=1).max() < 1.0


def test_vector_kmeans_assigns_to_the_nearest_and_repeats_with_a_seed() -> None:
    vectors = random(500, 4)
    centroids, indices = vector_kmeans(vectors, 16, seed=3)
    assert torch.equal(indices, torch.cdist(vectors, centroids).argmin(dim=1))
    again = vector_kmeans(vectors, 16, seed=3)
    assert torch.equal(centroids, again[0])
    assert torch.equal(indices, again[1])


def test_vector_kmeans_equals_lloyds_loop() -> None:
    v = random(60, 2).double()
    start = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:4]
    expected = reference_weighted(v, torch.ones_like(v), v[start].clone())
    torch.testing.assert_close(vector_kmeans(v, 4, seed=3)[0], expected)


def reference_weighted(v: Tensor, h: Tensor, centroids: Tensor) -> Tensor:
    for _ in range(15):
        distances = [
            [float((h_i * (v_i - c) ** 2).sum()) for c in centroids]
            for v_i, h_i in zip(v, h, strict=True)
        ]
        chosen = [row.index(min(row)) for row in distances]
        for m in range(len(centroids)):
            members = [i for i, c in enumerate(chosen) if c == m]
            assert members, "the example keeps all clusters busy"
            top = sum(h[i] * v[i] for i in members)
            centroids[m] = top / sum(h[i] for i in members)
    return centroids


def test_weighted_kmeans_equals_lloyds_loop() -> None:
    v, h = random(60, 2).double(), random(60, 2, seed=1).double().abs() + 0.1
    start = torch.multinomial(h.sum(dim=1), 4, generator=torch.Generator().manual_seed(3))
    expected = reference_weighted(v, h, v[start].clone())
    torch.testing.assert_close(weighted_kmeans(v, h, 4, seed=3), expected)


def test_kmeans_leaves_no_entry_unused() -> None:
    v = torch.cat([random(50, 2) * 0.01, random(4, 2, seed=1) * 100])
    centroids = weighted_kmeans(v, torch.ones_like(v), 5, seed=0)
    nearest = torch.cdist(v, centroids).argmin(dim=1)
    assert len(nearest.unique()) == 5

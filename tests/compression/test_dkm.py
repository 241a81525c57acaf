import math

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Applied
from mmcompress.compression.sharing import dkm
from mmcompress.compression.sharing.dkm import DKM, SoftClusters, soft_assigned, soft_means


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target() -> Target:
    return Target("layer", "weight", "image", "mlp.up", "linear")


def reference_layer(w: Tensor, c: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """One iteration of arXiv:2108.12659, figure 3: D, A, C̃, and then W̃ = A C̃."""

    def attend(c: Tensor) -> Tensor:
        rows = []
        for w_i in w:
            d = torch.stack([-((w_i - c_j) ** 2).sum() for c_j in c])
            e = torch.exp(d / tau)
            rows.append(e / e.sum())
        return torch.stack(rows)

    a = attend(c)
    c = torch.stack(
        [
            sum(a[i, j] * w[i] for i in range(len(w))) / sum(a[i, j] for i in range(len(w)))
            for j in range(len(c))
        ]
    )
    return c, attend(c) @ c


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("chunk", [8, 2**22])
def test_layer_and_gradient_equal_the_paper(
    block_size: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dkm, "CHUNK", chunk)
    c, tau = random(4, block_size, seed=1), torch.tensor(0.7)
    upstream = random(12, block_size, seed=2)
    results = []
    for fast in (True, False):
        w = random(12, block_size).requires_grad_()
        if fast:
            means = soft_means(w, torch.ones(12, 1), c, tau)
            shared = soft_assigned(w, means, tau)
        else:
            means, shared = reference_layer(w, c, 0.7)
        (shared * upstream).sum().backward()
        results.append((means.detach(), shared.detach(), w.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_pruned_weights_move_no_centroid_and_stay_zero() -> None:
    weight = random(8, 8)
    weight[:, ::2] = 0.0
    clusters = SoftClusters(weight, clusters=4, block_size=1, seed=0)
    shared = clusters(weight)
    assert torch.equal(shared == 0, weight == 0)
    kept = weight[weight != 0]
    alone = SoftClusters(kept[None], clusters=4, block_size=1, seed=0)
    torch.testing.assert_close(alone(kept[None]).flatten(), shared[weight != 0])
    torch.testing.assert_close(alone.centroids, clusters.centroids)


def test_cold_attention_is_hard_assignment() -> None:
    weight = random(16, 8)
    clusters = SoftClusters(weight, clusters=4, block_size=2, seed=0)
    clusters.temperature = 1e-4
    soft = clusters(weight)
    hard = clusters.eval()(weight)
    # float16 centroids in the hard one
    torch.testing.assert_close(soft, hard, atol=2e-3, rtol=1e-3)


def test_evaluation_uses_at_most_k_vectors_of_float16() -> None:
    weight = random(16, 8)
    clusters = SoftClusters(weight, clusters=4, block_size=2, seed=0).eval()
    shared = clusters(weight)
    assert len(shared.reshape(-1, 2).unique(dim=0)) <= 4
    assert torch.equal(shared, shared.half().float())
    distances = torch.cdist(weight.reshape(-1, 2), clusters.centroids.half().float())
    assert torch.equal(clusters.indices, distances.argmin(dim=1))


def test_evaluation_and_frozen_passes_leave_the_centroids() -> None:
    weight = random(16, 8)
    clusters = SoftClusters(weight, clusters=4, block_size=1, seed=0)
    before = clusters.centroids.clone()
    with torch.no_grad():
        clusters(weight + 1.0)
    clusters.eval()(weight + 1.0)
    assert torch.equal(clusters.centroids, before)
    clusters.train()((weight + 1.0).requires_grad_())
    assert not torch.equal(clusters.centroids, before)


def test_temperature_falls_geometrically_and_ends_hard() -> None:
    layer = nn.Linear(8, 8)
    step = DKM(clusters=4, temperature=1.0, final_temperature=0.01)
    soft = step.apply(layer, "weight", {"clusters": 4, "block_size": 1, "seed": 0})
    applied = {"layer.weight": Applied(layer, "weight", soft)}
    for progress, temperature in [(0.0, 1.0), (0.5, 0.1), (1.0, 0.01)]:
        step.on_step(applied, progress)
        assert math.isclose(soft.temperature, temperature)
        assert soft.hard == (progress == 1.0)
    shared = soft(layer.weight)  # in training mode
    encoding = step.finalize(soft, shared.detach())
    decoded = encoding.tensors["codebook"].float()[encoding.tensors["indices"]].view(8, 8)
    assert torch.equal(decoded, shared)


def test_bf16_autocast_changes_nothing() -> None:
    weight = random(16, 8)
    clusters = SoftClusters(weight, clusters=8, block_size=1, seed=0)
    with torch.no_grad():
        plain = clusters(weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(clusters(weight), plain)


def test_training_pulls_weights_to_their_centroids() -> None:
    """The distance to the hard assignment is a loss that gradients through the layer can lower."""
    weight = nn.Parameter(random(32, 8))
    clusters = SoftClusters(weight.detach(), clusters=4, block_size=1, seed=0)
    optimizer = torch.optim.Adam([weight], lr=0.02)

    def distance() -> Tensor:
        return (clusters(weight) - weight).square().mean()

    before = float(distance().detach())
    for _ in range(30):
        optimizer.zero_grad()
        distance().backward()
        optimizer.step()
    assert float(distance().detach()) < 0.5 * before


def test_what_is_left_dense_or_refused() -> None:
    step = DKM(clusters=16)
    plan = step.plan([target()], {"layer.weight": random(2, 4)}, {})
    assert "would not shrink" in plan["layer.weight"][LEFT_DENSE]
    plan = step.plan([target()], {"layer.weight": torch.zeros(32, 32)}, {})
    assert plan["layer.weight"] == {LEFT_DENSE: "all its weights are zero"}
    plan = DKM(clusters=4, block_size=2).plan([target()], {"layer.weight": random(64, 49)}, {})
    assert "divides its 49 columns" in plan["layer.weight"][LEFT_DENSE]
    plan = DKM(clusters=4, block_size=4).plan([target()], {"layer.weight": random(64, 27)}, {})
    assert plan["layer.weight"]["block_size"] == 3
    large = torch.zeros(50000, 512, device="meta")
    with pytest.raises(ValueError, match=r"clusters=16 times the 25600000 blocks of layer\.weight"):
        step.check(target(), large)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "clusters=1"),
        ({"clusters": 4, "temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"clusters": 4, "final_temperature": -1.0}, "final_temperature=-1.0 must be positive"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DKM(**settings)

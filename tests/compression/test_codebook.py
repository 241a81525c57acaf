import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.sharing.codebook import (
    Codebook,
    Lookup,
    _tell_fitted,
    block_in,
    does_not_fit,
)
from mmcompress.functional.kmeans import scalar_kmeans


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(name: str = "layer") -> Target:
    return Target(name, "weight", "image", "mlp.up", "linear")


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_places_share_entries(block_size: int) -> None:
    """Every run of block_size weights is one of `clusters` vectors."""
    weight = random(32, 16)
    shared = Lookup(weight, clusters=4, block_size=block_size, seed=0)(weight)
    assert len(shared.reshape(-1, block_size).unique(dim=0)) <= 4
    assert shared.shape == weight.shape


def test_gradient_of_an_entry_is_the_sum_over_its_places() -> None:
    """Deep Compression, eq. 3."""
    weight = random(8, 8)
    lookup = Lookup(weight, clusters=4, block_size=1, seed=0)
    upstream = random(8, 8, seed=1)
    (lookup(weight) * upstream).sum().backward()
    expected = torch.zeros(4).index_add_(0, lookup.indices, upstream.flatten())
    gradient = lookup.codebook.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, 0], expected)


def test_zeros_of_a_mask_stay_zero_and_cost_no_cluster() -> None:
    weight = random(8, 8)
    weight[:, ::2] = 0.0
    lookup = Lookup(weight, clusters=32, block_size=1, seed=0)
    assert torch.equal(lookup(weight) == 0, weight == 0)
    kept, _ = scalar_kmeans(weight[weight != 0], 32)
    assert torch.equal(lookup.codebook.detach()[:, 0], kept)


def test_finalize_names_the_zeros_so_that_decoding_keeps_them() -> None:
    layer = nn.Embedding(8, 8, padding_idx=0)
    layer.requires_grad_(False)
    lookup = Lookup(layer.weight, clusters=4, block_size=1, seed=0)
    encoding = Codebook(clusters=4).finalize(lookup, lookup(layer.weight).detach())
    assert encoding.mask is not None
    assert torch.equal(encoding.mask, layer.weight != 0)
    assert encoding.values == {"codec": "codebook"}


def test_zeros_are_kept_however_they_come() -> None:
    """From an earlier mask that moves, and in a weight that is loaded later."""
    layer = nn.Linear(8, 8, bias=False).requires_grad_(False)
    lookup = Lookup(layer.weight, clusters=4, block_size=1, seed=0)
    assert (lookup(layer.weight) != 0).all()
    for row in range(2):
        masked = layer.weight * (torch.arange(8) != row)[:, None]
        assert torch.equal(lookup(masked) == 0, masked == 0)
    layer.load_state_dict({"weight": masked})
    assert torch.equal(lookup(layer.weight) == 0, masked == 0)


def test_plan_leaves_what_would_not_shrink() -> None:
    weights = {"layer.weight": random(4, 4)}
    plan = Codebook(clusters=16).plan([target()], weights, {})
    assert "would not shrink" in plan["layer.weight"][LEFT_DENSE]
    rows = Codebook(clusters=2, block_size=None).plan([target()], weights, {})
    assert rows["layer.weight"] == {"clusters": 2, "block_size": 4, "seed": 0}


@pytest.mark.parametrize(
    ("columns", "block_size", "fitted"),
    [(12, 4, 4), (27, 4, 3), (2730, 4, 3), (3, 4, 3), (49, 4, 1), (49, 1, 1), (49, None, 49)],
)
def test_block_size_is_fitted_where_it_does_not_divide(
    columns: int, block_size: int | None, fitted: int, caplog: pytest.LogCaptureFixture
) -> None:
    """27 is a stem of 3 x 3 x 3, 2730 the MLP of EVA-02, 49 the kernel of a depthwise layer."""
    _tell_fitted.cache_clear()
    weight = torch.zeros(2, columns)
    assert block_in(weight, block_size) == fitted
    assert (f"does not divide {columns} columns: {fitted} there" in caplog.text) is (fitted == 3)


def test_what_has_no_blocks_is_left_dense() -> None:
    assert (
        does_not_fit(random(64, 49), 4) == "no size from 2 to block_size=4 divides its 49 columns"
    )
    assert does_not_fit(random(64, 49), 1) == does_not_fit(random(64, 27), 4) == ""
    weights = {"a.weight": random(64, 49), "b.weight": random(64, 27)}
    plan = Codebook(clusters=4, block_size=4).plan([target("a"), target("b")], weights, {})
    assert "divides its 49 columns" in plan["a.weight"][LEFT_DENSE]
    assert plan["b.weight"]["block_size"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"clusters": 1}, "clusters=1"), ({"clusters": 4, "block_size": 0}, "block_size=0")],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Codebook(**settings)

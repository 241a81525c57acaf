from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.base import Target
from mmcompress.compression.pruning.allocation import (
    allocate,
    block_of,
    ecoflap_sparsities,
    kth_magnitude,
    threshold_counts,
)
from mmcompress.compression.statistics import Statistic


def layer(tower: str, block: int, name: str) -> Target:
    return Target(f"{tower}.layers.{block}.{name}", "weight", tower, "mlp.up", "linear")


TARGETS = [layer(tower, block, "fc") for tower in ("image", "text") for block in range(3)]


def random_weights(targets: Sequence[Target]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = {"image": 1.0, "text": 0.1, "shared": 1.0}
    return {t.name: torch.randn(7, 9, generator=generator) * scale[t.modality] for t in targets}


def test_kth_magnitude_is_that_of_a_sort():
    weights = [torch.randn(7, 9), torch.randn(50) * 1e-3, torch.zeros(3), torch.tensor([-4e30])]
    ordered = torch.cat([w.abs().flatten() for w in weights]).sort().values
    for k in range(len(ordered)):
        assert kth_magnitude(weights, k) == ordered[k].item()


def test_one_threshold_takes_more_from_small_layers():
    weights = {"small": torch.full((4, 4), 0.1), "large": torch.full((4, 4), 1.0)}
    weights["small"] += torch.arange(16).view(4, 4) * 1e-3
    assert threshold_counts(weights, 0.5) == {"small": 16, "large": 0}


@pytest.mark.parametrize("sparsity", [0.01, 0.3, 0.99])
def test_threshold_counts_add_up(sparsity: float):
    weights = random_weights(TARGETS)
    assert sum(threshold_counts(weights, sparsity).values()) == round(sparsity * 6 * 63)


def test_uniform_takes_the_same_from_each():
    counts = allocate(TARGETS, random_weights(TARGETS), {}, sparsity=0.3, allocation="uniform")
    assert counts == dict.fromkeys(counts, 19)


def test_each_tower_has_its_own_threshold():
    """The text tower's weights are ten times smaller: one threshold takes all from there."""
    weights = random_weights(TARGETS)
    both = allocate(TARGETS, weights, {}, sparsity=0.5, allocation="global")
    each = allocate(TARGETS, weights, {}, sparsity=0.5, allocation="modality")
    of = {t.name: t.modality for t in TARGETS}
    for counts, expected in [(both, None), (each, round(0.5 * 3 * 63))]:
        image = sum(n for name, n in counts.items() if of[name] == "image")
        assert image < 30 if expected is None else image == expected
    assert sum(each.values()) == 2 * round(0.5 * 3 * 63)


def test_blocks():
    assert block_of(
        Target("model.text.layers.11.attn.q", "weight", "text", "attn.q", "linear")
    ) == ("model.text.layers.11")
    assert block_of(Target("proj", "weight", "text", "proj", "linear")) == "proj.weight"


def slow_ecoflap(scores: list[float], sizes: list[int], keep: int, floor: float) -> list[float]:
    """Hand out one weight after another, each to the block that is furthest behind its share."""
    kept = [floor * size for size in sizes]
    for _ in range(keep - round(sum(kept))):
        behind = [
            (kept[g] - floor * sizes[g] + 1) / scores[g]
            if kept[g] + 1 <= sizes[g]
            else float("inf")
            for g in range(len(sizes))
        ]
        kept[behind.index(min(behind))] += 1
    return [1 - k / n for k, n in zip(kept, sizes, strict=True)]


@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0], [100.0, 1.0, 1.0], [1.0, 1.0, 1e-6]])
def test_ecoflap_against_a_slow_loop(scores: list[float]):
    sizes = [1000, 2000, 500]
    blocks = {str(g): [str(g)] for g in range(3)}
    found = ecoflap_sparsities(
        blocks,
        {str(g): n for g, n in enumerate(sizes)},
        {str(g): s for g, s in enumerate(scores)},
        sparsity=0.5,
        max_sparsity=0.6,
    )
    shares = [share for block in found for share in block.values()]
    # the loop hands out whole weights
    assert shares == pytest.approx(slow_ecoflap(scores, sizes, 1750, 0.4), abs=3e-3)
    assert max(shares) <= 0.6
    assert min(shares) >= 0.0
    assert sum(s * n for s, n in zip(shares, sizes, strict=True)) == pytest.approx(1750)


def test_ecoflap_is_even_inside_a_block_and_follows_the_loss():
    targets = [layer("image", b, n) for b in range(2) for n in ("fc1", "fc2")]
    statistics = {
        t.name: Statistic(loss_change=9.0 if "layers.1" in t.name else 1.0) for t in targets
    }
    counts = allocate(
        targets, random_weights(targets), statistics, sparsity=0.4, allocation="ecoflap"
    )
    # of 252 weights the floor keeps 126; 25.2 more are kept, a tenth of them in block 0
    assert list(counts.values()) == [30, 30, 20, 20]
    assert ecoflap_sparsities(
        {"a": ["a"]}, {"a": 10}, {"a": 0.0}, sparsity=0.4, max_sparsity=0.5
    ) == [{"a": 0.4}], "a block of no importance still reaches the target"

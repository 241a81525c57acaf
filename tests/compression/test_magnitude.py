import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Applied
from mmcompress.compression.pruning.magnitude import (
    Magnitude,
    Mask,
    cubic_sparsity,
    global_counts,
    smallest_mask,
)


def target(name: str = "layer") -> Target:
    return Target(name, "weight", "image", "mlp.up", "linear")


def test_mask_by_hand() -> None:
    weight = torch.tensor([[0.5, -0.1, 3.0, 0.2], [-4.0, 0.3, -0.4, 0.0]])
    expected = torch.tensor([[True, False, True, False], [True, False, True, False]])
    assert torch.equal(smallest_mask(weight, 4), expected)


@pytest.mark.parametrize("pruned", [0, 1, 17, 63, 64])
def test_mask_drops_exactly_the_smallest(pruned: int) -> None:
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    mask = smallest_mask(weight, pruned)
    assert int((~mask).sum()) == pruned
    if 0 < pruned < 64:
        assert weight[~mask].abs().max() <= weight[mask].abs().min()


def test_cubic_schedule_follows_the_paper() -> None:
    """Zhu and Gupta, eq. 1 with s_i = 0: s_f (1 − (1 − t/T)³)."""
    for progress in (0.0, 0.1, 0.35, 0.6):
        expected = 1 - (1 - max(progress - 0.1, 0) / 0.5) ** 3
        assert cubic_sparsity(progress, begin=0.1, end=0.6) == pytest.approx(expected)
    assert cubic_sparsity(1.0, begin=0.1, end=0.6) == 1.0


def test_global_threshold_takes_more_from_small_layers() -> None:
    weights = {"small": torch.full((4, 4), 0.1), "large": torch.full((4, 4), 1.0)}
    weights["small"] += torch.arange(16).view(4, 4) * 1e-3
    assert global_counts(weights, 0.5) == {"small": 16, "large": 0}


def test_global_counts_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {str(i): torch.randn(7, 9, generator=generator) for i in range(4)}
    assert sum(global_counts(weights, 0.3).values()) == round(0.3 * 4 * 63)


def prune_by_schedule(layer: nn.Linear, magnitude: Magnitude) -> Mask:
    weights = {"layer.weight": layer.weight.detach()}
    decision = magnitude.plan([target()], weights, {})["layer.weight"]
    mask = magnitude.apply(layer, "weight", decision)
    assert isinstance(mask, Mask)
    nn.utils.parametrize.register_parametrization(layer, "weight", mask)
    magnitude.applied["layer.weight"] = Applied(layer, "weight", mask)
    return mask


def test_gradual_masks_only_grow_and_end_at_the_sparsity() -> None:
    layer = nn.Linear(16, 16)
    mask = prune_by_schedule(layer, magnitude := Magnitude(sparsity=0.75, schedule="cubic"))
    before, shares = mask.mask.clone(), []
    for step in range(11):
        magnitude.on_step(step / 10)
        assert not (mask.mask & ~before).any(), "a masked weight came back"
        before = mask.mask.clone()
        shares.append(1 - mask.mask.float().mean().item())
        with torch.no_grad():  # training moves the weights between the updates
            magnitude.applied["layer.weight"].original.add_(0.1)
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 0.75


def test_one_shot_is_complete_at_once() -> None:
    layer = nn.Linear(16, 16)
    dense = layer.weight.detach().clone()
    prune_by_schedule(layer, Magnitude(sparsity=0.5))
    assert int((layer.weight == 0).sum()) == 128
    assert torch.equal(layer.weight, dense * smallest_mask(dense, 128))


def test_masked_weights_get_no_gradient() -> None:
    layer = nn.Linear(4, 4)
    mask = prune_by_schedule(layer, magnitude := Magnitude(sparsity=0.5))
    layer.weight.sum().backward()
    gradient = magnitude.applied["layer.weight"].original.grad
    assert gradient is not None
    assert torch.equal(gradient != 0, mask.mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0.0}, "sparsity=0.0"),
        ({"sparsity": 0.5, "scope": "layer"}, "local or global"),
        ({"sparsity": 0.5, "schedule": "linear"}, "one_shot or cubic"),
        ({"sparsity": 0.5, "begin": 0.6, "end": 0.5}, "begin"),
        ({"sparsity": 0.5, "updates": 0}, "updates=0"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Magnitude(**settings)

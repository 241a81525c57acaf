import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Applied
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.pruning.masks import Mask, lowest_mask


def target(name: str = "layer") -> Target:
    return Target(name, "weight", "image", "mlp.up", "linear")


def prune_by_schedule(layer: nn.Linear, magnitude: Magnitude) -> Mask:
    weights = {"layer.weight": layer.weight.detach()}
    decision = magnitude.plan([target()], weights, {})["layer.weight"]
    mask = magnitude.apply(layer, "weight", decision)
    assert isinstance(mask, Mask)
    nn.utils.parametrize.register_parametrization(layer, "weight", mask)
    return mask


def applied(layer: nn.Linear, mask: Mask) -> dict[str, Applied]:
    return {"layer.weight": Applied(layer, "weight", mask)}


def test_gradual_masks_only_grow_and_end_at_the_sparsity() -> None:
    layer = nn.Linear(16, 16)
    mask = prune_by_schedule(layer, magnitude := Magnitude(sparsity=0.75, schedule="cubic"))
    before, shares = mask.mask.clone(), []
    for step in range(11):
        magnitude.on_step(applied(layer, mask), step / 10)
        assert not (mask.mask & ~before).any(), "a masked weight came back"
        before = mask.mask.clone()
        shares.append(1 - mask.mask.float().mean().item())
        with torch.no_grad():  # training moves the weights between the updates
            layer.parametrizations.weight.original.add_(0.1)
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 0.75


def test_one_shot_is_complete_at_once() -> None:
    layer = nn.Linear(16, 16)
    dense = layer.weight.detach().clone()
    prune_by_schedule(layer, Magnitude(sparsity=0.5))
    assert int((layer.weight == 0).sum()) == 128
    assert torch.equal(layer.weight, dense * lowest_mask(dense.abs(), 128))


def test_masked_weights_get_no_gradient() -> None:
    layer = nn.Linear(4, 4)
    mask = prune_by_schedule(layer, Magnitude(sparsity=0.5))
    layer.weight.sum().backward()
    gradient = layer.parametrizations.weight.original.grad
    assert gradient is not None
    assert torch.equal(gradient != 0, mask.mask)


def test_n_of_m_gradually():
    """2:4 while training: whole groups step from four kept to two."""
    layer = nn.Linear(16, 8)
    magnitude = Magnitude(sparsity=0.5, pattern="2:4", schedule="cubic", end=1.0, updates=2)
    mask = prune_by_schedule(layer, magnitude)
    dense = layer.weight.detach().abs().view(8, 4, 4)
    kept = []
    for progress in (0.0, 0.5, 1.0):
        magnitude.on_step(applied(layer, mask), progress)
        kept.append(mask.mask.view(8, 4, 4).sum(dim=-1).unique().tolist())
    assert kept == [[4], [2], [2]]  # 1 − (1 − 1/2)³ = 7/8 of two is two
    expected = dense >= dense.sort(dim=-1).values[..., 2:3]
    assert torch.equal(mask.mask.view(8, 4, 4), expected)


def test_row_by_row_each_loses_the_same():
    weight = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(10, 8)
    layer.weight.data.copy_(weight * torch.logspace(-2, 2, 8)[:, None])
    mask = prune_by_schedule(layer, Magnitude(sparsity=0.3, compare="row")).mask
    assert mask.sum(dim=1).tolist() == [7] * 8
    assert torch.equal(mask, weight.abs() >= weight.abs().sort(dim=1).values[:, 3:4])


def test_a_pattern_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"pattern=2:4 does not fit the 6 columns of layer.weight"):
        Magnitude(sparsity=0.5, pattern="2:4").check(target(), torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0.0}, "sparsity=0.0"),
        ({"sparsity": 0.5, "allocation": "layer"}, "uniform, global, modality, ecoflap"),
        ({"sparsity": 0.5, "compare": "column"}, "row, tensor or null"),
        ({"sparsity": 0.5, "max_sparsity": 0.4}, "max_sparsity=0.4 must lie between sparsity=0.5"),
        ({"sparsity": 0.5, "pattern": 124}, "pattern=124 must be two whole numbers.* in quotes"),
        ({"sparsity": 0.5, "pattern": "4:2"}, "0 < N < M"),
        ({"sparsity": 0.5, "pattern": "1:4"}, "pattern=1:4 fixes .* set sparsity=0.75"),
        ({"sparsity": 0.5, "pattern": "2:4", "allocation": "global"}, "allocation=uniform"),
        ({"sparsity": 0.5, "schedule": "linear"}, "one_shot or cubic"),
        ({"sparsity": 0.5, "begin": 0.6, "end": 0.5}, "begin"),
        ({"sparsity": 0.5, "updates": 0}, "updates=0"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Magnitude(**settings)

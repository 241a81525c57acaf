import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.lowrank.lowrank import (
    LowRank,
    rank_for_energy,
    singular_values,
    truncated_svd,
    whitening_root,
)
from mmcompress.compression.lowrank.modules import factorise
from mmcompress.compression.statistics import Statistic, input_statistic


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(granularity: str = "linear") -> Target:
    return Target("layer", "weight", "image", "mlp.up", granularity)


def test_by_hand() -> None:
    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    u, vt = truncated_svd(weight, 1)
    torch.testing.assert_close(u @ vt, torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert u.shape == (2, 1)
    assert vt.shape == (1, 3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_error_is_the_tail_of_the_spectrum(rank: int) -> None:
    """Eckart and Young: the best rank-r error is the energy of the dropped singular values."""
    weight = random(8, 6).double()
    u, vt = truncated_svd(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:].square().sum()
    torch.testing.assert_close((weight - u @ vt).square().sum(), tail)


def test_whitening_root_is_a_root() -> None:
    inputs = random(50, 6).double()
    moment = inputs.T @ inputs
    root = whitening_root(moment)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(root @ root.T, damped)


def test_whitened_beats_plain_on_the_outputs() -> None:
    """Inputs of unequal size: only the whitened factors know which columns matter."""
    weight = random(8, 6)
    inputs = random(200, 6, seed=1) * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    moment = inputs.T @ inputs

    def error(second_moment: torch.Tensor | None) -> float:
        u, vt = truncated_svd(weight, 2, second_moment)
        return (inputs @ (weight - u @ vt).T).square().sum().item()

    assert error(moment) < 0.5 * error(None)
    # The optimum for the damped moment is close to that for the moment itself: within 1 %.
    tail = singular_values(weight, moment)[2:].square().sum().item()
    assert error(moment) <= 1.01 * tail


def test_full_rank_gives_the_weight_back() -> None:
    weight = random(5, 7)
    inputs = random(40, 7, seed=1)
    u, vt = truncated_svd(weight, 5, inputs.T @ inputs)
    # float32 factors of a double decomposition
    torch.testing.assert_close(u @ vt, weight, atol=1e-5, rtol=1e-4)


def test_rank_for_energy() -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0])  # energies 9, 4, 1 of 14
    assert rank_for_energy(sigma, 9 / 14) == 1
    assert rank_for_energy(sigma, 0.65) == 2
    assert rank_for_energy(sigma, 1.0) == 3


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(6, 8), random(3, 6)),
        (nn.Linear(6, 8, bias=False), random(3, 6)),
        (nn.Embedding(9, 6), torch.tensor([[0, 8, 3]])),
        (nn.Conv2d(3, 5, 2, stride=2), random(2, 3, 4, 4)),
    ],
)
def test_full_rank_module_equals_the_layer(layer: nn.Module, inputs: torch.Tensor) -> None:
    weight = layer.weight
    rank = min(weight.shape[0], weight[0].numel())
    factored = factorise(layer, rank)
    factored.set_factors(*truncated_svd(weight.detach().reshape(len(weight), -1), rank))
    # float32 rounding of two products instead of one
    torch.testing.assert_close(factored(inputs), layer(inputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(factored.weight, weight, atol=1e-5, rtol=1e-4)
    assert factored.weight.shape == weight.shape


def test_plan_keeps_a_layer_that_would_not_shrink() -> None:
    weight = random(16, 16)
    plan = LowRank(rank_ratio=0.5, whiten=False, rank_multiple=1).plan(
        [target()], {"layer.weight": weight}, {}
    )
    assert "rank 8 would not shrink 16x16" in plan["layer.weight"][LEFT_DENSE]
    plan = LowRank(rank_ratio=0.45, whiten=False, rank_multiple=1).plan(
        [target()], {"layer.weight": weight}, {}
    )
    assert plan["layer.weight"] == {"rank": 7}


def test_plan_by_energy_gives_each_layer_its_own_rank() -> None:
    flat = torch.eye(16)
    steep = torch.diag(torch.tensor([2.0] + [0.01] * 15))
    lowrank = LowRank(energy=0.9, whiten=False, rank_multiple=1)
    assert lowrank.plan([target()], {"layer.weight": steep}, {})["layer.weight"] == {"rank": 1}
    assert LEFT_DENSE in lowrank.plan([target()], {"layer.weight": flat}, {})["layer.weight"]


def test_apply_on_meta_needs_no_weights() -> None:
    layer = nn.Linear(8, 8, device="meta")
    factored = LowRank.apply(layer, "weight", {"rank": 2})
    assert {name: tuple(p.shape) for name, p in factored.named_parameters()} == {
        "v.weight": (2, 8),
        "u.weight": (8, 2),
        "u.bias": (8,),
    }


def test_apply_uses_the_statistic() -> None:
    layer = nn.Linear(6, 8)
    inputs = random(60, 6) * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    seen = input_statistic(layer, inputs, None)
    u, vt = truncated_svd(layer.weight.detach(), 2, seen.second_moment)
    factored = LowRank.apply(layer, "weight", {"rank": 2}, Statistic(seen))
    torch.testing.assert_close(factored.weight.detach(), u @ vt)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_bad_rank_ratio(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"rank_ratio=.* must lie in \(0, 1\]"):
        LowRank(rank_ratio=ratio)


def test_needs_exactly_one_of_ratio_and_energy() -> None:
    with pytest.raises(ValueError, match="either rank_ratio or energy"):
        LowRank()
    with pytest.raises(ValueError, match="either rank_ratio or energy"):
        LowRank(rank_ratio=0.5, energy=0.9)

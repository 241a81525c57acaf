import math

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import Applied
from mmcompress.compression.pruning.masks import Mask
from mmcompress.compression.pruning.wanda import Wanda, wanda_importance
from mmcompress.compression.statistics import Statistic, input_statistic


def slow_wanda(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    """Section 3 of the paper: sort |W_ij| · ‖X_j‖₂ in each row, drop the first s · C_in."""
    rows, columns = weight.shape
    mask = torch.ones(rows, columns, dtype=torch.bool)
    for i in range(rows):
        scores = []
        for j in range(columns):
            norm = math.sqrt(sum(float(x[t, j]) ** 2 for t in range(len(x))))
            scores.append(abs(float(weight[i, j])) * norm)
        for j in sorted(range(columns), key=scores.__getitem__)[: round(sparsity * columns)]:
            mask[i, j] = False
    return mask


def target(granularity: str = "linear") -> Target:
    return Target("layer", "weight", "image", "mlp.up", granularity)


def layer_and_input() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(12, 6), torch.randn(20, 12) * torch.logspace(-1, 1, 12)


def statistic_of(layer: nn.Module, x: Tensor) -> Statistic:
    return Statistic(inputs=input_statistic(layer, x, None))


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_against_the_paper(sparsity: float):
    layer, x = layer_and_input()
    weights = {"layer.weight": layer.weight.detach()}
    decision = Wanda(sparsity=sparsity).plan([target()], weights, {})["layer.weight"]
    mask = Wanda.apply(layer, "weight", decision, statistic_of(layer, x))
    assert torch.equal(mask.mask, slow_wanda(layer.weight.detach(), x, sparsity))
    assert set(mask.state_dict()) == {"mask"}, "made at once, the mask needs no input norms"


def test_importance_by_hand():
    weight, norm = torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 0.5])
    assert wanda_importance(weight, norm).tolist() == [[3.0, 1.0]]


def test_n_of_m_compares_neighbors():
    layer, x = layer_and_input()
    weights = {"layer.weight": layer.weight.detach()}
    decision = Wanda(sparsity=0.5, pattern="2:4").plan([target()], weights, {})["layer.weight"]
    mask = Wanda.apply(layer, "weight", decision, statistic_of(layer, x)).mask
    scores = wanda_importance(layer.weight.detach(), x.norm(dim=0)).view(6, 3, 4)
    expected = scores >= scores.sort(dim=-1).values[..., 2:3]
    assert torch.equal(mask.view(6, 3, 4), expected)


@pytest.mark.parametrize("granularity", ["embedding", "matrix"])
def test_without_an_input_norm_magnitudes_decide(granularity: str):
    layer, _ = layer_and_input()
    weights = {"layer.weight": layer.weight.detach()}
    decision = Wanda(sparsity=0.5).plan([target(granularity)], weights, {})["layer.weight"]
    mask = Wanda.apply(layer, "weight", decision).mask
    magnitudes = layer.weight.detach().abs()
    assert torch.equal(mask, magnitudes >= magnitudes.flatten().sort().values[36])


def test_gradual_keeps_the_norms_and_ends_where_one_shot_does():
    layer, x = layer_and_input()
    wanda = Wanda(sparsity=0.5, schedule="cubic")
    decision = wanda.plan([target()], {"layer.weight": layer.weight.detach()}, {})["layer.weight"]
    mask = wanda.apply(layer, "weight", decision, statistic_of(layer, x))
    assert isinstance(mask, Mask)
    empty = wanda.apply(layer, "weight", decision)
    assert {k: v.shape for k, v in empty.state_dict().items()} == {
        k: v.shape for k, v in mask.state_dict().items()
    }
    nn.utils.parametrize.register_parametrization(layer, "weight", mask)
    applied = {"layer.weight": Applied(layer, "weight", mask)}
    dense = layer.parametrizations.weight.original.detach().clone()
    for progress in (0.0, 0.1, 0.2, 0.5):
        wanda.on_step(applied, progress)
    assert torch.equal(mask.mask, slow_wanda(dense, x, 0.5))

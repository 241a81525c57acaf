from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.quantization.awq import (
    AWQ,
    awq,
    column_scales,
    error_with,
    scales_for,
    search_column_scale,
)
from mmcompress.compression.quantization.gptq import output_error
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.scales import choose_scale
from mmcompress.compression.statistics import InputStatistic, Statistic


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_with_outliers(columns: int, tokens: int = 64) -> tuple[Tensor, InputStatistic]:
    """Tokens (N, in), of which every eighth channel is twenty times as large."""
    x = random(tokens, columns, seed=1)
    x[:, ::8] *= 20
    statistic = InputStatistic(x.T @ x, x.abs().mean(dim=0), x.abs().amax(dim=0), tokens)
    return x, statistic


def reference_error(weight: Tensor, x: Tensor, alpha: float, bits: int, group_size: int) -> float:
    """arXiv:2306.00978, eq. 4 and 5: run the layer, with the best of eight clips per group."""
    s = x.abs().mean(dim=0) ** alpha
    s = s / (s.max() * s.min()).sqrt()
    top = 2 ** (bits - 1) - 1
    rounded = torch.zeros_like(weight)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], group_size):
            columns = slice(start, start + group_size)
            group, energy = (weight * s)[row, columns], x[:, columns].square().sum(dim=0)
            best = float("inf")
            for clip in torch.linspace(1.0, 0.4 if bits > 3 else 0.2, 8).tolist():
                delta = clip * group.abs().max() / top
                values = (group / delta).round().clamp(-top, top) * delta
                error = float(((values - group) ** 2 * energy / s[columns] ** 2).sum())
                if error < best:
                    best, rounded[row, columns] = error, values
    return float(((x @ (rounded / s - weight).T) ** 2).sum())


@pytest.mark.parametrize("bits", [3, 4])
def test_search_equals_running_the_layer(bits: int) -> None:
    weight, (x, statistic) = random(4, 32), inputs_with_outliers(32)
    expected = min(reference_error(weight, x, i / 20, bits, 16) for i in range(20))
    grid = Grid(bits, 16)
    found = search_column_scale(weight, statistic, grid)
    scales = scales_for(weight, statistic, grid, found, candidates=8)
    # its scales are float16, so that another clip may win here and there
    assert error_with(weight, statistic, grid, scales) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_outliers_cost_less_than_with_rounding(bits: int, symmetric: bool) -> None:
    weight, (_, statistic) = random(16, 64), inputs_with_outliers(64)
    grid = Grid(bits, 32, symmetric)
    scale, zero_point, column_scale = awq(weight, statistic, grid)
    rounded = grid.snap(weight, scale, zero_point, column_scale)
    nearest = grid.snap(weight, *choose_scale(weight, grid))
    moment = statistic.second_moment
    assert output_error(rounded - weight, moment) < 0.95 * output_error(nearest - weight, moment)


def test_never_worse_than_rounding() -> None:
    """Mean magnitudes that mislead: the largest belongs to a channel that is never large."""
    weight, (_, statistic) = random(4, 32), inputs_with_outliers(32)
    misled = replace(statistic, abs_mean=statistic.abs_mean.flip(0))
    grid = Grid(3, 32)
    scale, zero_point, column_scale = awq(weight, misled, grid)
    rounded = grid.snap(weight, scale, zero_point, column_scale)
    nearest = grid.snap(weight, *choose_scale(weight, grid))
    moment = statistic.second_moment
    assert output_error(rounded - weight, moment) <= output_error(nearest - weight, moment)


def test_inputs_that_were_never_seen() -> None:
    scales = column_scales(torch.tensor([0.0, 1.0, 2.0]), 0.95)
    assert torch.isfinite(scales).all()
    assert (scales > 0).all()


def test_column_scale_is_stored_and_embeddings_have_none() -> None:
    linear = Target("up", "weight", "image", "mlp.up", "linear")
    table = Target("table", "weight", "text", "embed", "embedding")
    weights = {"up.weight": torch.zeros(4, 32), "table.weight": torch.zeros(9, 32)}
    step = AWQ(bits=4)
    plan = step.plan([linear, table], weights, {})
    layer, embedding = nn.Linear(32, 4), nn.Embedding(9, 32)
    _, statistic = inputs_with_outliers(32)
    seen = Statistic(inputs=statistic)
    for module, name, expected in [(layer, "up.weight", True), (embedding, "table.weight", False)]:
        fake = step.apply(module, "weight", plan[name], seen)
        baked = fake(module.weight.detach())
        assert ("column_scale" in step.finalize(fake, baked).tensors) is expected


def test_gradient_is_cut_beyond_a_step_of_each_column() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.5, 1.0, -1.0, 0.25]])
    ones = torch.ones(4)
    statistic = InputStatistic(torch.eye(4), torch.tensor([1.0, 16.0, 1.0, 16.0]), ones, 4)
    decision = {"rounding": "awq", "grid": Grid(4, 4).decision()}
    fake = AWQ.apply(layer, "weight", decision, Statistic(inputs=statistic))
    moved = (layer.weight.detach() + torch.tensor([[0.0, 99.0, 0.0, 0.0]])).requires_grad_()
    fake(moved).sum().backward()
    assert moved.grad.tolist() == [[1.0, 0.0, 1.0, 1.0]]

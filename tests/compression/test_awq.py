from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.quantization.awq import (
    AWQ,
    awq,
    column_scales,
    search_column_scale,
)
from mmcompress.compression.quantization.gptq import output_error
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.scales import choose_scale, full_range
from mmcompress.compression.statistics import InputStatistic, Statistic


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_with_outliers(columns: int, tokens: int = 64) -> tuple[Tensor, InputStatistic]:
    """Tokens (N, in), of which every eighth channel is twenty times as large."""
    x = random(tokens, columns, seed=1)
    x[:, ::8] *= 20
    statistic = InputStatistic(x.T @ x, x.abs().mean(dim=0), x.abs().amax(dim=0), tokens)
    return x, statistic


def reference_search(weight: Tensor, x: Tensor, bits: int, group_size: int) -> tuple[float, Tensor]:
    """arXiv:2306.00978, eq. 4 and 5: run the layer with each of 20 exponents."""
    best = (float("inf"), torch.empty(0))
    for i in range(20):
        s = x.abs().mean(dim=0) ** (i / 20)
        s = s / (s.max() * s.min()).sqrt()
        scaled = weight * s
        rounded = torch.zeros_like(weight)
        for row in range(len(weight)):
            for start in range(0, weight.shape[1], group_size):
                group = scaled[row, start : start + group_size]
                delta = group.abs().max() / (2 ** (bits - 1) - 1)
                rounded[row, start : start + group_size] = (group / delta).round() * delta
        error = float(((x @ (rounded / s - weight).T) ** 2).sum())
        if error < best[0]:
            best = (error, 1 / s)
    return best


@pytest.mark.parametrize("bits", [3, 4])
def test_search_equals_running_the_layer(bits: int) -> None:
    weight, (x, statistic) = random(8, 32), inputs_with_outliers(32)
    grid = Grid(bits, 16)
    found = search_column_scale(weight, statistic, grid)
    error, expected = reference_search(weight, x, bits, 16)
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=0)  # float16
    scales = full_range(weight / found.float(), grid)
    rounded = grid.snap(weight, *scales, column_scale=found)
    measured = output_error(rounded - weight, statistic.second_moment)
    assert measured.item() == pytest.approx(error, rel=0.02)  # its scales are float16 too


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

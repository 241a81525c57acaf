from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.quantization import rows
from mmcompress.compression.quantization.binary import Binarize
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.float8 import FakeFloat8
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.hqq import half_quadratic
from mmcompress.compression.quantization.lsq import LearnedStep
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.quantization.scales import choose_scale
from mmcompress.compression.quantization.ternary import Ternarize

REAL = Grid(3, 8, symmetric=False)


def fixed(grid: Grid) -> Callable[[Tensor], nn.Module]:
    return lambda weight: FakeQuantize(grid, *choose_scale(weight, grid))


MODULES: dict[str, Callable[[Tensor], nn.Module]] = {
    "symmetric": fixed(Grid(3, 8)),
    "midrise": fixed(Grid(2, 8, midrise=True)),
    "zero point": fixed(REAL),
    "real zero point": lambda weight: FakeQuantize(REAL, *half_quadratic(weight, REAL)),
    "column scale": lambda weight: FakeQuantize(
        Grid(3, 8), choose_scale(weight, Grid(3, 8))[0], None, torch.rand(16).half() + 0.5
    ),
    "learned": lambda weight: LearnedStep(weight, Grid(3, 8), per_tensor=False, start="mean"),
    "learned, one step": lambda weight: LearnedStep(
        weight, Grid(2, 16, midrise=True), per_tensor=True, start="search"
    ),
    "binary": lambda weight: Binarize(weight, group_size=8, per_tensor=False, trained_scale=False),
    "binary, one scale": lambda weight: Binarize(
        weight, group_size=16, per_tensor=True, trained_scale=True
    ),
    "twn": lambda weight: Ternarize(weight, rule="twn", group_size=8, per_tensor=False),
    "twn, one scale": lambda weight: Ternarize(weight, rule="twn", group_size=16, per_tensor=True),
    "absmean": lambda weight: Ternarize(weight, rule="absmean", group_size=8, per_tensor=False),
    "float8": lambda weight: FakeFloat8(weight, group_size=8),
}


def outcome(name: str) -> list[Tensor]:
    """Value and gradients, with some weights pruned and some far off the grid."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 16, generator=generator)
    weight[weight.abs() < 0.3] = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODULES[name](weight)
    moved = (weight * (1 + 3 * torch.rand(10, 16, generator=generator))).requires_grad_()
    value = module(moved)
    value.backward(torch.randn(10, 16, generator=generator))
    gradients = [p.grad for p in module.parameters()]
    return [value.detach(), moved.grad, *gradients, *module.buffers()]


@pytest.mark.parametrize("name", MODULES)
def test_a_few_rows_at_a_time_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(name)
    monkeypatch.setattr(rows, "CHUNK", 3 * 16)  # ten rows in runs of three
    parts = outcome(name)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


def test_rows_longer_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 2)
    x = torch.arange(12.0).view(4, 3)
    doubled, sums = by_rows(lambda part: (2 * part, part.sum(dim=1)), x)
    assert torch.equal(doubled, 2 * x)
    assert torch.equal(sums, x.sum(dim=1))

import pytest
import torch

from mmcompress.backbones.base import Target
from mmcompress.compression.quantization.grid import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Grid,
    as_scale,
    check_divides,
    in_columns,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


KINDS = [
    (kind, bits)
    for kind in ("symmetric", "midrise", "whole", "real")
    for bits in (1, 2, 3, 4, 8)
    if (kind, bits) != ("symmetric", 1)  # zero alone
]


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_nearest_is_snap_to_the_last_bit(kind: str, bits: int) -> None:
    """Training uses the one and storage the other; ties and values off the grid included."""
    grid = Grid(bits, 16, symmetric=kind in ("symmetric", "midrise"), midrise=kind == "midrise")
    scale = as_scale(random(64, 2).abs())
    weight = 2.0**bits * random(64, 32, seed=1)
    steps = scale.float().repeat_interleave(16, 1)
    ties = torch.arange(-16, 16)[None] * 0.5 * steps
    points = None
    if kind == "whole":
        points = (2**bits * torch.rand(64, 2)).to(torch.uint8)
    elif kind == "real":
        points = (2**bits * torch.rand(64, 2)).half()
    for values in (weight, ties):
        snapped = grid.snap(values, scale, points)
        spread = None if points is None else points.float()[..., None]
        nearest = grid.nearest(grid.grouped(values), scale.float()[..., None], spread)
        assert torch.equal(nearest.view_as(values) + 0.0, snapped + 0.0)


def test_top_level() -> None:
    assert Grid(4, 1).top == 7
    assert Grid(2, 1).top == 1
    assert Grid(2, 1, midrise=True).top == 1.5
    assert Grid(1, 1, midrise=True).top == 0.5


def test_scales_survive_half_precision() -> None:
    scales = as_scale(torch.tensor([0.0, 1e-9, 1.0, 1e9, -1.0]))
    assert scales.tolist() == [SMALLEST_SCALE, SMALLEST_SCALE, 1.0, LARGEST_SCALE, SMALLEST_SCALE]


def test_mask_is_stored_only_where_zero_is_no_level() -> None:
    weight = torch.tensor([[0.0, 1.0]])
    scale = torch.ones(1, 1)
    assert Grid(3, 2).encoding(weight, scale=scale).mask is None
    whole = torch.ones(1, 1, dtype=torch.uint8)
    uneven = Grid(3, 2, symmetric=False)
    assert uneven.encoding(weight, scale=scale, zero_point=whole).mask is None
    assert uneven.encoding(weight, scale=scale, zero_point=whole.half()).mask.tolist() == [
        [False, True]
    ]
    midrise = Grid(3, 2, midrise=True)
    assert midrise.encoding(weight, scale=scale).mask.tolist() == [[False, True]]
    assert midrise.encoding(weight + 1, scale=scale).mask is None


@pytest.mark.parametrize(
    ("group_size", "shape", "columns"),
    [
        (64, (8, 192), 64),
        (64, (8, 4304), 16),  # 4304 = 16 · 269
        (64, (8, 1, 7, 7), 49),
        (32, (8, 1, 7, 7), 49),  # not 7: scales would take more than the codes
        (None, (8, 192), 192),
    ],
)
def test_groups_that_fit(group_size: int | None, shape: tuple[int, ...], columns: int) -> None:
    weight, target = torch.empty(shape), Target("layer", "weight", "image", "conv", "conv")
    check_divides(group_size, target, weight)
    assert in_columns(group_size, weight) == columns


def test_groups_that_do_not_fit() -> None:
    target = Target("layer", "weight", "image", "mlp.up", "linear")
    with pytest.raises(ValueError, match="group_size=10 does not divide the 192 columns of layer"):
        check_divides(10, target, torch.empty(8, 192))

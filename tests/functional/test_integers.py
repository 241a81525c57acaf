"""Grids that can be checked by eye."""

import pytest
import torch

from mmcompress.functional.integers import dequantize, quantize


def test_symmetric_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.26, 9.0], [0.0, 0.0, -4.0, 4.0]])
    scale = torch.tensor([[1.0, 0.25], [0.0, 2.0]], dtype=torch.float16)
    codes = quantize(weight, scale, None, bits=3, group_size=2)
    # Three bits: −3…3. A zero scale is a group of zeros.
    assert codes.tolist() == [[1, -2, 1, 3], [0, 0, -2, 2]]
    assert codes.dtype == torch.int16
    values = dequantize(codes, scale, None, group_size=2)
    assert values.tolist() == [[1.0, -2.0, 0.25, 0.75], [0.0, 0.0, -4.0, 4.0]]


def test_zero_point_by_hand() -> None:
    weight = torch.tensor([[-0.5, 0.0, 1.0, 5.0]])
    scale, zero_point = torch.tensor([[0.5]]), torch.tensor([[1]], dtype=torch.uint8)
    codes = quantize(weight, scale, zero_point, bits=2, group_size=4)
    assert codes.tolist() == [[0, 1, 3, 3]]
    values = dequantize(codes, scale, zero_point, group_size=4)
    assert values.tolist() == [[-0.5, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8, 15])
def test_grid_points_keep_their_codes(bits: int, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    scale = torch.rand(6, 4, generator=generator).half()
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) if symmetric else (0, 2**bits)
    codes = torch.randint(low, high, (6, 32), generator=generator).to(torch.int16)
    zero_point = None
    if not symmetric:
        zero_point = torch.randint(0, 2**bits, (6, 4), generator=generator, dtype=torch.int16)
    weight = dequantize(codes, scale, zero_point, group_size=8)
    assert torch.equal(quantize(weight, scale, zero_point, bits=bits, group_size=8), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_midrise_points_keep_their_codes(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    scale = torch.rand(6, 4, generator=generator).half() + 0.1
    columns = torch.rand(32, generator=generator) + 0.5
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = torch.randint(low, high, (6, 32), generator=generator).to(torch.int16)
    options = {"group_size": 8, "midrise": True, "column_scale": columns}
    weight = dequantize(codes, scale, None, **options)
    assert (weight != 0).all()
    assert torch.equal(quantize(weight, scale, None, bits=bits, **options), codes)


def test_binary_is_half_a_scale_either_way() -> None:
    weight, scale = torch.tensor([[3.0, -0.1, 0.2, -7.0]]), torch.tensor([[2.0]])
    codes = quantize(weight, scale, None, bits=1, group_size=4, midrise=True)
    values = dequantize(codes, scale, None, group_size=4, midrise=True)
    assert values.tolist() == [[1.0, -1.0, 1.0, -1.0]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_real_zero_points_keep_their_codes(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    scale = torch.rand(6, 4, generator=generator).half() + 0.1
    zero_point = (torch.rand(6, 4, generator=generator) * 2**bits).half()
    codes = torch.randint(0, 2**bits, (6, 32), generator=generator).to(torch.int16)
    weight = dequantize(codes, scale, zero_point, group_size=8)
    assert torch.equal(quantize(weight, scale, zero_point, bits=bits, group_size=8), codes)


def test_a_midrise_grid_has_no_zero_point() -> None:
    with pytest.raises(ValueError, match="no zero point"):
        quantize(
            torch.zeros(1, 2),
            torch.ones(1, 1),
            torch.ones(1, 1),
            bits=2,
            group_size=2,
            midrise=True,
        )


def test_scale_gets_a_gradient() -> None:
    scale = torch.tensor([[0.5]], requires_grad=True)
    dequantize(torch.tensor([[2, -3]]), scale, None, group_size=2).sum().backward()
    assert scale.grad is not None
    assert scale.grad.tolist() == [[-1.0]]


@pytest.mark.parametrize(("bits", "group_size"), [(1, 4), (17, 4), (4, 3), (4, 0)])
def test_refuses_what_does_not_fit(bits: int, group_size: int) -> None:
    with pytest.raises(ValueError, match=r"bits=|group_size="):
        quantize(torch.zeros(2, 4), torch.ones(2, 1), None, bits=bits, group_size=group_size)

"""Codecs of values against the maths in torch that training uses: the same bits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.format.codecs.base import Form
from mmcompress.format.codecs.codebook import Codebook
from mmcompress.format.codecs.float8 import VALUES, Float8, to_patterns
from mmcompress.format.codecs.quantize import Quantize
from mmcompress.functional import float8, integers, lookup

ROWS, COLUMNS, GROUP = 6, 16, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scales(dtype: torch.dtype, groups: int = COLUMNS // GROUP) -> Tensor:
    scale = random(ROWS, groups, seed=1).abs().to(dtype) * 0.3
    scale[0, 0] = 0  # a group of zeros
    return scale


def same_bits(found: np.ndarray, expected: Tensor) -> bool:
    return found.tobytes() == expected.contiguous().numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("kind", ["symmetric", "midrise", "whole", "real"])
@pytest.mark.parametrize("bits", [2, 4, 8, 11])
def test_grid(bits: int, kind: str, column: bool, dtype: torch.dtype) -> None:
    weight, scale = random(ROWS, COLUMNS), scales(dtype)
    zero: Tensor | None = None
    if kind == "whole":
        zero = torch.randint(0, 2**bits, scale.shape, dtype=torch.int32)
    elif kind == "real":
        zero = (random(*scale.shape, seed=2).abs() * 2**bits).to(dtype)
    factor = random(COLUMNS, seed=3).abs() + 0.1 if column else None
    midrise = kind == "midrise"
    options = {"group_size": GROUP, "midrise": midrise, "column_scale": factor}
    codes = integers.quantize(weight, scale, zero, bits=bits, **options)
    values = integers.dequantize(codes, scale, zero, **options)
    codec = Quantize(bits, GROUP, "midrise" if midrise else "symmetric")
    arrays = {"values": weight.numpy(), "scale": scale.numpy()}
    arrays |= {} if zero is None else {"zero_point": zero.numpy()}
    arrays |= {} if factor is None else {"column_scale": factor.numpy()}
    forms = {"values": Form((ROWS, COLUMNS))}
    stored = codec.encode(arrays, forms)
    assert np.array_equal(stored["codes"].reshape(ROWS, COLUMNS), codes.numpy())
    assert same_bits(codec.decode(stored, forms)["values"], values)
    layout = codec.layout(forms, list(stored))
    assert layout["codes"].signed == (zero is None)
    codec.check_codes(stored["codes"], layout["codes"])
    with pytest.raises(ValueError, match=f"does not fit the {bits} bits of quantize"):
        codec.check_codes(stored["codes"] + np.int32(2**bits), layout["codes"])


def test_every_pattern_of_8_bits() -> None:
    patterns = torch.arange(256).to(torch.uint8)
    expected = float8.from_float8(patterns[None], torch.ones(1, 1), group_size=256)
    found = VALUES
    assert np.isnan(found).tolist() == expected[0].isnan().tolist()
    number = ~np.isnan(found)
    assert np.array_equal(found[number], expected[0].numpy()[number])
    assert np.array_equal(to_patterns(found[number]), patterns.numpy()[number])


def test_rounding_to_8_bits_is_that_of_torch() -> None:
    """All exponents, and halves of steps, where ties go to even."""
    steps = torch.arange(-(2**15), 2**15).float() / 64
    small = torch.arange(-512, 512).float() * 2.0**-13
    values = torch.cat([steps.clamp(-448, 448), small, random(10_000) * 100]).clamp(-448, 448)
    expected = float8.to_float8(values[None], torch.ones(1, 1), group_size=len(values))
    assert np.array_equal(to_patterns(values.numpy()), expected[0].numpy())


def test_8_bits_with_scales() -> None:
    weight, scale = random(ROWS, COLUMNS), scales(torch.float32) + 0.01
    forms = {"values": Form((ROWS, COLUMNS))}
    codec = Float8(GROUP)
    stored = codec.encode({"values": weight.numpy(), "scale": scale.numpy()}, forms)
    codes = float8.to_float8(weight, scale, group_size=GROUP)
    assert np.array_equal(stored["codes"].reshape(ROWS, COLUMNS), codes.numpy())
    values = float8.from_float8(codes, scale, group_size=GROUP)
    assert same_bits(codec.decode(stored, forms)["values"], values)


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("scaled", [False, True])
def test_codebook(block_size: int, scaled: bool) -> None:
    indices = torch.randint(0, 5, (ROWS * COLUMNS // block_size,))
    book, scale = random(5, block_size), scales(torch.float16) if scaled else None
    expected = lookup.lookup(indices, book, (ROWS, COLUMNS), scale)
    codec = Codebook(block_size, 5, GROUP if scaled else 0)
    stored = {"indices": indices.numpy(), "codebook": book.numpy()}
    stored |= {} if scale is None else {"scale": scale.numpy()}
    found = codec.decode(stored, {"values": Form((ROWS, COLUMNS))})["values"]
    assert same_bits(found, expected)
    with pytest.raises(ValueError, match="points past the end"):
        codec.check_codes(np.array([5]), Form((1,)))

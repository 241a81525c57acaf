"""Resizing in numpy against PyTorch's own, level for level."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as library

from mmcompress.inputs.resize import resize


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "wanted"),
    [((72, 72), (64, 64)), ((37, 91), (64, 157)), ((300, 200), (24, 16)), ((3, 5), (64, 64))],
)
@pytest.mark.parametrize("levels", [2, 256])
def test_equals_torch(
    kernel: str, size: tuple[int, int], wanted: tuple[int, int], levels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, levels, (*size, 3)) * (255 // (levels - 1))
    pixels = pixels.astype(np.uint8)  # black and white alone overshoot the most
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    expected = library.resize(planes, wanted, interpolation=InterpolationMode(kernel))
    assert np.array_equal(resize(pixels, *wanted, kernel), expected.permute(1, 2, 0).numpy())


def test_by_hand() -> None:
    """Two pixels become one: their mean, rounded up from a half."""
    assert resize(np.array([[[0], [1]]], np.uint8), 1, 1, "bilinear").item() == 1
    assert resize(np.array([[[10], [20]]], np.uint8), 1, 1, "bilinear").item() == 15


def test_same_size_stays() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 9, 7, "bicubic"), pixels)

"""A packed model on a CUDA device gives what it gives on the CPU."""

from pathlib import Path

import pytest
import torch

import mmcompress as mmc
from mmcompress.backbones.base import Backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]
TEXTS = [f"red heart {number}" for number in range(40)]


@pytest.mark.parametrize("recipe", ["int8", "int4", "w8a8", "vq", "float8", "lowrank_int8"])
@pytest.mark.parametrize("count", [1, 40])
def test_embeds_as_on_the_cpu(
    recipe: str, count: int, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """One text is fewer rows than the product of integers takes on CUDA."""
    mmc.compress(tiny_backbone, recipe).save(tmp_path / "small")
    on_cpu = mmc.load(tmp_path / "small", "packed").embed_texts(TEXTS[:count])
    on_cuda = mmc.load(tmp_path / "small", "packed", device="cuda").embed_texts(TEXTS[:count])
    if recipe == "w8a8":
        # An input that lies between two steps may be rounded the other way on another device.
        assert torch.nn.functional.cosine_similarity(on_cuda, on_cpu).min() > 0.999
    else:
        torch.testing.assert_close(on_cuda, on_cpu, rtol=0, atol=1e-4)

"""The fully connected classifier."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.mlp import MLP
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from tests.conftest import store


def test_logits_by_the_matrices() -> None:
    torch.manual_seed(0)
    backbone, pixels = MLP(), torch.rand(3, 1, 28, 28)
    first, head = backbone.model["hidden"][0], backbone.model["head"]
    hidden = (pixels.view(3, 784) @ first.weight.T + first.bias).clamp(min=0)
    expected = hidden @ head.weight.T + head.bias
    found = backbone.encode_image(pixels)
    torch.testing.assert_close(found, expected)
    assert torch.equal(backbone.encode("image", pixels).argmax(1), found.argmax(1))
    label = torch.tensor([1, 0, 9])
    loss = backbone.loss({"image": pixels, "label": label})
    torch.testing.assert_close(loss, F.cross_entropy(expected, label))


def test_every_weight_is_a_target() -> None:
    assert [(t.name, t.role) for t in MLP(hidden=[8, 4]).targets()] == [
        ("hidden.0.weight", "mlp.up"),
        ("hidden.1.weight", "mlp.up"),
        ("head.weight", "proj"),
    ]


def test_pictures_become_gray() -> None:
    """Luma of ITU-R 601: 0.299, 0.587 and 0.114 of red, green and blue."""
    picture = Image.new("RGB", (56, 56), (255, 0, 0))
    pixels = MLP().preprocess(picture)
    assert pixels.shape == (1, 28, 28)
    assert pixels.mean().item() == pytest.approx(0.299, abs=0.005)  # rounded to 8 bits


def test_it_is_rebuilt_from_its_artifact(tmp_path: Path) -> None:
    backbone = MLP(size=4, hidden=[6], classes=3)
    recipe = Recipe({"int8": Integer(bits=8)})
    compressed = recipe.apply(backbone, [])
    artifact = store(tmp_path / "a", compressed)
    loaded = Artifact.load(artifact.folder).backbone
    pixels = torch.rand(2, 1, 4, 4)
    assert torch.equal(loaded.encode_image(pixels), backbone.encode_image(pixels))


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match=r"hidden=\[0\], classes=10: all must be at least 1"):
        MLP(hidden=[0])
    with pytest.raises(ValueError, match="MLP has no text tower: set evaluation=accuracy"):
        MLP().tokenize(["zero"])

"""Artifacts of 0.1, whose spec has mean, std and resizing alone, prepare pictures as they did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from transformers import AutoImageProcessor

from mmcompress.artifact.folder import Artifact
from mmcompress.exports.targets import export
from tests.backbones.test_images import as_pil

S = 32


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def as_0_1(spec: dict[str, Any], picture: Image.Image | Tensor, size: int = S) -> Tensor:
    """What version 0.1 did with the settings of its artifacts, written anew."""
    squash = spec.get("resize_mode", "shortest") == "squash"
    kernel = v2.InterpolationMode(spec.get("interpolation", "bicubic"))
    steps = [
        v2.RGB(),
        v2.Resize((size, size) if squash else size, interpolation=kernel, antialias=True),
        v2.CenterCrop(size),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.ToPureTensor(),
        v2.Normalize(spec["mean"], spec["std"]),
    ]
    return v2.Compose(steps)(picture)


FIXTURES = Path(__file__).parents[1] / "fixtures" / "artifacts_0_1"


@pytest.mark.parametrize("family", ["hf_clip", "hf_siglip", "hf_siglip2", "llava", "open_clip_vit"])
def test_artifacts_of_0_1_prepare_pictures_as_they_did(family: str, tmp_path: Path) -> None:
    folder = FIXTURES / f"family_{family}" / "artifact"
    artifact = Artifact.load(folder)
    spec = json.loads((folder / "manifest.json").read_text())["spec"]
    assert "image_processor" not in spec
    translucent = as_pil(noise(50, 30))
    translucent.putalpha(as_pil(noise(50, 30)).getchannel("R"))
    pictures = [as_pil(noise(50, 30)), noise(31, 77), noise(4, 50).expand(2, 3, 4, 50)]
    # Only open_clip's are resized together with their transparency now, as open_clip does it.
    for picture in pictures if family == "open_clip_vit" else [*pictures, translucent]:
        expected = as_0_1(spec, picture, 64 if family == "open_clip_vit" else S)
        assert torch.equal(artifact.backbone.preprocess(picture), expected)
    library = artifact.backbone.library
    export(artifact, library, tmp_path / "out")
    if library == "hf":
        processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
        # Of other sizes transformers may cut one pixel beside where torchvision does.
        theirs = processor(noise(50, 30), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(theirs, as_0_1(spec, noise(50, 30)), rtol=0, atol=1e-5)

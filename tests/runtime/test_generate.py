"""`load(...).generate`: answers about pictures."""

from pathlib import Path

import pytest
from PIL import Image

import mmcompress as mmc
from mmcompress.backbones.examples import Example
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.runtime.dense import DenseModel
from mmcompress.testing.zoo.family import randomized, seeded
from mmcompress.testing.zoo.hf import build_clip
from mmcompress.testing.zoo.vlm import build_vlm

PICTURES = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, its embedding tied to its head, that answers in many ways."""
    folder = tmp_path_factory.mktemp("stored") / "artifact"
    backbone = build_vlm("qwen2_5_vl")
    with seeded():
        randomized(backbone.model, std=0.4)
    Recipe({"int8": Integer(bits=8)}).apply(backbone, []).save(folder)
    return folder


@pytest.mark.parametrize("runtime", ["dense", "packed"])
def test_answers_are_those_of_the_model(runtime: str, folder: Path, tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "red.png")
    model = mmc.load(folder, runtime=runtime)
    found = model.generate(
        [tmp_path / "red.png", *PICTURES[1:]], "which color?", batch_size=2, max_tokens=5
    )
    asked = [Example("which color?", images=(picture,)) for picture in PICTURES]
    assert found == mmc.load(folder).backbone.generate(asked, max_tokens=5)
    assert found != model.generate(PICTURES, ["what?", "a cat?", "why not?"], max_tokens=5)


@pytest.mark.parametrize(
    ("images", "prompt", "message"),
    [
        ([], "why?", "there are no images to embed: give at least one"),
        ("cat.png", "why?", "generate takes a list and got a str"),
        (PICTURES, ["a?", "b?"], "there are 3 images and 2 prompts: give a prompt for each"),
        (PICTURES[:1], [3], r"texts\[0\]: a int is no text"),
        (["none.png"], "why?", r"images\[0\]=none.png: .*: repair the file or leave it out"),
    ],
)
def test_what_cannot_be_asked(images, prompt, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        mmc.load(folder).generate(images, prompt)


def test_a_model_that_embeds_writes_nothing() -> None:
    with pytest.raises(ValueError, match=r"^answers need a generative model and HFClip is none"):
        DenseModel(build_clip()).generate(PICTURES, "why?")

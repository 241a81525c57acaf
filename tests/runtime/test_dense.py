"""What a loaded model gives for pictures, texts and sounds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.examples import Waveform
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.runtime.dense import DenseModel


@pytest.fixture
def model(tiny_backbone: HFClip) -> DenseModel:
    return DenseModel(tiny_backbone)


@pytest.fixture
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(48, 32), (32, 48), (32, 32), (90, 70)]
    return [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_images_are_what_the_backbone_encodes(
    model: DenseModel, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """Paths, PIL images and tensors of one picture give one embedding, in any company."""
    expected = model.backbone.encode(
        "image", torch.stack([model.backbone.preprocess(picture) for picture in pictures])
    ).detach()
    paths = [tmp_path / f"{index}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    assert torch.equal(model.embed_images(pictures), expected)
    assert torch.equal(model.embed_images([str(paths[0]), paths[1], *pictures[2:]]), expected)
    found = model.embed_images(pictures, batch_size=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # sums of other matrix sizes
    assert (found.dtype, found.requires_grad, found.is_inference()) == (torch.float32, False, False)
    assert torch.allclose(found.norm(dim=1), torch.ones(4))


def test_tensors_are_pictures_too(model: DenseModel) -> None:
    levels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = model.backbone.encode("image", model.backbone.preprocess(levels)).detach()
    assert torch.equal(model.embed_images(levels), expected)
    assert torch.equal(model.embed_images(list(levels)), expected)
    assert torch.allclose(model.embed_images(levels / 255), expected, atol=1e-5)


def test_texts_are_what_the_backbone_encodes(model: DenseModel) -> None:
    texts = ["red cat", "blue dog", "green tree"]
    expected = model.backbone.encode("text", model.backbone.tokenize(texts)).detach()
    assert torch.equal(model.embed_texts(texts), expected)
    assert torch.allclose(model.embed_texts(texts, batch_size=1), expected, atol=1e-6)


def test_sounds_are_what_the_backbone_encodes(tiny_clap: HF, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    model = DenseModel(tiny_clap)
    wave = torch.sin(torch.arange(8000) / 5) / 2
    expected = tiny_clap.encode("audio", tiny_clap.preprocess_audio([wave])).detach()
    soundfile.write(tmp_path / "tone.wav", wave.numpy(), 8000, subtype="FLOAT")
    sounds: list[Any] = [(wave, 8000), (wave.numpy(), 8000), Waveform(wave, 8000)]
    for sound in [*sounds, tmp_path / "tone.wav", str(tmp_path / "tone.wav")]:
        assert torch.equal(model.embed_audio([sound]), expected)
    assert model.embed_audio([(wave, 16000)]).shape == expected.shape  # resampled, half as long


def test_what_was_in_training_comes_back_in_evaluation_mode(tiny_backbone: Backbone) -> None:
    assert not DenseModel(tiny_backbone.train()).backbone.training


@pytest.mark.parametrize(
    ("call", "inputs", "sentence"),
    [
        ("images", [], "there are no images to embed: give at least one"),
        ("images", "cat.jpg", "embed_images takes a list and got a str: put it in [ ]"),
        ("images", Image.new("L", (1, 1)), "takes a list and got a Image: put it in [ ]"),
        ("images", ["no.png"], "images[0]=no.png: no readable image (No such file or directory): "),
        ("images", [3], "images[0]: a int is no picture: give a PIL image or a tensor"),
        ("images", torch.zeros(2, 3, 4, 4) + 7, "holds 7 to 7: give floats in [0, 1], or uint8"),
        ("texts", "red cat", "embed_texts takes a list and got a str: put it in [ ]"),
        ("texts", ["red", None], "texts[1]: a NoneType is no text: give a string"),
        ("texts", ["a\0b"], "texts[0]: 'a\\x00b', holds the character '\\x00', which is no text"),
        ("audio", ["a.wav"], "this model embeds image and text, and no audio: load one that has"),
    ],
)
def test_what_cannot_be_embedded_ends_in_one_sentence(
    model: DenseModel, call: str, inputs: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        getattr(model, f"embed_{call}")(inputs)
    assert "\n" not in str(caught.value)


def test_a_broken_picture_is_named(
    model: DenseModel, pictures: list[Image.Image], tmp_path: Path
) -> None:
    pictures[0].save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"^images\[1\]=.*half\.png: no readable image \(.*\): re"):
        model.embed_images([pictures[0], tmp_path / "half.png"])


@pytest.mark.parametrize("sound", [3, (torch.zeros(2, 5), 8000), (torch.zeros(5), 0.5)])
def test_what_is_no_sound(tiny_clap: HF, sound: Any) -> None:
    with pytest.raises(ValueError, match=r"^sounds\[0\]: .* no sound: give "):
        DenseModel(tiny_clap).embed_audio([sound])


def test_embeddings_that_are_not_finite_are_an_error(model: DenseModel) -> None:
    for parameter in model.backbone.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"embeddings .* NaN or infinite"):
        model.embed_texts(["red cat"])

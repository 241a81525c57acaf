"""The runner without torch: the same embeddings as the dense model, from any kind of input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmcompress as mmc
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.recipe import Recipe
from mmcompress.exports.onnx.folder import write_folder
from mmcompress.functional.not_finite import NotFiniteError
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.onnx import OnnxModel
from mmcompress.testing.zoo.hf import build_clap, build_clip

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CLOSE = 1e-5
TEXTS = ["red cat", "blue dog and a green tree", "word7 " * 50]


def written(backbone: Backbone, folder: Path) -> Path:
    artifact = Recipe({}).apply(backbone, []).save(folder / "artifact")
    write_folder(Artifact.load(artifact.folder), folder / "export")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(build_clip(), tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(48, 32, 3), (33, 61, 4), (32, 32, 3), (90, 70, 4), (20, 20, 3)]
    return [Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def test_same_as_dense(clip: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    dense, model = mmc.load(clip / "artifact"), OnnxModel(clip / "export")
    assert model.modalities == dense.modalities == ("image", "text")
    found = model.embed_images(pictures, batch_size=2)
    assert (found.dtype, found.shape) == (np.float32, (5, 32))
    np.testing.assert_allclose(found, dense.embed_images(pictures).numpy(), atol=CLOSE)
    pictures[0].save(tmp_path / "a.png")
    again = model.embed_images([tmp_path / "a.png", str(tmp_path / "a.png")])
    np.testing.assert_allclose(again, found[[0, 0]], atol=CLOSE)
    texts = model.embed_texts(TEXTS)
    np.testing.assert_allclose(texts, dense.embed_texts(TEXTS).numpy(), atol=CLOSE)


def test_load_gives_tensors(clip: Path, pictures: list[Image.Image]) -> None:
    """From an export as it is; from an artifact by way of the cache."""
    dense = mmc.load(clip / "artifact").embed_images(pictures)
    for folder in (clip / "export", clip / "artifact"):
        found = mmc.load(folder, runtime="onnx").embed_images(pictures)
        torch.testing.assert_close(found, dense, rtol=0, atol=CLOSE)
    tensors = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    model = mmc.load(clip / "export", runtime="onnx")
    expected = mmc.load(clip / "artifact").embed_images(tensors)
    torch.testing.assert_close(model.embed_images(tensors), expected, rtol=0, atol=CLOSE)


@pytest.mark.slow
def test_sounds(tmp_path: Path) -> None:
    folder = written(build_clap(), tmp_path)
    waves = [np.sin(np.arange(n) / 9).astype(np.float32) for n in (900, 8000, 30000)]
    given = [(wave, 16000) for wave in waves]
    found = OnnxModel(folder / "export").embed_audio(given, batch_size=2)
    dense = DenseModel(Artifact.load(folder / "artifact").backbone).embed_audio(given)
    np.testing.assert_allclose(found, dense.numpy(), atol=1e-4)


def test_without_torch(clip: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    """A process that cannot import torch nor anything built on it."""
    pictures[1].save(tmp_path / "a.png")
    program = """
import sys
for name in ("torch", "torchvision", "transformers", "open_clip", "hydra", "pytorch_lightning"):
    sys.modules[name] = None
from mmcompress.runtime.onnx import OnnxModel
model = OnnxModel(sys.argv[1])
print([model.embed_images([sys.argv[2]]).tolist(), model.embed_texts(["red cat"]).tolist()])
"""
    words = [sys.executable, "-c", program, str(clip / "export"), str(tmp_path / "a.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    images, texts = json.loads(done.stdout)
    dense = mmc.load(clip / "artifact")
    np.testing.assert_allclose(images, dense.embed_images([pictures[1]]).numpy(), atol=CLOSE)
    np.testing.assert_allclose(texts, dense.embed_texts(["red cat"]).numpy(), atol=CLOSE)


def test_not_finite(clip: Path) -> None:
    model = OnnxModel(clip / "export")
    pixels = np.zeros((3, 3, 32, 32), np.float32)
    pixels[1] = np.nan
    with pytest.raises(NotFiniteError, match="image embeddings are NaN or infinite for 1 of 3"):
        model.encode("image", pixels)


def test_damage_is_one_sentence(clip: Path, tmp_path: Path) -> None:
    def copy_with(**changes: object) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        manifest = json.loads((clip / "export" / "manifest.json").read_bytes())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))
        return folder

    cases = {
        tmp_path: "holds no manifest.json of an export: give its folder",
        clip / "artifact": "of no export: mmcompress export --to onnx makes one of an artifact",
        copy_with(version=7): "is of version 7, and 1 is read: export the artifact with this",
        copy_with(towers=None): "has a manifest.json without towers: export the artifact again",
        copy_with(runtime="other"): "is for other and not for onnx: load it with runtime=other",
        copy_with(): "has a image.onnx that is missing or cut short: export the artifact again",
        copy_with(files={"../a": {"bytes": 1}}): "names the file '../a', which lies elsewhere",
    }
    for folder, message in cases.items():
        with pytest.raises(ValueError, match=message):
            OnnxModel(folder)


def test_other_runtimes_are_refused(clip: Path) -> None:
    with pytest.raises(ValueError, match="runtime='gpu' must be one of dense, packed, onnx"):
        mmc.load(clip / "artifact", runtime="gpu")
    with pytest.raises(ValueError, match="device=cuda is not for runtime=onnx"):
        mmc.load(clip / "export", runtime="onnx", device="cuda")
    with pytest.raises(ValueError, match="this model embeds image and text, and no audio"):
        OnnxModel(clip / "export").embed_audio([np.zeros(3)])


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Image.Image, str]]:
    noise = np.random.default_rng(1)
    return [
        (Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)), f"{color} {thing}")
        for color in ("red", "blue", "green")
        for thing in ("cat", "dog", "boat")
    ]


def test_evaluators_score_it(clip: Path, pairs: list[tuple[Image.Image, str]]) -> None:
    """By an export, what `load` gives, and an artifact: each gives the dense model's numbers."""
    dense = mmc.evaluate(clip / "artifact", data=pairs)
    for model in (clip / "export", OnnxModel(clip / "export"), clip / "artifact"):
        assert mmc.evaluate(model, data=pairs, runtime="onnx") == pytest.approx(dense)


def test_captions_need_torch(clip: Path, pairs: list[tuple[Image.Image, str]]) -> None:
    with pytest.raises(
        ValueError, match="perplexity needs a generative model and Deployed is none"
    ):
        mmc.evaluate(OnnxModel(clip / "export"), data=pairs, evaluators="captioning")


def test_what_is_scored_is_the_export(
    clip: Path, pairs: list[tuple[Image.Image, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: OnnxModel, modality: str, inputs: np.ndarray) -> np.ndarray:
        return np.eye(len(inputs), 32, dtype=np.float32)[:, ::-1].copy()

    monkeypatch.setattr(OnnxModel, "encode", silent)
    found = mmc.evaluate(clip / "export", data=pairs, runtime="onnx")
    assert found["retrieval/mean_r@1"] == 1.0

"""Pixels equal those of transformers' `AutoImageProcessor`, for all forms that models publish."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, PretrainedConfig

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.generative import from_pretrained as generative
from mmcompress.backbones.hf.processors import (
    LARGEST,
    LibraryPixels,
    pixels_of,
    read_image_processor,
)
from mmcompress.backbones.hf.siglip2 import packed, unpacked
from mmcompress.backbones.hf.two_towers import from_pretrained
from mmcompress.compression.calibration import collect_inputs
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.exports.targets import export
from mmcompress.testing.zoo.hf import CONFIGS, build_clip, llava_config, untouched, untouched_llava
from mmcompress.testing.zoo.words import build_tokenizer
from tests.conftest import store

S = 32
SQUARE = {"height": S, "width": S}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
HALF = [0.5] * 3
NORMAL = {"image_mean": MEAN, "image_std": STD}
CLIP = NORMAL | {"image_processor_type": "CLIPImageProcessor", "resample": 3}
CLIP |= {"size": {"shortest_edge": S}, "crop_size": SQUARE, "do_center_crop": True}
VIT = {"image_processor_type": "ViTImageProcessor", "size": SQUARE}


def without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


FORMS: dict[str, dict[str, Any]] = {
    "numbers, and a name of 2021": without(CLIP, "image_processor_type")
    | {"feature_extractor_type": "CLIPFeatureExtractor", "size": S, "crop_size": S},
    "dicts": CLIP,
    "bilinear": CLIP | {"resample": 2},
    "nearest": CLIP | {"resample": 0},
    "lanczos": CLIP | {"resample": 1},
    "squashed": CLIP | {"do_center_crop": False, "size": SQUARE},
    "resized to more than the crop": CLIP | {"size": {"shortest_edge": 40}},
    "resized to less than the crop": CLIP | {"size": {"shortest_edge": 20}},
    "not resized": CLIP | {"do_resize": False},
    "not normalized": CLIP | {"do_normalize": False},
    "neither rescaled nor normalized": CLIP | {"do_normalize": False, "do_rescale": False},
    "rescaled to 0 to 2": CLIP | {"do_normalize": False, "rescale_factor": 1 / 127.5},
    "normalized, not rescaled": CLIP | {"do_rescale": False, "image_mean": [127.5] * 3},
    "no mean given": without(CLIP, "image_mean", "image_std"),
    "not converted to RGB": CLIP | {"do_convert_rgb": False},
    "a fast processor": CLIP | {"image_processor_type": "CLIPImageProcessorFast"},
    "no name": without(CLIP, "image_processor_type"),
    "a code besides": CLIP | {"auto_map": {"AutoImageProcessor": "code.Processor"}},
    "a key that nobody reads": CLIP | {"crop_pct": 0.5, "processor_class": "CLIPProcessor"},
    "chinese clip": CLIP
    | {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_center_crop": False,
        "size": SQUARE,
    },
    "siglip": NORMAL | {"image_processor_type": "SiglipImageProcessor", "size": SQUARE},
    "vit": VIT | {"image_mean": HALF, "image_std": HALF, "resample": 2},
    "vit, a number": VIT | {"size": S},
    "deit": NORMAL
    | {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": S, "resample": 3},
    "beit": NORMAL
    | {"feature_extractor_type": "BeitFeatureExtractor", "size": S, "do_center_crop": False},
    "convnext": NORMAL
    | {"feature_extractor_type": "ConvNextFeatureExtractor", "size": S, "crop_pct": 0.875},
    "efficientnet": {"image_processor_type": "EfficientNetImageProcessor", "size": SQUARE},
    "blip": CLIP | {"image_processor_type": "BlipImageProcessor", "size": SQUARE},
    "bit": CLIP | {"image_processor_type": "BitImageProcessor"},
    "mobilevit, blue first": {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": SQUARE,
    },
    "llava, padded to a square": CLIP
    | {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
}
"""Content of `preprocessor_config.json`."""


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def as_pil(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def library(folder: Path, picture: Image.Image) -> Tensor:
    processor = AutoImageProcessor.from_pretrained(folder)
    return torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0]).float()


def write(folder: Path, settings: Any, name: str = "preprocessor_config.json") -> None:
    (folder / name).write_text(json.dumps(settings))


def reader(folder: Path, config: PretrainedConfig) -> LibraryPixels:
    """As an artifact's skeleton gets it: through JSON."""
    settings = read_image_processor(str(folder), config, size=S, local=True)
    found = pixels_of(S, **json.loads(json.dumps({"image_processor": settings})))
    assert isinstance(found, LibraryPixels)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_pixels_are_the_librarys(name: str, tmp_path: Path) -> None:
    config = build_clip().model.config
    config.save_pretrained(tmp_path)
    write(tmp_path, FORMS[name])
    pixels = reader(tmp_path, config)
    pictures = [noise(50, 30), noise(31, 77)]
    for picture in pictures:
        expected = library(tmp_path, as_pil(picture))
        assert expected.shape == (3, S, S)
        assert torch.equal(pixels(as_pil(picture)), expected)
        assert torch.equal(pixels(picture), expected)  # in memory
        assert torch.equal(pixels(picture / 255), expected)
    (tmp_path / "out").mkdir()
    config.save_pretrained(tmp_path / "out")
    pixels.save(tmp_path / "out")
    assert torch.equal(library(tmp_path / "out", as_pil(pictures[0])), pixels(pictures[0]))
    settings = [
        AutoImageProcessor.from_pretrained(p).to_dict() for p in (tmp_path, tmp_path / "out")
    ]
    assert without(settings[0], "auto_map") == settings[1]


def test_forms_differ() -> None:
    """So that no form could pass for another."""
    config = build_clip().model.config
    picture = noise(50, 30)
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        for name, form in FORMS.items():
            patch.setattr("mmcompress.backbones.hf.processors._stored", lambda *_, f=form: f)
            found[name] = reader(Path("x"), config)(picture)
    same = {"dicts", "numbers, and a name of 2021", "a fast processor", "no name", "bit"}
    same |= {"a code besides", "a key that nobody reads", "not converted to RGB"}
    others = [name for name in FORMS if name not in same]
    for name in others:
        assert not torch.allclose(found[name], found["dicts"], atol=1e-3), name
    assert all(torch.equal(found[name], found["dicts"]) for name in same)


def test_the_newer_file_counts(tmp_path: Path) -> None:
    """`processor_config.json` holds all processors since transformers 5; videos have their own."""
    config = build_clip().model.config
    config.save_pretrained(tmp_path)
    write(tmp_path, FORMS["dicts"])
    write(tmp_path, {"crop_size": 8, "size": 8}, "video_preprocessor_config.json")
    old = reader(tmp_path, config)(noise(50, 30))
    write(tmp_path, {"processor_class": "CLIPProcessor"}, "processor_config.json")
    assert torch.equal(reader(tmp_path, config)(noise(50, 30)), old)
    write(tmp_path, {"image_processor": FORMS["bilinear"]}, "processor_config.json")
    new = reader(tmp_path, config)(noise(50, 30))
    assert not torch.equal(new, old)
    assert torch.equal(new, library(tmp_path, as_pil(noise(50, 30))))
    (tmp_path / "preprocessor_config.json").unlink()
    assert torch.equal(reader(tmp_path, config)(noise(50, 30)), new)


@pytest.mark.parametrize("size", [(40, 3), (3, 40), (1, 50), (1, 1)])
def test_narrow_pictures(size: tuple[int, int], tmp_path: Path) -> None:
    """Where three pixels might be taken for three channels."""
    config = build_clip().model.config
    write(tmp_path, FORMS["dicts"])
    pixels, picture = reader(tmp_path, config), noise(*size)
    assert torch.equal(pixels(picture), pixels(as_pil(picture)))


def test_batches_and_gray_pictures(tmp_path: Path) -> None:
    write(tmp_path, FORMS["dicts"])
    pixels = reader(tmp_path, build_clip().model.config)
    batch = torch.stack([noise(50, 30), noise(50, 30).flip(-1)]).expand(4, 2, 3, 50, 30)
    found = pixels(batch)
    assert found.shape == (4, 2, 3, S, S)
    assert found.dtype == torch.float32
    assert torch.equal(found[3, 1], pixels(batch[3, 1]))
    for mode in ("L", "P", "RGBA", "I;16", "1"):
        assert pixels(Image.new(mode, (9, 8))).shape == (3, S, S)


def test_a_model_without_the_file_gets_the_librarys_defaults(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, name in [("siglip", "Siglip"), ("altclip", "CLIP"), ("vit_bert", "ViT")]:
        settings = read_image_processor(str(tmp_path), CONFIGS[kind](), size=S, local=True)
        assert settings["image_processor_type"] == f"{name}ImageProcessor"
        mean = [0.48145466, 0.4578275, 0.40821073] if name == "CLIP" else HALF
        assert settings["image_mean"] == mean
        assert {*settings["size"].values()} == {S}
        assert "has no preprocessor_config.json: its pictures are" in caplog.messages[-1]


def test_a_name_of_old_in_the_new_key(tmp_path: Path) -> None:
    """The library has no such class any more."""
    write(tmp_path, CLIP | {"image_processor_type": "CLIPFeatureExtractor"})
    found = reader(tmp_path, build_clip().model.config)(noise(50, 30))
    write(tmp_path, CLIP)
    assert torch.equal(found, library(tmp_path, as_pil(noise(50, 30))))


NAFLEX = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 20}


def test_siglip_2_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    """Patches, which of them are padding, and their grid: features are the untouched model's."""
    model = untouched("siglip2")
    model.save_pretrained(tmp_path)
    build_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, NAFLEX)
    backbone = from_pretrained(str(tmp_path))
    pictures = [as_pil(noise(50, 30)), as_pil(noise(20, 90)), as_pil(noise(64, 64))]
    batch = torch.stack([backbone.preprocess(picture) for picture in pictures])
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(pictures, return_tensors="pt")
    shapes = expected["spatial_shapes"].tolist()
    assert len({tuple(shape) for shape in shapes}) == 3
    assert torch.equal(batch, packed(**expected))
    for key, value in unpacked(batch).items():
        assert torch.equal(value, expected[key].to(value.dtype)), key
    with torch.no_grad():
        features = model.get_image_features(**expected).pooler_output
        torch.testing.assert_close(backbone.encode_image(batch), features, rtol=1e-4, atol=1e-5)
    valid = backbone.valid_tokens("image", batch)
    assert valid is not None
    assert valid.sum(dim=1).tolist() == [rows * columns for rows, columns in shapes]
    layers = [t for t in backbone.targets() if t.role in ("patch", "attn.q", "mlp.up")]
    seen = collect_inputs(backbone, [{"image": batch, "text": backbone.tokenize(["a"])}], layers)
    patches = seen["vision_model.embeddings.patch_embedding.weight"].tokens
    assert patches == seen["vision_model.encoder.layers.1.mlp.fc1.weight"].tokens == valid.sum()
    again = backbone.preprocess(noise(50, 30).expand(2, 3, 50, 30))
    assert torch.equal(again[1], batch[0])


UNUSUAL = CLIP | {"size": {"shortest_edge": 40}, "resample": 2, "image_mean": [0.1, 0.2, 0.3]}
SMALL_SIZES = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "vit_bert", "llava")


def build(kind: str, folder: Path) -> Backbone:
    models: dict[str, Callable[[], Any]] = {
        "clip": lambda: build_clip().model,
        "llava": untouched_llava,
    }
    model = models[kind]() if kind in models else untouched(kind)
    folder.mkdir()
    model.save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    write(folder, NAFLEX if kind == "siglip2" else UNUSUAL)
    read: Any = generative if kind == "llava" else from_pretrained
    return read(str(folder))


@pytest.mark.parametrize("kind", SMALL_SIZES)
def test_settings_survive_artifact_and_export(kind: str, tmp_path: Path) -> None:
    backbone = build(kind, tmp_path / "dense")
    picture = as_pil(noise(50, 30))
    expected = backbone.preprocess(picture)
    if kind != "siglip2":
        assert torch.equal(expected, library(tmp_path / "dense", picture))
    recipe = Recipe({"int8": Integer(bits=8)})
    compressed = recipe.apply(backbone, [])
    saved = store(tmp_path / "artifact", compressed)
    artifact = Artifact.load(saved.folder)
    assert torch.equal(artifact.backbone.preprocess(picture), expected)
    with torch.no_grad():
        assert artifact.backbone.encode("image", expected[None]).isfinite().all()
    export(artifact, "hf", tmp_path / "out")
    settings = [
        AutoImageProcessor.from_pretrained(tmp_path / place).to_dict() for place in ("dense", "out")
    ]
    assert settings[0] == settings[1]
    read: Any = generative if kind == "llava" else from_pretrained
    assert torch.equal(read(str(tmp_path / "out")).preprocess(picture), expected)
    assert AutoModel.from_pretrained(tmp_path / "out") is not None


BAD: dict[str, tuple[Any, str]] = {
    "another size": (
        CLIP | {"size": 40, "crop_size": 40},
        r"CLIPImageProcessor gives pixels of shape \(3, 40, 40\) and the image tower reads "
        r"\(3, 32, 32\): correct size and crop_size",
    ),
    "no crop": (CLIP | {"do_center_crop": False}, r"pixels of shape \(3, \d+, \d+\) and the"),
    "several crops": (
        CLIP | {"image_processor_type": "LlavaNextImageProcessor"},
        "LlavaNextImageProcessor gives image_sizes, which the adapter cannot hand on",
    ),
    "a mask": (
        {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 384}},
        "ViltImageProcessor gives pixel_mask, which",
    ),
    "no such size": (CLIP | {"size": {"edge": 3}}, r"transformers makes no image processor of"),
    "no such kernel": (
        CLIP | {"resample": 99},
        r"cannot prepare a picture by its settings \(\w+: ",
    ),
    "a mean of two": (CLIP | {"image_mean": [0.5, 0.5]}, r"cannot prepare a picture by its"),
    "too large": (CLIP | {"size": 10**9}, r"size=\{'shortest_edge': 1000000000\} .* 1 to 16384"),
    "a name that is no more": (
        CLIP | {"image_processor_type": "OwlProcessorOfOld"},
        "no image processor of image_processor_type='OwlProcessorOfOld' .* correct preprocessor_",
    ),
    "code": (
        without(CLIP, "image_processor_type") | {"auto_map": {"AutoImageProcessor": "code.P"}},
        r"asks for code of its own \(auto_map\), which is not run: set image_processor_type",
    ),
    "no object": ([1], r"preprocessor_config\.json holds no JSON object of settings: correct"),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    settings, message = BAD[name]
    write(tmp_path, settings)
    with pytest.raises(ValueError, match=rf"^backbone\.name_or_path='.*': .*{message}") as error:
        reader(tmp_path, build_clip().model.config)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is no JSON \(.*\): correct"):
        reader(tmp_path, llava_config())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_processor_type": "AutoModel"},
        {"image_processor_type": ["CLIPImageProcessor"]},
        CLIP | {"auto_map": {"AutoImageProcessor": "code.Processor"}},
        {"image_processor_type": "NoSuchImageProcessor"},
        CLIP | {"size": {"shortest_edge": LARGEST + 1}},
        CLIP | {"crop_size": {"height": 0, "width": S}},
    ],
)
def test_a_spec_names_a_processor_of_the_library(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"image settings must|transformers makes no image"):
        LibraryPixels(settings, size=S)


def test_built_on_the_meta_device_it_works_elsewhere() -> None:
    """As a skeleton is."""
    with torch.device("meta"):
        pixels = LibraryPixels(CLIP, size=S)
    assert torch.equal(pixels(noise(9, 9)), LibraryPixels(CLIP, size=S)(noise(9, 9)))

"""Where models come from: names, folders, files, tags; and what is said when they do not."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from mmcompress.backbones.images import RESAMPLING, RESIZE_MODES
from mmcompress.backbones.open_clip.backbone import OpenClip, unsupported

# float32 over one layer; the fused kernels add in another order than the explicit ones.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "resize_mode": "squash"}


def small(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return open_clip.CLIP(**(SMALL | changes)).eval()


@pytest.fixture
def small_folder(tmp_path: Path) -> str:
    stored = {"model_cfg": SMALL, "preprocess_cfg": PIXELS}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    return f"local-dir:{tmp_path}"


def test_random_weights_depend_on_the_seed_alone(small_folder: str):
    models = [OpenClip.from_pretrained(small_folder, seed=seed).model for seed in (0, 0, 1)]
    weights = [model.visual.proj for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    before = torch.get_rng_state()
    OpenClip.from_pretrained(small_folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_from_a_file(small_folder: str, tmp_path: Path):
    reference = small(seed=5)
    weights = tmp_path / "weights.pt"
    torch.save(reference.state_dict(), weights)
    backbone = OpenClip.from_pretrained(small_folder, pretrained=str(weights))
    assert backbone.spec["mean"] == [0.5, 0.5, 0.5]
    assert backbone.spec["resize_mode"] == "squash"
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.encode_image(pixels)
        torch.testing.assert_close(backbone.encode_image(pixels), expected, **TOLERANCE)


def test_a_file_of_another_precision_fills_the_model_in_its_own(small_folder: str, tmp_path: Path):
    state = small(seed=5).half().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    weights = str(tmp_path / "weights.safetensors")
    model = OpenClip.from_pretrained(small_folder, pretrained=weights).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.visual.proj, state["visual.proj"].float())
    q, *_ = state["transformer.resblocks.0.attn.in_proj_weight"].float().chunk(3)
    assert torch.equal(model.transformer.resblocks[0].attn.q_proj.weight, q)
    assert not any(b.is_meta for b in model.buffers())


@pytest.mark.parametrize("named", ["", "open_clip_pytorch_model.bin"])
def test_a_tag_brings_its_weights_activation_and_pixels(
    named: str, monkeypatch: pytest.MonkeyPatch, small_folder: str, tmp_path: Path
):
    """A made-up model with a made-up tag, its file as if downloaded."""
    asked = []
    weights = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(small(seed=5).state_dict(), weights)

    def download(repository: str, file: str, local_files_only: bool) -> str:
        asked.append((repository, file, local_files_only))
        if file != weights.name:
            raise FileNotFoundError(file)
        return str(weights)

    tag = {"hf_hub": f"someone/small/{named}", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setattr("mmcompress.backbones.open_clip.hub.hf_hub_download", download)
    monkeypatch.setattr("mmcompress.backbones.open_clip.hub.hub_reachable", lambda: True)
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["tag"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, pretrained: tag)
    backbone = OpenClip.from_pretrained(small_folder, pretrained="tag")
    tried = [named] if named else ["open_clip_model.safetensors", weights.name]
    assert [file for _, file, _ in asked] == tried
    assert asked[0][0] == "someone/small"
    assert asked[0][2] is False
    assert backbone.spec["mean"] == [0.1, 0.2, 0.3]
    assert backbone.spec["config"]["quick_gelu"] is True
    reference = small(seed=5, quick_gelu=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.encode_image(pixels)
        torch.testing.assert_close(backbone.encode_image(pixels), expected, **TOLERANCE)


def test_supported_names():
    names = open_clip.list_models()
    plain = [name for name in names if not unsupported(open_clip.get_model_config(name))]
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336-quickgelu", "ViT-H-14"} <= {*plain}
    assert plain == names
    for name in plain:
        for tag in open_clip.list_pretrained_tags_by_model(name):
            stored = open_clip.get_pretrained_cfg(name, tag)
            assert stored["hf_hub"].count("/") == 2  # owner/name/, or owner/name/file
            assert stored["resize_mode"] in RESIZE_MODES
            assert stored["interpolation"] in RESAMPLING


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-33",), r"'ViT-B-33' is no model of open_clip; close to it: ViT-B-32"),
        (("",), r"backbone.name='' is no model of open_clip; close to it: none"),
        (("ViT-B-32", "laion2b"), "neither a file nor a tag of ViT-B-32; its tags: openai"),
        (("local-dir:/nowhere",), "the folder needs an open_clip_config.json"),
    ],
)
def test_bad_names(arguments: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        OpenClip.from_pretrained(*arguments)


def test_weights_that_do_not_fit(small_folder: str, tmp_path: Path):
    other = tmp_path / "other.pt"
    torch.save(small(embed_dim=8).state_dict(), other)
    text = tmp_path / "text.bin"
    text.write_text("root:x:0:0:root")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for file in (other, text, empty):
        with pytest.raises(
            ValueError, match=rf"{file.name}' does not hold the weights of local"
        ) as e:
            OpenClip.from_pretrained(small_folder, pretrained=str(file))
        assert "\n" not in str(e.value)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("mmcompress.backbones.open_clip.hub.hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be reached .* give the path of a downloaded"):
        OpenClip.from_pretrained("ViT-B-32", pretrained="openai")


@pytest.mark.parametrize("stored", [{}, {"model_cfg": {"embed_dim": 8}}, {"model_cfg": [1]}, [1]])
def test_a_folder_with_something_else(stored: Any, tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="holds a model_cfg with vision_cfg and text_cfg"):
        OpenClip.from_pretrained(f"local-dir:{tmp_path}")


def test_an_incomplete_file_is_named_and_not_loaded_in_part(small_folder: str, tmp_path: Path):
    state = small().state_dict()
    del state["text_projection"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r'Missing key.* "text_projection"'):
        OpenClip.from_pretrained(small_folder, pretrained=str(tmp_path / "part.pt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "hf-hub:a/b"}}, "a timm tower of the model hub"),
        ({"vision_cfg": {"timm_model_name": "nothing"}}, "cannot build .*Unknown model"),
        ({"vision_cfg": {"pool_type": "none"}}, "token outputs"),
        ({"text_cfg": {"pool_type": "none"}}, "token outputs"),
        ({"text_cfg": {"hf_model_name": "a/b"}}, "has no config of its Hugging Face text tower"),
        ({"text_cfg": {"hf_tokenizer_name": "bert"}}, "needs the tokenizer, .*cannot be read"),
        ({"vision_cfg": {"image_size": [32, 64]}}, "images that are not square"),
        ({"vision_cfg": {"scaled_cosine_attn": True}}, "scaled cosine attention"),
        ({"text_cfg": {"vocab_size": 1000}}, "has 1000 token embeddings for the 49408 tokens"),
        ({"text_cfg": {"heads": 3}}, r"cannot build a model .*divisible by num_heads\); correct"),
        ({"bogus": {}}, "cannot build a model from its config .*'bogus'"),
    ],
)
def test_refuses_what_it_cannot_see_through(changes: dict[str, Any], message: str, tmp_path: Path):
    """Also from a spec, before anything is built from it."""
    config = SMALL | {key: SMALL.get(key, {}) | value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        OpenClip.from_spec({"name": "x", "config": config}, tmp_path)


def test_full_size():
    """Random weights of the published architecture, made twice from the same seed."""
    name, texts = "ViT-B-32", ["a red cat", "two dogs in front of a house"]
    backbone = OpenClip.from_pretrained(name, seed=3)
    torch.manual_seed(3)
    reference = open_clip.create_model(name).eval()
    pixels, ids = torch.randn(2, 3, 224, 224), backbone.tokenize(texts)
    with torch.no_grad():
        expected = reference.encode_image(pixels), reference.encode_text(ids)
        found = backbone.encode_image(pixels), backbone.encode_text(ids)
    # float32 over twelve layers 768 wide: each adds rounding of about 1e-6 to features near 1.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(ids, open_clip.get_tokenizer(name)(texts))
    parameters = dict(backbone.model.named_parameters())
    dense = sum(p.numel() for p in parameters.values())
    targeted = sum(parameters[target.name].numel() for target in backbone.targets())
    assert dense == sum(p.numel() for p in reference.parameters()) == 151_277_313
    assert targeted / dense > 0.99
    assert len(backbone.targets()) == 2 * 12 * 6 + 6


@pytest.mark.parametrize("size", [(50, 40), (20, 31)])
@pytest.mark.parametrize("options", [{}, PIXELS])
def test_preprocessing_equals_that_of_open_clip(size: tuple[int, int], options: dict[str, Any]):
    backbone = OpenClip(small(), name="small", config=SMALL, **options)
    # Far from black and white: PIL clips overshoot of bicubic noise after each axis, torch at the
    # end, and the two are then many levels apart.
    noise = torch.randint(64, 192, (3, *size), generator=torch.Generator().manual_seed(0))
    pixels = noise.to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = open_clip.image_transform(32, is_train=False, **options)(image)
    # Both resize with PIL; division and normalization round once each, values are below 3.
    torch.testing.assert_close(backbone.preprocess(image), expected, rtol=0, atol=1e-6)
    batch = backbone.preprocess(pixels.expand(2, 4, 3, *size))
    assert batch.shape == (2, 4, 3, 32, 32)
    # torch and PIL round after each of two axes, each in its own way: two levels of 255, over std.
    atol = 2.01 / 255 / min(backbone.spec["std"])
    torch.testing.assert_close(batch[1, 2], expected, rtol=0, atol=atol)


PREPROCESS_CFGS: dict[str, dict[str, Any]] = {
    "squash": PIXELS | {"interpolation": "bilinear"},
    "shortest, of another size": {"resize_mode": "shortest", "size": 224, "mode": "RGB"},
    "longest": {"resize_mode": "longest", "fill_color": 0},
    "longest, filled with gray": {"resize_mode": "longest", "fill_color": 127, "mean": [0.1] * 3},
    "random": {"interpolation": "random", "std": [0.3, 0.2, 0.1]},
    "null and one number": {"interpolation": None, "mean": 0.5, "std": 0.25, "resize_mode": None},
    "none": {},
}


@pytest.mark.parametrize("size", [(50, 40), (20, 31), (90, 20)])
@pytest.mark.parametrize("name", PREPROCESS_CFGS)
def test_a_folders_preprocess_cfg_is_read_and_written(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "out").mkdir()
    stored = {"model_cfg": SMALL, "preprocess_cfg": PREPROCESS_CFGS[name]}
    (tmp_path / "dense" / "open_clip_config.json").write_text(json.dumps(stored))
    weights = tmp_path / "dense" / "open_clip_model.safetensors"
    save_file(small(seed=5).state_dict(), weights)
    folder = f"local-dir:{tmp_path / 'dense'}"
    backbone = OpenClip.from_pretrained(folder, pretrained=str(weights))
    backbone.write_native(tmp_path / "out")
    spec = json.loads(json.dumps(backbone.spec))
    rebuilt = OpenClip.from_spec(spec, tmp_path)
    noise = torch.randint(64, 192, (3, *size), generator=torch.Generator().manual_seed(0))
    pixels = noise.to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    level = 2.01 / 255 / min(spec["std"])
    for place in ("dense", "out"):
        _, expect = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / place}")
        for ours in (backbone, rebuilt):
            found = ours.preprocess(image)
            torch.testing.assert_close(found, expect(image), rtol=0, atol=1e-6)
            torch.testing.assert_close(ours.preprocess(pixels), found, rtol=0, atol=level)
    written = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    for key, value in PREPROCESS_CFGS[name].items():
        if value is not None and key not in ("size", "mode"):
            wanted = [value] * 3 if isinstance(value, float) else value
            assert written["preprocess_cfg"][key] == wanted


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"mode": "L"}, r"mode='L' of the preprocess_cfg must be RGB"),
        ({"resize_mode": "crop"}, r"resize_mode='crop' must be one of shortest, squash, longest"),
        ({"interpolation": "lanczos"}, r"interpolation='lanczos' must be one of bicubic, bilinear"),
        ({"fill_color": [1, 2, 3]}, r"fill_color=\[1, 2, 3\] must be a whole number in 0 to 255"),
    ],
)
def test_a_preprocess_cfg_that_cannot_be_honored(
    preprocess: dict[str, Any], message: str, tmp_path: Path
) -> None:
    stored = {"model_cfg": SMALL, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=message):
        OpenClip.from_pretrained(f"local-dir:{tmp_path}")


def test_weights_in_the_folder_that_nobody_asked_for(
    small_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OpenClip.from_pretrained(small_folder)
    assert not caplog.records
    save_file(small().state_dict(), tmp_path / "open_clip_model.safetensors")
    OpenClip.from_pretrained(small_folder)
    assert "holds open_clip_model.safetensors, which is not read: the weights are" in caplog.text

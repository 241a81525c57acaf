"""NaN and infinity are refused where weights are read and written; −inf may stand in masks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact, backbone_in
from mmcompress.artifact.load import read_manifest
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.generative import from_pretrained as generative
from mmcompress.backbones.hf.sentence import HFText
from mmcompress.backbones.hf.two_towers import from_pretrained as two_towers
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.format.errors import ArtifactError
from mmcompress.functional.finite import (
    NotFiniteError,
    check_rows,
    check_weights,
    describe_not_finite,
)
from mmcompress.testing.zoo.families import FAMILIES
from tests.conftest import store

NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], None),
        ([3e38, 3e38], None),  # their sum is infinite, they are not
        ([], None),
        ([NAN, 1.0, NAN], "2 NaN of 3 values"),
        ([INF, -INF], "2 infinite of 2 values"),
        ([-INF, NAN, 0.0, 0.0], "1 NaN and 1 infinite of 4 values"),
    ],
)
def test_what_is_wrong_with_a_tensor(values: list[float], expected: str | None) -> None:
    assert describe_not_finite(torch.tensor(values)) == expected


def test_masks_may_hold_minus_infinity_and_nothing_else() -> None:
    mask = torch.tensor([[0.0, -INF], [0.0, 0.0]])
    assert describe_not_finite(mask, is_mask=True) is None
    assert describe_not_finite(mask) == "1 infinite of 4 values"
    assert describe_not_finite(-mask, is_mask=True) == "1 infinite of 4 values"
    assert describe_not_finite(mask * 0, is_mask=True) == "1 NaN of 4 values"
    model = nn.Linear(2, 2)
    model.register_buffer("mask", mask)
    model.register_buffer("count", torch.tensor(3))
    check_weights(model)
    model.register_parameter("scale", nn.Parameter(mask.clone()))
    with pytest.raises(ValueError, match="the model: scale holds 1 infinite of 4 values; give"):
        check_weights(model)


def test_rows_say_which_of_them() -> None:
    rows = torch.tensor([[0.0, 1.0], [NAN, 0.0], [0.0, INF], [3e38, 3e38]])
    assert check_rows("sums", rows[[0, 3]]) is not rows
    with pytest.raises(NotFiniteError, match=r"^sums are .* for 2 of 4 inputs \(1, 2\): look"):
        check_rows("sums", rows)
    with pytest.raises(NotFiniteError, match=r"2 of 2 inputs \(0, 1\): no metric") as raised:
        check_rows("sums", rows[1:3, 0] + rows[1:3, 1])
    assert raised.value.rows == [0, 1]


LOADERS: dict[str, tuple[str, Callable[[Path], Backbone]]] = {
    "hf/clip": ("text_projection.weight", lambda f: two_towers(str(f))),
    "hf/siglip": ("logit_bias", lambda f: two_towers(str(f))),
    "hf/clap": ("audio_projection.linear1.weight", lambda f: two_towers(str(f))),
    "hf_text/bert": (
        "encoder.layer.1.attention.self.query.weight",
        lambda f: HFText.from_folder(str(f)),
    ),
    "llava": (
        "multi_modal_projector.linear_1.bias",
        lambda f: generative(str(f)),
    ),
    "open_clip/vit": (
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        lambda f: OpenClip.from_pretrained(
            f"local-dir:{f}", pretrained=str(f / "open_clip_model.safetensors")
        ),
    ),
    "open_clip/resnet": (
        "visual.bn1.running_var",  # a buffer
        lambda f: OpenClip.from_pretrained(
            f"local-dir:{f}", pretrained=str(f / "open_clip_model.safetensors")
        ),
    ),
}


@pytest.mark.parametrize("family", LOADERS)
@pytest.mark.parametrize("value", [NAN, INF])
def test_no_adapter_reads_them(family: str, value: float, tmp_path: Path) -> None:
    key, load = LOADERS[family]
    (tmp_path / "files").mkdir()
    folder = tmp_path / "model"
    folder.mkdir()
    FAMILIES[family].build(tmp_path / "files").write_native(folder)
    load(folder)
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    (key,) = (name for name in state if name.endswith(key))
    state[key].view(-1)[-1] = value
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"holds 1 \w+ of {state[key].numel():,} values") as error:
        load(folder)
    assert str(error.value).count(str(folder)) == 1  # the place, once
    if family not in ("hf_text/bert", "llava"):  # named as the library has them, and not the file
        assert f": {key} holds" in str(error.value)


def test_a_model_of_your_own_is_looked_at_too() -> None:
    encoder = nn.Linear(4, 2)
    encoder.weight.data[0, 0] = NAN
    with pytest.raises(ValueError, match=r"the model: image_encoder\.weight holds 1 NaN of 8"):
        Custom(image_encoder=encoder, transform=lambda image: image)


def quantized(backbone: Backbone) -> Compressed:
    return Recipe({"int8": Integer(bits=8, role="mlp.up")}).apply(backbone, [])


def poisoned(state: dict[str, Tensor], key: str, value: float) -> None:
    with torch.no_grad():
        state[key].view(-1)[0] = value


@pytest.mark.parametrize(
    "key",
    ["visual_projection.weight", "text_model.encoder.layers.0.mlp.fc1.weight", "logit_scale"],
)
def test_no_artifact_is_written_with_them_or_read(
    key: str, tiny_backbone: HFClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = quantized(tiny_backbone)
    original = key.replace("fc1.weight", "fc1.parametrizations.weight.original")
    poisoned(tiny_backbone.model.state_dict(), original, NAN)
    with pytest.raises(ValueError, match=rf"diverged, .*{original} holds 1 NaN of .*: lower"):
        store(tmp_path / "refused", compressed)
    assert not (tmp_path / "refused").exists()
    if "fc1" in key:
        return  # its codes are integers
    monkeypatch.setattr("mmcompress.compression.compressed.check_trained", lambda model: None)
    with pytest.raises(ValueError, match=rf"^{key} holds \d+ NaN of .*: lower optimizer\.lr"):
        store(tmp_path / "refused", compressed)
    monkeypatch.setattr("mmcompress.artifact.save._refuse", lambda problem: None)
    unread = "mmcompress.artifact.save._read_back"
    monkeypatch.setattr(unread, lambda folder, *rest: read_manifest(folder))
    store(tmp_path / "bad", Recipe(dense_dtype="float32").restore(tiny_backbone, {}))
    for load in (Artifact.load, lambda folder: backbone_in(str(folder))):
        with pytest.raises(ArtifactError, match=rf"model\.safetensors: {key} holds 1 NaN of "):
            load(tmp_path / "bad")


@pytest.mark.parametrize("lowest", [-INF, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_masks_come_back_as_they_were(dtype: str, lowest: float, tmp_path: Path) -> None:
    def build() -> Custom:
        encoder = nn.Sequential(nn.Linear(4, 4))
        encoder.register_buffer("mask", torch.full((3, 3), lowest).triu(1))
        return Custom(image_encoder=encoder, transform=lambda image: image)

    backbone = build()
    store(tmp_path / "a", Recipe(dense_dtype=dtype).restore(backbone, {}))
    loaded = Artifact.load(tmp_path / "a", skeleton=build).backbone
    assert torch.equal(loaded.model.image_encoder.mask, torch.full((3, 3), lowest).triu(1))

"""Every architecture family of open_clip, reduced, against the untouched model."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from transformers import AutoConfig

from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.backbones.open_clip.build import build_model
from mmcompress.testing.zoo.open_clip import CONFIGS, SIZE, TOWERS, VIT, untouched, write_tower

# float32; the explicit layers add in another order than the fused ones.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
TEXTS = ["a red cat", "two dogs in front of a house"]


@pytest.fixture(params=CONFIGS)
def cfg(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(CONFIGS[request.param])


def encode_both(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():  # open_clip's own CoCa with a cascade gives (B, 1, D)
        return [model.encode_image(pixels).flatten(start_dim=1), model.encode_text(ids)]


def coverage(backbone: OpenClip) -> dict[str, float]:
    """Tower → share of its parameters that are targets; without logit scale and bias."""
    targets = {target.name for target in backbone.targets()}
    sizes: dict[str, list[int]] = {}
    for name, parameter in backbone.model.named_parameters():
        total = sizes.setdefault(backbone.modality_of(name), [0, 0])
        total[0] += parameter.numel() * (name in targets)
        total[1] += parameter.numel()
    return {modality: part / total for modality, (part, total) in sizes.items() if total > 2}


def check_family(reference: Any, backbone: OpenClip) -> None:
    """Same outputs; at least 95 % of each tower is a target, each target runs, the rest is told."""
    pixels, ids = torch.randn(3, 3, SIZE, SIZE), backbone.tokenize(TEXTS)
    expected, found = encode_both(reference, pixels, ids), encode_both(backbone, pixels, ids)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert all(features.std() > 1e-3 for features in found)

    assert min(coverage(backbone).values()) >= 0.95, coverage(backbone)
    kinds = ("normalization", "bias", "scalar of ", "vector of ")
    assert all(reason.startswith(kinds) for reason in backbone.remainder().values())

    ran = set()
    layers = [t for t in backbone.targets() if t.granularity != "matrix"]
    for target in layers:
        module = backbone.model.get_submodule(target.module)
        module.register_forward_hook(lambda *_, name=target.name: ran.add(name))
    for one in backbone.passes():
        one.run({"image": pixels[:2], "text": ids})
    assert ran == {t.name for t in layers}


def test_equals_the_untouched_model_and_is_covered(cfg: dict[str, Any]) -> None:
    reference = untouched(cfg)
    check_family(reference, OpenClip(copy.deepcopy(reference), name="reduced", config=cfg).eval())


def test_no_weight_is_left_as_the_memory_was() -> None:
    """open_clip gives the projection of CoCa's decoder no values."""
    torch.manual_seed(0)
    model = build_model("coca", copy.deepcopy(CONFIGS["coca"]), None)
    drawn = model.text_decoder.text_projection
    assert drawn.std().item() == pytest.approx(len(drawn) ** -0.5, rel=0.05)


@pytest.fixture(params=TOWERS)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a model whose text tower is one of Hugging Face's, and its tokenizer."""
    write_tower(request.param, tmp_path)
    return tmp_path


def test_a_text_tower_of_transformers(local: Path, tmp_path: Path) -> None:
    name = f"local-dir:{local}"
    torch.manual_seed(0)
    reference = open_clip.create_model(name, load_weights=False, pretrained_text=False).eval()
    weights = tmp_path / "weights.pt"
    torch.save(reference.state_dict(), weights)
    backbone = OpenClip.from_pretrained(name, pretrained=str(weights)).eval()
    assert torch.equal(backbone.tokenize(TEXTS), open_clip.get_tokenizer(name)(TEXTS))
    check_family(reference, backbone)
    assert backbone.valid_tokens("text", backbone.tokenize(TEXTS)).sum(dim=1).tolist() == [4, 3]


def test_a_text_tower_that_is_not_there(tmp_path: Path) -> None:
    text = {"hf_model_name": str(tmp_path / "missing"), "context_length": 12}
    cfg = {"embed_dim": 64, "vision_cfg": VIT, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(ValueError, match=r"needs the config of its text tower, .*cannot be read"):
        OpenClip.from_pretrained(f"local-dir:{tmp_path}")


def test_every_tower_of_the_zoo_is_known_to_timm() -> None:
    """Names, heads and sizes are open_clip's; here only that its zoo and timm fit together."""
    names = {
        open_clip.get_model_config(name)["vision_cfg"].get("timm_model_name")
        for name in open_clip.list_models()
    }
    assert len(names - {None}) >= 20
    assert all(timm.is_model(name) for name in names - {None})


def test_every_text_tower_of_the_zoo_is_tested() -> None:
    towers = {
        open_clip.get_model_config(name)["text_cfg"].get("hf_model_name")
        for name in open_clip.list_models()
    }
    known = {"roberta-base", "xlm-roberta-base", "xlm-roberta-large"}
    known |= {"google/mt5-base", "google/mt5-xl"}
    known |= {"facebook/nllb-200-distilled-600M", "facebook/nllb-200-distilled-1.3B"}
    assert towers - {None} == known
    assert AutoConfig.for_model("m2m_100").model_type in TOWERS  # that of nllb-200

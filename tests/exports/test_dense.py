"""Back into the source library: weights bit for bit, read by the library alone."""

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.kinds import KINDS
from mmcompress.backbones.hf.sentence import HFText
from mmcompress.backbones.hf.two_towers import from_pretrained
from mmcompress.backbones.mlp import MLP
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.structured import Structured
from mmcompress.compression.quantization.activations import Activations
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.cross_layer import CrossLayer
from mmcompress.compression.steps import Step
from mmcompress.exports.targets import export
from mmcompress.testing.zoo.hf import CONFIGS as HF_CONFIGS
from mmcompress.testing.zoo.hf import TEXT, adapt, build_clip
from mmcompress.testing.zoo.open_clip import CONFIGS, SIZE, untouched
from mmcompress.testing.zoo.words import build_tokenizer
from tests.backbones.hf.test_two_towers import by_the_library, inputs_of
from tests.backbones.open_clip.test_families import TEXTS, encode_both

# float32; the library's fused layers add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def compressed(folder: Path, backbone: Backbone, step: Step, *batches: Any) -> Artifact:
    """As it would be read back, without the seconds that storing takes."""
    recipe = Recipe({"step": step})
    compressed = recipe.apply(backbone, list(batches))
    compressed.finalize()
    return Artifact(folder, {}, backbone.eval())


def reduced(family: str) -> OpenClip:
    cfg = copy.deepcopy(CONFIGS[family])
    return OpenClip(untouched(cfg), name="reduced", config=cfg).eval()


@pytest.mark.parametrize("family", CONFIGS)
def test_open_clip(family: str, tmp_path: Path) -> None:
    artifact = compressed(tmp_path / "artifact", reduced(family), Integer(bits=4))
    export(artifact, "open_clip", tmp_path / "out")
    name = f"local-dir:{tmp_path / 'out'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    pixels, ids = torch.randn(3, 3, SIZE, SIZE), artifact.backbone.tokenize(TEXTS)
    expected = encode_both(artifact.backbone, pixels, ids)
    torch.testing.assert_close(encode_both(model.eval(), pixels, ids), expected, **TOLERANCE)
    weights = str(tmp_path / "out" / "open_clip_model.safetensors")
    again = OpenClip.from_pretrained(name, pretrained=weights).eval()
    for found, wanted in zip(encode_both(again, pixels, ids), expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(open_clip.get_tokenizer(name)(TEXTS), ids)
    picture = Image.radial_gradient("L").convert("RGB")
    torch.testing.assert_close(transform(picture), artifact.backbone.preprocess(picture))


@pytest.mark.parametrize("kind", HF_CONFIGS)
def test_transformers(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = HF_CONFIGS[kind]()
    backbone = adapt(KINDS[config.model_type].model(config))
    artifact = compressed(tmp_path / "artifact", backbone, Integer(bits=4))
    export(artifact, "hf", tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    batch = inputs_of(artifact.backbone)
    again = from_pretrained(str(tmp_path / "out")).eval()
    with torch.no_grad():
        native = by_the_library(model, batch)
        for modality, inputs in batch.items():
            expected = getattr(artifact.backbone, f"encode_{modality}")(inputs)
            torch.testing.assert_close(native[modality], expected, **TOLERANCE)
            assert torch.equal(getattr(again, f"encode_{modality}")(inputs), expected)
    # By name, because AutoTokenizer takes SigLIP 2's whatever the folder says.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    tokens = tokenizer(["red cat"])["input_ids"][0]
    assert tokens == batch["text"][0].tolist()[: len(tokens)]


def test_a_clip_model_with_its_image_processor(tmp_path: Path) -> None:
    artifact = compressed(tmp_path / "artifact", build_clip(), Integer(bits=8))
    export(artifact, "hf", tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    picture = Image.radial_gradient("L").convert("RGB")
    pixels = artifact.backbone.preprocess(picture)[None]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, pixels, rtol=0, atol=0.05)  # it resizes in uint8
    with torch.no_grad():
        expected = artifact.backbone.encode_image(pixels)
        found = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_a_sentence_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path / "dense")
    build_tokenizer().save(str(tmp_path / "dense" / "tokenizer.json"))
    backbone = HFText.from_folder(str(tmp_path / "dense"))
    artifact = compressed(tmp_path / "artifact", backbone, Integer(bits=8))
    export(artifact, "hf", tmp_path / "out")
    again = HFText.from_folder(str(tmp_path / "out"))
    assert (again.pooling, again.max_tokens) == (backbone.pooling, backbone.max_tokens)
    ids = again.tokenize(TEXTS)
    with torch.no_grad():
        assert torch.equal(again.encode_text(ids), artifact.backbone.encode_text(ids))


STRUCTURES: dict[str, Any] = {
    "low rank": LowRank(rank_ratio=0.3, rank_multiple=1),
    "half of the neurons": Structured(pruning_ratio=0.5, importance="magnitude", granularity="mlp"),
    "a block": Structured(pruning_ratio=0.5, importance="activation", granularity="stack"),
    "shared layers": CrossLayer(share_every=2, transform="scale"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("library", ["open_clip", "hf"])
def test_what_the_libraries_can_say(structure: str, library: str, tmp_path: Path) -> None:
    backbone = reduced("vit") if library == "open_clip" else build_clip()
    dense = count(backbone.model)
    pixels, ids = torch.randn(4, 3, SIZE, SIZE), backbone.tokenize([*TEXTS, *TEXTS])
    if library == "hf":
        pixels = torch.randn(4, 3, 32, 32)
    artifact = compressed(
        tmp_path / "artifact",
        backbone,
        copy.deepcopy(STRUCTURES[structure]),
        {"image": pixels, "text": ids},
    )
    export(artifact, library, tmp_path / "out")
    if library == "open_clip":
        model = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
        with torch.no_grad():
            found = model.encode_image(pixels), model.encode_text(ids)
    else:
        model = AutoModel.from_pretrained(tmp_path / "out").eval()
        with torch.no_grad():
            image = model.get_image_features(pixel_values=pixels).pooler_output
            found = image, model.get_text_features(input_ids=ids).pooler_output
    assert (count(model) < dense) == (structure in ("half of the neurons", "a block"))
    with torch.no_grad():
        expected = artifact.backbone.encode_image(pixels), artifact.backbone.encode_text(ids)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_what_they_cannot_say(tmp_path: Path) -> None:
    batch = {"image": torch.randn(4, 3, SIZE, SIZE)}
    batch["text"] = reduced("vit").tokenize([*TEXTS, *TEXTS])
    heads = compressed(
        tmp_path / "heads",
        reduced("vit"),
        Structured(pruning_ratio=0.5, granularity="attention"),
        batch,
    )
    with pytest.raises(ValueError, match=r"open_clip cannot express .*: its config gives .* as .*"):
        export(heads, "open_clip", tmp_path / "out")
    w8a8 = compressed(tmp_path / "w8a8", reduced("vit"), Activations(bits=8))
    with pytest.raises(ValueError, match="rounds its inputs while the model runs"):
        export(w8a8, "open_clip", tmp_path / "out")
    with pytest.raises(ValueError, match="holds a model of open_clip, not of hf: set --to open"):
        export(w8a8, "hf", tmp_path / "out")
    own = compressed(tmp_path / "own", MLP(), Integer(bits=8))
    with pytest.raises(ValueError, match="of no library that could load it, not of hf: keep"):
        export(own, "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="already exists: remove it, or choose another place"):
        export(compressed(tmp_path / "a", build_clip(), Integer(bits=8)), "hf", tmp_path / "out")

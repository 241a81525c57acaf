"""Checkpoints with integers: transformers loads the artifact's weights, bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.pruning.structured import Structured
from mmcompress.compression.quantization.activations import Activations
from mmcompress.compression.quantization.hqq import HQQ
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.codebook import Codebook
from mmcompress.compression.steps import Step
from mmcompress.exports.compressed_tensors.integers import integers_of
from mmcompress.exports.compressed_tensors.patterns import patterns_of
from mmcompress.exports.targets import Exported, export
from mmcompress.format.reader import decode, read
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.hf import build_clip

pytest.importorskip("compressed_tensors")

TO = "compressed-tensors"
BATCH = {"image": torch.randn(4, 3, 32, 32), "text": torch.full((4, 8), 5)}


def stored(folder: Path, backbone: Backbone, *steps: Step) -> Artifact:
    recipe = Recipe({f"step{number}": step for number, step in enumerate(steps)})
    return Artifact.load(recipe.apply(backbone, [BATCH]).save(folder / "artifact").folder)


def of_family(name: str, folder: Path) -> Backbone:
    (folder / "model").mkdir()
    return FAMILIES[name].build(folder / "model")


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]


def loaded(folder: Path, kind: Any = AutoModel) -> nn.Module:
    """As a user has it, its weights floats again."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert all(key.startswith("pooler.") for key in info["missing_keys"])
    model.eval().hf_quantizer.compressor.decompress_model(model)
    return model


def check_weights(artifact: Artifact, folder: Path, kind: Any = AutoModel) -> Exported:
    """What transformers has is what the dense checkpoint of the artifact has, bit for bit."""
    done = export(artifact, TO, folder / "out")
    export(artifact, "hf", folder / "dense")
    found, dense = loaded(folder / "out", kind), kind.from_pretrained(folder / "dense").eval()
    wanted: dict[str, Tensor] = dense.state_dict()
    there = found.state_dict()
    assert {key for key in wanted if not key.startswith("pooler.")} <= there.keys()
    for key, tensor in wanted.items():
        if not key.startswith("pooler."):  # of a sentence encoder, drawn at random
            assert there[key].dtype == tensor.dtype
            assert torch.equal(there[key], tensor), key
    return done


STEPS: dict[str, list[Step]] = {
    "int8, rows": [Integer(bits=8)],
    "int4, groups": [Integer(bits=4, group_size=16)],
    "int3": [Integer(bits=3)],
    "int2, half steps": [Integer(bits=2, group_size=16, midrise=True)],
    "int4, half steps": [Integer(bits=4, midrise=True)],
    "int4, zero points": [Integer(bits=4, symmetric=False)],
    "pruned": [Magnitude(sparsity=0.5), Integer(bits=2, midrise=True)],
    "two parts": [
        Integer(bits=3, modality="image"),
        Integer(bits=4, group_size=16, modality="text"),
    ],
    "one part": [Integer(bits=8, modality="text")],
    "low rank": [LowRank(rank_ratio=0.3, role="mlp.*"), Integer(bits=8)],
}


IN_SECONDS = ("int2, half steps", "two parts")


@pytest.mark.parametrize(
    "steps",
    [n if n in IN_SECONDS else pytest.param(n, marks=pytest.mark.slow) for n in STEPS],
)
def test_weights_are_the_artifacts(steps: str, tmp_path: Path) -> None:
    artifact = stored(tmp_path, build_clip(), *STEPS[steps])
    check_weights(artifact, tmp_path)


@pytest.mark.parametrize(
    "family",
    [
        "hf/siglip",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("hf/altclip", "hf/clap", "hf/vit_bert", "hf_text/bert")
        ),
    ],
)
def test_families(family: str, tmp_path: Path) -> None:
    """Some have other names in a checkpoint than in the model, or look for a `weight`."""
    step = Integer(bits=4, group_size=16)
    check_weights(stored(tmp_path, of_family(family, tmp_path), step), tmp_path)


def test_a_generative_model(tmp_path: Path) -> None:
    """LLaVA: `ignore` matches a layer by its name in the model and by that in the checkpoint."""
    backbone = of_family("llava", tmp_path)
    words = Integer(bits=4, group_size=16, modality="text")
    artifact = stored(tmp_path, backbone, words)
    check_weights(artifact, tmp_path, AutoModelForImageTextToText)
    ignore = config_of(tmp_path / "out")["ignore"]
    for tower in ("model.vision_tower", "vision_tower"):
        assert matches(ignore, f"{tower}.encoder.layers.1.mlp.fc1")
    for model in ("model.language_model", "language_model.model"):
        assert not matches(ignore, f"{model}.layers.1.mlp.up_proj")
    ids = torch.tensor([[63, 3, 4, 5]])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    dense = AutoModelForImageTextToText.from_pretrained(tmp_path / "dense").eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids[:, 1:]).logits, dense(input_ids=ids[:, 1:]).logits)


def test_a_pooler_that_is_not_written_is_ignored(tmp_path: Path) -> None:
    artifact = stored(tmp_path, of_family("hf_text/bert", tmp_path), Integer(bits=8))
    export(artifact, TO, tmp_path / "out")
    assert matches(config_of(tmp_path / "out")["ignore"], "pooler.dense")


def matches(patterns: list[str], name: str) -> bool:
    return any(re.match(pattern.removeprefix("re:"), name) for pattern in patterns)


def test_rounded_inputs(tmp_path: Path) -> None:
    artifact = stored(tmp_path, build_clip(), Activations(bits=8), Integer(bits=8))
    done = export(artifact, TO, tmp_path / "out", test=True)
    assert "inputs are rounded in steps of max/127.5" in done.containers[-1]
    (layers, words) = config_of(tmp_path / "out")["config_groups"].values()
    assert (layers["format"], layers["targets"]) == ("int-quantized", ["Linear"])
    assert layers["input_activations"]["strategy"] == "token"
    assert words["input_activations"] is None
    assert done.difference is not None
    assert min(done.difference.cosine.values()) > 0.999


@pytest.mark.slow
def test_the_other_process(tmp_path: Path) -> None:
    artifact = stored(tmp_path, build_clip(), Integer(bits=3))
    done = export(artifact, TO, tmp_path / "out", test=True)
    assert done.difference is not None
    assert max(done.difference.largest.values()) < 1e-6
    assert any(line.startswith("3-bit integers, a scale per row") for line in done.containers)


def test_what_stays_dense_is_named(tmp_path: Path) -> None:
    steps = Codebook(clusters=16, modality="image"), Integer(bits=8, modality="text")
    done = check_weights(stored(tmp_path, build_clip(), *steps), tmp_path)
    assert any("(codebook is no grid of integers)" in line for line in done.containers)


@pytest.mark.slow
def test_vllm(tmp_path: Path) -> None:
    """Embeddings stay floats, and codes take 4 or 8 bits."""
    artifact = stored(tmp_path, build_clip(), Integer(bits=3))
    done = export(artifact, TO, tmp_path / "out", program="vllm", test=True)
    (group,) = config_of(tmp_path / "out")["config_groups"].values()
    assert (group["weights"]["num_bits"], group["targets"]) == (4, ["Linear"])
    assert any("embed, which the target reads as floats" in line for line in done.containers)


def test_vllm_joins_layers(tmp_path: Path) -> None:
    steps = Integer(bits=8, role="attn.q"), Integer(bits=4, role="attn.k")
    artifact = stored(tmp_path, build_clip(), *steps)
    with pytest.raises(ValueError, match=r"k_proj has 4-bit .* and .*q_proj 8-bit .*vLLM joins"):
        export(artifact, TO, tmp_path / "out", program="vllm")
    rounded = stored(tmp_path / "r", build_clip(), Activations(bits=8), Integer(bits=4))
    with pytest.raises(ValueError, match=r"has 4-bit .*, and vLLM rounds inputs for 8-bit"):
        export(rounded, TO, tmp_path / "out", program="vllm")


def test_refusals(tmp_path: Path) -> None:
    def refused(folder: str, *steps: Step, match: str) -> None:
        artifact = stored(tmp_path / folder, build_clip(), *steps)
        with pytest.raises(ValueError, match=match):
            export(artifact, TO, tmp_path / "out")

    heads = Structured(pruning_ratio=0.5, granularity="attention")
    refused("heads", heads, Integer(bits=8), match="transformers cannot express this model: its")
    refused("book", Codebook(clusters=16), match=r"holds no integers .*\(codebook is no grid")
    refused("none", match=r"holds no integers .*\(all weights are floats\): set --to hf")
    smooth = Activations(bits=8, smoothing=0.5)
    refused("smooth", smooth, Integer(bits=8), match="divides its inputs by a vector before")
    refused("floats", Activations(bits=8), match="rounds its inputs and its weight is stored as no")
    artifact = stored(tmp_path / "vit", of_family("open_clip/vit", tmp_path), Integer(bits=8))
    with pytest.raises(ValueError, match="holds a model of open_clip, not of hf: set --to open"):
        export(artifact, TO, tmp_path / "out")
    with pytest.raises(ValueError, match="target='tgi' is not for an export to compressed-tensors"):
        export(artifact, TO, tmp_path / "out", program="tgi")
    with pytest.raises(ValueError, match="target='vllm' is not for an export to hf: set --to comp"):
        export(artifact, "hf", tmp_path / "out", program="vllm")
    assert not (tmp_path / "out").exists()


def test_integers_decode_to_what_is_stored(tmp_path: Path) -> None:
    wanted = {"int4, half steps": 5, "int2, half steps": 3, "int4, zero points": 5, "pruned": 3}
    for name, bits in wanted.items():
        artifact = stored(tmp_path / name, build_clip(), *STEPS[name])
        for weight in read(artifact.folder):
            if weight.chain is not None:
                found = integers_of(weight)
                assert not isinstance(found, str)
                assert found.bits == bits
                scale = found.scale.astype("float32").repeat(weight.group_size, axis=1)
                assert (found.codes * scale == decode(weight).reshape(found.codes.shape)).all()


def test_real_zero_points_are_no_integers(tmp_path: Path) -> None:
    artifact = stored(tmp_path, build_clip(), HQQ(bits=4, group_size=16))
    found = {integers_of(w) for w in read(artifact.folder) if w.chain is not None}
    assert found == {"zero points that are no whole numbers"}


def test_patterns_match_layers_and_no_others() -> None:
    layers = [(f"model.layers.{n}.up", f"encoder.layer.{n}.up") for n in (0, 2, 10)]
    others = [(f"model.layers.{n}.down", f"encoder.layer.{n}.down") for n in (0, 1)]
    (pattern,) = patterns_of(layers, others)
    odd = [("model.layers.1.up", "encoder.layer.1.up")]
    for patterns in ([pattern], patterns_of(layers, others + odd)):
        assert all(matches(patterns, name) for names in layers for name in names)
        assert not any(matches(patterns, name) for names in others for name in names)
    assert matches([pattern], "model.layers.1.up")
    assert not matches(patterns_of(layers, odd), "encoder.layer.1.up")

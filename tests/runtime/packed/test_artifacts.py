"""Artifacts of every recipe, codec and family run packed, and embed as the dense decode does."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.runtime.packed.load import load_packed
from mmcompress.testing.zoo.families import FAMILIES
from tests.artifact.test_fixtures_0_1 import reference

FAST = ("codec_", "recipe_w8a8", "recipe_smoothquant", "recipe_minivit_int4", "family_hf_clip")
"""What is no slow test begins so: every codec, and what multiplies integers."""

NAMES = [
    pytest.param(name, marks=() if name.startswith(FAST) else pytest.mark.slow)
    for name in reference.NAMES
]


@pytest.mark.parametrize("name", NAMES)
def test_runs_packed_with_the_embeddings_of_the_dense_decode(name: str, tmp_path: Path) -> None:
    described = reference.read_expected(name)
    folder = reference.FOLDER / name / "artifact"
    build_own = partial(FAMILIES["custom"].build, tmp_path)  # its code is the user's
    dense = Artifact.load(folder, skeleton=build_own)
    packed = load_packed(folder, skeleton=build_own)
    inputs = reference.build_inputs(described["inputs"])
    for modality in described["embeddings"]:
        with torch.no_grad():
            expected = dense.backbone.encode(modality, inputs[modality])
            found = packed.backbone.encode(modality, inputs[modality])
        if "integers multiply" not in packed.kinds.values():
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            continue
        # Products of integers are exact, those of floats are not: an input of a later layer that
        # lies between two steps may be rounded the other way. Layer by layer nothing may.
        assert cosine_similarity(found, expected).min() > 0.9999
        layers = check_layers(dense.backbone, packed.backbone, modality, inputs[modality])
        assert layers > 0


def check_layers(dense: Encoder, packed: Encoder, modality: str, inputs: Tensor) -> int:
    """Each layer that rounds its inputs gives of the same inputs what its packed form gives.

    Returns:
        How many there are.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []

    def keep(path: str, layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        seen.append((path, given[0], output))

    layers = [(p, m) for p, m in dense.model.named_modules() if isinstance(m, QuantizedInput)]
    hooks = [module.register_forward_hook(partial(keep, path)) for path, module in layers]
    with torch.no_grad():
        dense.encode(modality, inputs)
        for hook in hooks:
            hook.remove()
        for path, given, expected in seen:
            layer = packed.model.get_submodule(path)
            # Float sums of a layer's width, in units of its largest output.
            atol = 1e-6 * expected.abs().max().item()
            torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=atol)
    return len(seen)


@pytest.mark.parametrize("name", ["codec_int4", "recipe_gptq", "recipe_int8", "codec_blocks"])
def test_takes_the_memory_of_its_codes(name: str) -> None:
    folder = reference.FOLDER / name / "artifact"
    dense = sum(p.nbytes for p in Artifact.load(folder).backbone.parameters())
    packed = load_packed(folder)
    assert set(packed.kinds.values()) <= {"rows are looked up", "decoded for each call"}
    assert packed.bytes < dense


def test_integers_multiply_where_the_recipe_rounds_inputs() -> None:
    packed = load_packed(reference.FOLDER / "recipe_w8a8" / "artifact")
    kinds = list(packed.kinds.values())
    assert kinds.count("integers multiply") > kinds.count("decoded for each call")


def test_activations_may_be_rounded_on_request() -> None:
    folder = reference.FOLDER / "recipe_int8" / "artifact"
    described = reference.read_expected("recipe_int8")
    inputs = reference.build_inputs(described["inputs"])["image"]
    packed = load_packed(folder, activations="int8")
    assert "integers multiply" in packed.kinds.values()
    with torch.no_grad():
        found = packed.backbone.encode("image", inputs)
        expected = Artifact.load(folder).backbone.encode("image", inputs)
    assert cosine_similarity(found, expected).min() > 0.999
    with pytest.raises(ValueError, match="activations='int4' must be int8"):
        load_packed(folder, activations="int4")

"""Weights that are baked one at a time, where they are stored."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.mlp import MLP
from mmcompress.compression.baking import put_back
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.vq import VectorQuantizer
from mmcompress.data.base import PairData

RECIPES = {
    "int8": lambda: {"int8": Integer(bits=8)},
    "stack": lambda: {"prune": Magnitude(sparsity=0.5), "int4": Integer(bits=4, group_size=16)},
    "shared": lambda: {"vq": VectorQuantizer(clusters=8, codebook_scope="modality")},
}
EMBEDDING = "text_model.embeddings.token_embedding.weight"


def save(folder: Path, compressed: Compressed) -> bytes:
    run = {"config_hash": "", "recipe": "test"}
    compressed.save(folder, run=run)
    return b"".join((folder / name).read_bytes() for name in ("model.safetensors", "manifest.json"))


@pytest.mark.parametrize("name", RECIPES)
def test_one_at_a_time_gives_the_bytes_of_all_at_once(
    name: str,
    make_tiny_backbone: Callable[[], Backbone],
    tiny_data: PairData,
    tmp_path: Path,
) -> None:
    files = []
    for how in ("bake", "finalize"):
        backbone, recipe = make_tiny_backbone(), Recipe(RECIPES[name]())
        compressed = recipe.apply(backbone, tiny_data.calibration_dataloader())
        getattr(compressed, how)()
        files.append(save(tmp_path / how, compressed))
    assert files[0] == files[1]


def test_weights_leave_the_model_and_can_return(
    make_tiny_backbone: Callable[[], Backbone], tiny_data: PairData
) -> None:
    (backbone, recipe), (other, again) = (
        (make_tiny_backbone(), Recipe({"int4": Integer(bits=4)})) for _ in range(2)
    )
    compressed = recipe.apply(backbone, [])
    baked, finalized = compressed.bake(), again.apply(other, []).finalize()
    parameters = dict(backbone.model.named_parameters())
    assert {name for name, p in parameters.items() if p.is_meta} == set(baked) == set(finalized)
    assert torch.equal(baked[EMBEDDING].weight, other.model.state_dict()[EMBEDDING])
    assert all(encoding.weight is None for encoding in finalized.values())
    put_back(backbone.model, baked)
    for key, tensor in other.model.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[key], tensor), key
    assert all(p.requires_grad for p in backbone.model.parameters())


def test_a_weight_is_computed_when_its_encoding_is_asked_for() -> None:
    backbone = MLP(hidden=(1024,))
    dense = copy.deepcopy(backbone)
    layer, recipe = backbone.model["hidden"][0], Recipe({"int8": Integer(bits=8)})
    encoding = recipe.apply(backbone, []).bake()["hidden.0.weight"]
    assert layer.weight.is_meta
    scale, weight = encoding.tensors["scale"].float(), dense.model["hidden"][0].weight
    torch.testing.assert_close(encoding.weight, weight, rtol=0, atol=float(scale.max()) / 1.99)

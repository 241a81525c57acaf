"""Recipes on weights and inputs that real models have and textbooks leave out.

What comes out is finite and is read back bit for bit, or a sentence says why there is nothing.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.steps import Compensates
from mmcompress.search.budget import Budget
from mmcompress.search.planning import search
from mmcompress.testing.contract import RECIPES, build_recipe
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.family import batch_of
from mmcompress.testing.zoo.hf import build_clip
from tests.conftest import store

IMAGE, TEXT = "vision_model.encoder.layers", "text_model.encoder.layers"
PLACES = [
    f"{IMAGE}.0.mlp.fc1.weight",
    f"{TEXT}.1.mlp.fc2.weight",
    f"{TEXT}.0.self_attn.q_proj.weight",
    f"{IMAGE}.1.self_attn.v_proj.weight",
    f"{TEXT}.1.self_attn.out_proj.weight",
    "text_model.embeddings.token_embedding.weight",
    "vision_model.embeddings.patch_embedding.weight",
    "visual_projection.weight",
]
"""A weight of each kind."""


def places(model: nn.Module) -> list[Tensor]:
    return [model.state_dict()[key] for key in PLACES]


def norms(model: nn.Module) -> list[nn.LayerNorm]:
    """Those in blocks."""
    named = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.LayerNorm))
    return [norm for name, norm in named if ".layers." in name]


def zero_rows(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter[::3] = 0


def zero_weights(model: nn.Module) -> None:
    for weight in places(model):
        weight.zero_()


def constant_weights(model: nn.Module) -> None:
    for weight, value in zip(places(model), [0.02, -0.02] * 4, strict=True):
        weight.fill_(value)


def outlier(model: nn.Module, size: float) -> None:
    for weight, value in zip(places(model), [size, -size] * 4, strict=True):
        weight.view(-1)[7] = value


def tiny(model: nn.Module, factor: float) -> None:
    for name, parameter in model.named_parameters():
        if "encoder" in name and parameter.ndim > 1:
            parameter *= factor


def dead(model: nn.Module, inputs: slice) -> None:
    """What follows a norm reads nothing but zeros there."""
    for norm in norms(model):
        norm.weight[inputs], norm.bias[inputs] = 0, 0


KINDS: dict[str, Callable[[nn.Module], None]] = {
    "zero_rows": zero_rows,
    "zero_weights": zero_weights,
    "constant": constant_weights,
    "outlier_7e4": partial(outlier, size=7e4),  # float16 ends at 65504
    "outlier_3e7": partial(outlier, size=3e7),  # so does a step of 8 bits
    "tiny": partial(tiny, factor=1e-30),  # its squares are zero in float32
    "denormal": partial(tiny, factor=1e-41),
    "dead_inputs": partial(dead, inputs=slice(None)),
    "partly_dead_inputs": partial(dead, inputs=slice(20)),
    "one_item": lambda model: None,
}

OPTIONS = [
    "lowrank.weighting=asvd",
    "lowrank.weighting=fisher",
    "lowrank.weighting=none",
    "lowrank.sequential=true",
    "lowrank.rank_ratio=null lowrank.energy=0.5",
    "vq.row_scale=true",
    "vq.codebook_scope=weight",
    "entropy.per=row entropy.error_feedback=false",
    "binary.group_size=tensor binary.trained_scale=true",
    "ternary.rule=absmean",
    "lsq.start=mean lsq.group_size=tensor",
    "gptq.symmetric=false",
    "awq.symmetric=false",
    "hqq.bits=1",
    "wanda.pattern=2:4",
    "cluster.block_size=4",
    "dkm.block_size=4",
    "neurons.importance=activation",
    "neurons.importance=taylor",
    "heads.importance=obs",
    "heads.importance=magnitude heads.scope=global",
    "blocks.importance=obs",
]
"""Of recipes, that lead to other maths than their defaults."""

ONE_PAIR = {"qwt", "qwt_int4"}
"""Recipes that say how many pairs they need."""

SAMPLE = [
    ("outlier_7e4", "cluster"),
    ("outlier_7e4", "dkm"),
    ("outlier_7e4", "sharing"),
    ("outlier_7e4", "vq"),
    ("outlier_3e7", "binary"),
    ("outlier_3e7", "entropy"),
    ("outlier_3e7", "fixed_point"),
    ("outlier_3e7", "hashed_embedding"),
    ("outlier_3e7", "int8"),
    ("tiny", "vq"),
    ("dead_inputs", "lowrank"),
    ("dead_inputs", "lowrank_joint"),
    ("dead_inputs", "neurons"),
    ("zero_weights", "gptq"),
    ("one_item", "minivit_int4"),
]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return FAMILIES["hf/clip"].build(tmp_path_factory.mktemp("clip"))


def outputs(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([backbone.encode(m, batch[m]) for m in backbone.modalities])


def check(kind: str, recipe_name: str, dense: Backbone, folder: Path, *overrides: str) -> None:
    """Compress, store, load."""
    backbone = copy.deepcopy(dense)
    with torch.no_grad():
        KINDS[kind](backbone.model)
    batch = batch_of(backbone, 1 if kind == "one_item" else 8)
    assert outputs(backbone, batch).isfinite().all()
    recipe = build_recipe(recipe_name, *overrides, dense_dtype=None)
    made = recipe.apply(backbone, [batch])
    compressed = outputs(backbone.eval(), batch)
    store(folder, made)
    loaded = Artifact.load(folder).backbone
    state = loaded.model.state_dict()
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(state[key], tensor), key
        assert not tensor.is_floating_point() or tensor.isfinite().all(), key
    assert compressed.isfinite().all()
    assert torch.equal(outputs(loaded, batch), outputs(backbone, batch))


@pytest.mark.parametrize(("kind", "name"), SAMPLE)
def test_what_once_failed(kind: str, name: str, dense: Backbone, tmp_path: Path) -> None:
    check(kind, name, dense, tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe(kind: str, dense: Backbone, tmp_path: Path) -> None:
    for name in RECIPES:
        if kind == "one_item" and name in ONE_PAIR:
            with pytest.raises(ValueError, match=r"set data\.calibration_size to 5 at the"):
                check(kind, name, dense, tmp_path / name)
        else:
            check(kind, name, dense, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero_weights", "outlier_3e7", "tiny", "dead_inputs"])
def test_other_options(kind: str, dense: Backbone, tmp_path: Path) -> None:
    for index, options in enumerate(OPTIONS):
        overrides = [f"compression.steps.{option}" for option in options.split()]
        check(kind, options.split(".")[0], dense, tmp_path / str(index), *overrides)


NEEDLESS = [
    *["activations", "binary", "bitnet", "cluster", "cross_layer", "cross_tower", "deep", "dkm"],
    *["fixed_point", "float8", "hqq", "int2", "int4", "int8", "lsq", "magnitude"],
    *["magnitude_int4", "minivit", "minivit_int4", "movement", "none", "sharing", "ternary"],
    "w8a8",
]
"""Recipes that look at weights alone."""


@pytest.mark.parametrize("name", ["int8", "w8a8", "deep"])
def test_what_looks_at_weights_alone_runs_without_data(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = build_clip()
    build_recipe(name).apply(backbone, [])
    assert (
        caplog.messages[0] == "there are no calibration data, and no step of the recipe needs any"
    )
    caplog.clear()
    build_recipe(name).apply(build_clip(), [batch_of(backbone)])
    assert not any("calibration" in message for message in caplog.messages)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDLESS)
def test_all_that_look_at_weights_alone(name: str) -> None:
    build_recipe(name).apply(build_clip(), [])


def check_refuses(name: str) -> None:
    backbone, recipe = build_clip(), build_recipe(name)
    before = copy.deepcopy(backbone.state_dict())
    asking = ", ".join(
        s for s, step in recipe.steps.items() if step.needs or isinstance(step, Compensates)
    )
    expected = f"compression needs calibration data for {asking} and there are none: give"
    with pytest.raises(ValueError, match=expected):
        recipe.apply(backbone, [])
    assert all(torch.equal(tensor, before[k]) for k, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["wanda", "lowrank_int8", "heads", "qwt", "smoothquant"])
def test_what_decides_by_data_asks_for_them(name: str) -> None:
    check_refuses(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(NEEDLESS)))
def test_all_others_ask_for_data(name: str) -> None:
    check_refuses(name)


def test_a_budget_needs_calibration_data() -> None:
    with pytest.raises(ValueError, match="needs calibration data for budget and there are none"):
        search(build_recipe("int8"), Budget(ratio=5), build_clip(), [])


@torch.no_grad()
def test_calibration_beyond_float32_names_the_weight() -> None:
    """A finite model whose hidden values have squares that are not."""
    backbone = build_clip()
    state = backbone.model.state_dict()
    state[f"{IMAGE}.0.mlp.fc1.weight"].mul_(1e22)
    state[f"{IMAGE}.0.mlp.fc2.weight"].mul_(1e-22)
    batch = batch_of(backbone)
    assert outputs(backbone, batch).isfinite().all()
    with pytest.raises(ValueError, match=rf"^the inputs of {IMAGE}.0.mlp.fc2.weight are beyond"):
        build_recipe("wanda").apply(backbone, [batch])

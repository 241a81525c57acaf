import logging

import pytest
import torch
from torch.nn.utils import parametrize

from mmcompress.backbones.base import Backbone
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.codebook import Codebook
from mmcompress.data.base import PairData


def lowrank(**settings) -> LowRank:
    return LowRank(**({"rank_ratio": 0.25, "rank_multiple": 4, "weighting": "none"} | settings))


def test_selectors_pick_by_modality_role_and_granularity(tiny_backbone: Backbone) -> None:
    targets = tiny_backbone.targets()
    ups = Integer(bits=8, role="mlp.*", modality="image").select(targets)
    # two layers, up and down
    assert [t.role for t in ups] == ["mlp.up", "mlp.down"] * 2
    assert {t.modality for t in ups} == {"image"}
    assert {t.granularity for t in Integer(bits=8, granularity="embedding").select(targets)} == {
        "embedding"
    }
    assert not any(t.role == "position" for t in Integer(bits=8).select(targets))
    assert Integer(bits=8, role="position").select(targets)


@pytest.mark.parametrize("modality", [None, "text"])
def test_selectors_that_spare(modality: str | None, tiny_backbone: Backbone) -> None:
    targets = tiny_backbone.targets()
    rest = Integer(bits=8, role="!embed", modality=modality).select(targets)
    every = Integer(bits=8, modality=modality).select(targets)
    assert rest == [t for t in every if t.role != "embed"] != every
    some = Integer(bits=8, role=["attn.*", "!attn.[qk]"], modality=modality).select(targets)
    assert {t.role for t in some} == {"attn.v", "attn.out"}
    with pytest.raises(ValueError, match=r"role='!embd' matched 0 of"):
        Integer(bits=8, role="!embd").select(targets)


def test_a_selector_without_a_match_lists_what_there_is(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"int8": Integer(bits=8, role=["mlp.*", "mpl.up"])})
    with pytest.raises(ValueError, match=r"steps.int8: role='mpl.up' matched 0 of .* mlp.down"):
        recipe.check(tiny_backbone)


def test_selectors_that_exclude_each_other(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"int8": Integer(bits=8, role="patch", modality="text")})
    with pytest.raises(ValueError, match=r"none of the .* passes"):
        recipe.check(tiny_backbone)


def test_illegal_order() -> None:
    with pytest.raises(ValueError, match="put structure before mask before values"):
        Recipe({"int8": Integer(bits=8), "lowrank": lowrank()})
    with pytest.raises(ValueError, match="put structure before mask before values"):
        Recipe({"int8": Integer(bits=8), "magnitude": Magnitude(sparsity=0.5)})


def test_two_steps_cannot_store_one_weight(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"a": Integer(bits=8, role="mlp.*"), "b": Codebook(clusters=4)})
    with pytest.raises(ValueError, match="steps a and b both store the values of"):
        recipe.check(tiny_backbone)
    apart = {"a": Integer(bits=8, role="mlp.*"), "b": Codebook(clusters=4, role="attn.*")}
    Recipe(apart).check(tiny_backbone)


def test_rows_cannot_be_shared_after_pruning(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"a": Magnitude(sparsity=0.5), "b": Codebook(clusters=4, block_size=4)})
    with pytest.raises(ValueError, match="cannot keep the zeros"):
        recipe.check(tiny_backbone)


def test_tied_weights_are_not_torn_apart(tiny_backbone: Backbone) -> None:
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight
    with pytest.raises(ValueError, match="is tied to"):
        Recipe({"int8": Integer(bits=8)}).check(tiny_backbone)
    Recipe({"int8": Integer(bits=8, modality="text")}).check(tiny_backbone)


def test_a_step_that_compresses_nothing(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"lowrank": lowrank(rank_ratio=1.0)})
    with pytest.raises(ValueError, match=r"would compress none of its .* would not shrink"):
        recipe.apply(tiny_backbone, [])


def test_a_null_step_is_left_out() -> None:
    assert list(Recipe({"a": None, "b": Integer(bits=8)}).steps) == ["b"]


def test_dense_dtype_rounds_the_remainder_and_only_it(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    recipe = Recipe({"int8": Integer(bits=8)}, dense_dtype="float16")
    compressed = recipe.apply(tiny_backbone, [])
    encodings = compressed.finalize()
    for key, tensor in tiny_backbone.model.state_dict().items():
        if tensor.is_floating_point():
            exact = torch.equal(tensor.half().float(), tensor)
            assert exact == (key not in encodings), key
    with pytest.raises(ValueError, match="dense_dtype='int8' must be one of"):
        Recipe(dense_dtype="int8")


def test_a_module_that_two_places_share_is_baked_once(tiny_backbone: Backbone) -> None:
    """In float16 too: the second name of an encoded weight is no dense tensor."""
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1].mlp = layers[0].mlp
    recipe = Recipe({"int8": Integer(bits=8)}, dense_dtype="float16")
    compressed = recipe.apply(tiny_backbone, [])
    encodings = compressed.finalize()
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in encodings
    assert "vision_model.encoder.layers.1.mlp.fc1.weight" not in encodings
    bias = layers[1].mlp.fc1.bias
    assert torch.equal(bias, bias.half().float())


def test_coverage_structure_and_reasons(tiny_backbone: Backbone) -> None:
    total = sum(p.numel() for p in tiny_backbone.parameters())
    recipe = Recipe({"lowrank": lowrank(role=["mlp.up", "attn.q"], rank_ratio=0.45)})
    compressed = recipe.apply(tiny_backbone, [])
    # rank 12 of 32: 12·(64 + 32) < 64·32, and 12·64 < 32·32; two layers in two towers
    assert compressed.coverage["lowrank"] == pytest.approx(4 * (64 * 32 + 32 * 32) / total)
    (edit,) = compressed.structure()
    assert (edit["step"], edit["edit"], edit["version"]) == ("lowrank", "lowrank", 1)
    assert len(edit["modules"]) == 8
    assert set(map(str, edit["modules"].values())) == {"{'rank': 12}"}
    assert compressed.reasons() == {}


def test_reasons_name_the_step(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"lowrank": lowrank(role=["mlp.up", "attn.q"], rank_ratio=0.625)})
    compressed = recipe.apply(tiny_backbone, [])
    # rank 20: 20·96 < 2,048, but 20·64 > 1,024
    reasons = compressed.reasons()
    assert len(reasons) == 4
    assert all("q_proj" in key for key in reasons)
    assert all(r.startswith("lowrank: rank 20 would not shrink 32x32") for r in reasons.values())
    assert sum(LEFT_DENSE in d for d in compressed.plan["lowrank"].values()) == 4


def test_factors_of_a_layer_are_targets_of_the_next_step(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"lowrank": lowrank(role="mlp.up"), "int8": Integer(bits=8, role="mlp.up")})
    compressed = recipe.apply(tiny_backbone, [])
    names = sorted(key.split("layers.")[1] for key in compressed.plan["int8"] if "vision" in key)
    assert names == [f"{i}.mlp.fc1.{factor}.weight" for i in (0, 1) for factor in "uv"]


def test_finalize_leaves_ordinary_modules_and_no_negative_zero(tiny_backbone: Backbone) -> None:
    recipe = Recipe({"magnitude": Magnitude(sparsity=0.5)})
    compressed = recipe.apply(tiny_backbone, [])
    encodings = compressed.finalize()
    assert not any(parametrize.is_parametrized(m) for m in tiny_backbone.modules())
    assert all(p.requires_grad for p in tiny_backbone.parameters())
    state = tiny_backbone.model.state_dict()
    for key, encoding in encodings.items():
        assert encoding.steps == ["magnitude"]
        assert encoding.mask is not None
        assert torch.equal(encoding.mask, state[key] != 0)
        zeros = state[key][state[key] == 0]
        assert len(zeros) == round(0.5 * state[key].numel())
        assert not torch.signbit(zeros).any()


def test_no_speedup_of_stacks() -> None:
    assert Recipe({"lowrank": lowrank(), "int8": Integer(bits=8)}).no_speedup is None
    both = Recipe({"m": Magnitude(sparsity=0.5), "q": Integer(bits=8)}).no_speedup
    assert both is not None
    assert "mask" in both
    assert "decoded" in both
    assert Recipe().no_speedup == "nothing was compressed"


def test_a_tower_that_is_left_alone_is_said(
    tiny_backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = Recipe({"text": Magnitude(sparsity=0.5, modality="text"), "all": Integer(bits=8)})
    compressed = recipe.apply(tiny_backbone, [])
    compressed.log_coverage()
    said = {line.split(":")[0]: line for line in caplog.messages}
    assert said["text"].endswith("targets, none in image")
    assert "none" not in said["all"]
    assert compressed.untouched == {"text": ["image"], "all": []}

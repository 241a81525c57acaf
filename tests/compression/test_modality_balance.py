"""Tokens that count by their modality, or by themselves, when a layer is calibrated."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.compression.calibration import collect
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.modality_balance import WeighsTokens, token_weights
from mmcompress.compression.pruning.wanda import Wanda
from mmcompress.compression.quantization.awq import AWQ
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.recipe import Recipe
from mmcompress.functional.tokens import IMAGE, PADDING, TEXT
from mmcompress.testing.zoo.family import examples_for
from mmcompress.testing.zoo.vlm import build_vlm

NAME = "layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def backbone() -> HFVlm:
    return build_vlm("smolvlm")


@pytest.fixture(scope="module")
def batches(backbone: HFVlm) -> list[Any]:
    examples = examples_for(backbone, 6)
    return [backbone.prepare(examples[:2]), backbone.prepare(examples[2:])]


def slow_magnitudes(backbone: HFVlm, batch: Any, path: str) -> Tensor:
    """(B, L): how far the loss moves with each number that is added to the layer's output, one
    token at a time."""
    module = backbone.model.get_submodule(path)
    rows, length = batch["token_kind"].shape
    found = torch.zeros(rows, length)
    for row in range(rows):
        for token in range(length):
            added = torch.zeros(module.out_features, requires_grad=True)
            handle = module.register_forward_hook(partial(add_at, row, token, added))
            backbone.loss(batch).backward(inputs=[added])
            handle.remove()
            found[row, token] = added.grad.abs().mean()
    return found


def add_at(row: int, token: int, added: Tensor, _: Any, __: Any, output: Tensor) -> Tensor:
    output = output.clone()
    output[row, token] = output[row, token] + added
    return output


def keep(seen: list[Tensor], _: Any, args: tuple[Tensor, ...]) -> None:
    seen.append(args[0].detach())


def target_of(backbone: HFVlm, name: str = NAME) -> Any:
    (found,) = [t for t in backbone.targets() if t.name.endswith(f"text_model.{name}")]
    return found


def test_weights_are_gradients_of_each_token(backbone) -> None:
    small = backbone.prepare(examples_for(backbone, 2))
    target = target_of(backbone)
    slow = slow_magnitudes(backbone, small, target.module)
    weights = token_weights(backbone, [small], [target], "vlmq")(small)[target.name]
    content = small["token_kind"] != PADDING
    expected = slow * content.sum() / slow[content].sum()
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


def test_moments_are_sums_over_weighted_tokens(backbone, batches) -> None:
    target = target_of(backbone)
    for balance in ("mbq", "vlmq"):
        weigh = token_weights(backbone, batches, [target], balance)
        seen: list[Tensor] = []
        module = backbone.model.get_submodule(target.module)
        handle = module.register_forward_pre_hook(partial(keep, seen))
        expected = torch.zeros(module.in_features, module.in_features)
        mean = torch.zeros(module.in_features)
        tokens = 0
        for batch in batches:
            weights = weigh(batch)[target.name]
            seen.clear()
            with torch.no_grad():
                backbone.answer_logits(batch)
            for x, w, kind in zip(
                seen[0].flatten(0, 1), weights.flatten(), batch["token_kind"].flatten(), strict=True
            ):
                if kind != PADDING:
                    expected += w * torch.outer(x, x)
                    mean += w * x.abs()
                    tokens += 1
        handle.remove()
        found = collect(backbone, batches, [target], [f"inputs_{balance}"])[target.name]
        inputs = found.inputs_by(balance)
        torch.testing.assert_close(inputs.second_moment, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inputs.abs_mean, mean / tokens, rtol=1e-4, atol=1e-5)
        assert inputs.tokens == tokens


def test_tokens_of_one_modality_weigh_alike_and_one_on_the_whole(backbone, batches) -> None:
    target = target_of(backbone)
    weigh = token_weights(backbone, batches, [target], "mbq")
    kinds = torch.cat([batch["token_kind"].flatten() for batch in batches])
    weights = torch.cat([weigh(batch)[target.name].flatten() for batch in batches])
    of_image, of_text = (weights[kinds == kind].unique() for kind in (IMAGE, TEXT))
    assert len(of_image) == len(of_text) == 1
    assert of_image != of_text
    assert weights[kinds != PADDING].mean() == pytest.approx(1)
    alone = token_weights(backbone, batches, [target], "vlmq")
    for batch in batches:
        of_tokens = alone(batch)[target.name]
        assert of_tokens[batch["token_kind"] != PADDING].mean() == pytest.approx(1)
        assert len(of_tokens.unique()) > 4


def test_a_layer_of_the_image_tower_has_no_sequence_to_balance(backbone, batches) -> None:
    """It counts as it does without."""
    (target,) = [
        t for t in backbone.targets() if t.name.endswith("encoder.layers.0.mlp.fc1.weight")
    ]
    assert token_weights(backbone, batches, [target], "mbq")(batches[0]) == {}
    plain, balanced = (
        collect(backbone, batches, [target], [need])[target.name]
        for need in ("inputs", "inputs_mbq")
    )
    assert torch.equal(
        plain.inputs_by("none").second_moment, balanced.inputs_by("mbq").second_moment
    )


STEPS: list[tuple[type[WeighsTokens], dict[str, Any]]] = [
    (GPTQ, {"bits": 3}),
    (AWQ, {"bits": 3}),
    (LowRank, {"rank_ratio": 0.25}),
    (Wanda, {"sparsity": 0.5}),
]


@pytest.mark.parametrize(
    ("kind", "settings"), STEPS, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_method_makes_another_model_of_weighted_tokens(kind, settings, batches) -> None:
    """And less error where tokens weigh more: that of the loss's gradient."""
    made = {}
    for balance in ("none", "mbq", "vlmq"):
        step = kind(**settings, modality_balance=balance, part="language_model", role="mlp.*")
        assert step.varied(modality_balance="none").modality_balance == "none"
        compressed = Recipe({"step": step}).apply(build_vlm("smolvlm"), batches)
        decisions = list(compressed.plan["step"].values())
        assert all(d.get("modality_balance", "none") == balance for d in decisions)
        compressed.finalize()
        made[balance] = compressed.backbone.answer_logits(batches[0])[0].detach()
    assert not torch.allclose(made["none"], made["mbq"])
    assert not torch.allclose(made["none"], made["vlmq"])
    assert not torch.allclose(made["mbq"], made["vlmq"])


@pytest.mark.parametrize(
    ("kind", "settings"), STEPS, ids=lambda value: getattr(value, "__name__", "")
)
def test_refused_where_no_sequence_mixes_modalities(kind, settings, tiny_backbone) -> None:
    with pytest.raises(ValueError, match="modality_balance=mbq weighs the tokens of images and"):
        Recipe({"step": kind(**settings, modality_balance="mbq")}).check(tiny_backbone)
    with pytest.raises(ValueError, match="must be one of none, mbq, vlmq"):
        kind(**settings, modality_balance="mbqq")

"""What calibration sees, against slow loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.calibration import (
    PERTURBATION,
    collect_gradients,
    collect_inputs,
    collect_loss_changes,
)
from mmcompress.compression.statistics import InputStatistic, input_statistic
from mmcompress.data.base import PairData
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.hessian import inverse_cholesky

FC1 = "encoder.layers.0.mlp.fc1"


def inputs_of(backbone: HFClip, module: str, modality: str, batch: dict[str, Tensor]) -> Tensor:
    seen = []
    layer = backbone.model.get_submodule(module)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        backbone.encode(modality, batch[modality])
    handle.remove()
    (x,) = seen
    return x


def slow_moment(rows: Tensor) -> Tensor:
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for row in rows.double():
        total += torch.outer(row, row)
    return total.float()


def target(backbone: HFClip, name: str) -> Target:
    (found,) = [t for t in backbone.targets() if t.name == name]
    return found


def test_second_moment_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    seen = input_statistic(nn.Linear(2, 1), x, None)
    assert seen.second_moment.tolist() == [[10.0, 14.0], [14.0, 20.0]]
    assert seen.tokens == 2
    seen = input_statistic(nn.Linear(2, 1), x, torch.tensor([[True, False]]))
    assert seen.second_moment.tolist() == [[1.0, 2.0], [2.0, 4.0]]
    assert seen.tokens == 1


def test_embeddings_count_how_often_each_row_is_read():
    ids = torch.tensor([[0, 3, 3], [1, 2, 2]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    seen = input_statistic(nn.Embedding(5, 4), ids, valid)
    assert seen.second_moment.tolist() == [1.0, 1.0, 0.0, 2.0, 0.0]
    assert seen.tokens == 4
    # Position ids have no batch dimension: the mask of the batch says nothing about them.
    seen = input_statistic(nn.Embedding(3, 4), torch.arange(3)[None], valid)
    assert seen.second_moment.tolist() == [1.0, 1.0, 1.0]


def test_half_precision_inputs_are_summed_in_float32():
    x = torch.full((1, 1000, 2), 0.1, dtype=torch.bfloat16)
    seen = input_statistic(nn.Linear(2, 1), x, None)
    assert seen.second_moment.dtype == torch.float32
    # 1,000 float32 additions; in bfloat16 the sum would stop growing below 4.
    expected = torch.full((2, 2), 1000 * x[0, 0, 0].item() ** 2)
    torch.testing.assert_close(seen.second_moment, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 4, "stride": 4},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "dilation": 2},
        {"kernel_size": 3, "padding": "valid"},
    ],
)
def test_a_convolution_is_a_linear_layer_on_patches(options: dict):
    """The moment M gives the output's energy: Σ (w · patch)² = w M wᵀ for each filter w."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, bias=False, **options), torch.randn(2, 3, 8, 9)
    seen = input_statistic(conv, x, None)
    with torch.no_grad():
        output, weight = conv(x), conv.weight.flatten(1)  # O C·kh·kw
    energy = torch.einsum("oi,ij,oj->o", weight.detach(), seen.second_moment, weight.detach())
    torch.testing.assert_close(energy, output.square().sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert seen.tokens == output[:, 0].numel()


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "dilation": 3},
        {"kernel_size": 3, "padding": "valid"},
    ],
)
def test_a_convolution_of_sound_is_one_too(options: dict):
    torch.manual_seed(0)
    conv, x = nn.Conv1d(3, 5, bias=False, **options), torch.randn(2, 3, 11)
    seen = input_statistic(conv, x, None)
    with torch.no_grad():
        output, weight = conv(x), conv.weight.flatten(1)  # O C·k
    energy = torch.einsum("oi,ij,oj->o", weight.detach(), seen.second_moment, weight.detach())
    torch.testing.assert_close(energy, output.square().sum(dim=(0, 2)), rtol=1e-4, atol=1e-4)
    assert seen.tokens == output[:, 0].numel()


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}]
)
def test_convolutions_that_are_refused(options: dict):
    with pytest.raises(ValueError, match=r"statistics of Conv2d.* not supported"):
        input_statistic(nn.Conv2d(4, 4, 3, **options), torch.randn(1, 4, 8, 8), None)


@pytest.mark.parametrize(("tower", "modality"), [("vision_model", "image"), ("text_model", "text")])
def test_collect_equals_a_slow_loop_without_padding(
    tiny_backbone: HFClip, tiny_data: PairData, tower: str, modality: str
):
    found_target = target(tiny_backbone, f"{tower}.{FC1}.weight")
    batches = [
        {
            "image": batch["image"],
            "text": tiny_backbone.tokenize(["red", "red cat", "a b c d"] + ["x"] * 5),
        }
        for batch in tiny_data.calibration_dataloader()
    ]
    rows = []
    for batch in batches:
        x = inputs_of(tiny_backbone, found_target.module, modality, batch)
        for i in range(len(x)):
            length = x.shape[1] if modality == "image" else [3, 4, 6, 3, 3, 3, 3, 3][i]
            rows.extend(x[i, :length])
    found = collect_inputs(tiny_backbone, batches, [found_target])[found_target.name]
    assert found.tokens == len(rows)
    # float32 sums of some hundred products, here in another order
    torch.testing.assert_close(
        found.second_moment, slow_moment(torch.stack(rows)), rtol=1e-4, atol=1e-4
    )


def test_collect_counts_words(tiny_backbone: HFClip):
    texts = ["red cat", "red dog tree"]
    batch = {"image": torch.zeros(1, 3, 32, 32), "text": tiny_backbone.tokenize(texts)}
    embed = target(tiny_backbone, "text_model.embeddings.token_embedding.weight")
    found = collect_inputs(tiny_backbone, [batch, batch], [embed])[embed.name]
    vocabulary = tiny_backbone.tokenizer.get_vocab()
    expected = torch.zeros(len(vocabulary))
    for word, count in {"<bos>": 4, "<eos>": 4, "red": 4, "cat": 2, "dog": 2, "tree": 2}.items():
        expected[vocabulary[word]] = count
    assert torch.equal(found.second_moment, expected)  # no padding
    assert found.tokens == 18


def test_collect_does_not_depend_on_the_batching(tiny_backbone: HFClip, tiny_data: PairData):
    targets = tiny_backbone.targets()
    once = collect_inputs(tiny_backbone, list(tiny_data.calibration_dataloader()), targets)
    tiny_data.eval_batch_size = 3
    split = collect_inputs(tiny_backbone, list(tiny_data.calibration_dataloader()), targets)
    assert set(once) == set(split) == {t.name for t in targets if t.granularity != "matrix"}
    for name in once:
        if "position_embedding" in name:  # read once per batch
            continue
        assert once[name].tokens == split[name].tokens
        # float32 sums in another order
        torch.testing.assert_close(
            once[name].second_moment, split[name].second_moment, rtol=1e-3, atol=1e-3
        )


def test_collect_leaves_the_backbone_as_it_was(tiny_backbone: HFClip, tiny_data: PairData):
    state = {name: tensor.clone() for name, tensor in tiny_backbone.state_dict().items()}
    tiny_backbone.train()
    collect_inputs(tiny_backbone, list(tiny_data.calibration_dataloader()), tiny_backbone.targets())
    assert tiny_backbone.training
    for module in tiny_backbone.modules():
        assert not module._forward_pre_hooks
    for name, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert all(parameter.grad is None for parameter in tiny_backbone.parameters())


def test_only_the_towers_that_are_asked_for_run(tiny_backbone: HFClip, tiny_data: PairData):
    ran = []
    tiny_backbone.model.text_model.register_forward_hook(lambda *_: ran.append("text"))
    found_target = target(tiny_backbone, f"vision_model.{FC1}.weight")
    collect_inputs(tiny_backbone, list(tiny_data.calibration_dataloader()), [found_target])
    assert ran == []


def unused_layer(backbone: HFClip) -> list[Target]:
    backbone.model.vision_model.add_module("spare", nn.Linear(4, 4))
    return [Target("vision_model.spare", "weight", "image", "mlp.up", "linear")]


def all_targets(backbone: HFClip) -> list[Target]:
    return backbone.targets()


@pytest.mark.parametrize(("targets", "batches"), [(unused_layer, None), (all_targets, [])])
def test_a_target_that_sees_nothing_is_an_error(
    tiny_backbone: HFClip,
    tiny_data: PairData,
    targets: Callable[[HFClip], list[Target]],
    batches: list | None,
):
    wanted = targets(tiny_backbone)
    batches = list(tiny_data.calibration_dataloader()) if batches is None else batches
    with pytest.raises(ValueError, match=f"{wanted[0].name} saw no calibration sample.* selector"):
        collect_inputs(tiny_backbone, batches, wanted)
    assert not any(module._forward_pre_hooks for module in tiny_backbone.modules())


def test_magnitudes_by_hand():
    x = torch.tensor([[[1.0, -2.0], [-3.0, 4.0], [9.0, 9.0]]])
    seen = input_statistic(nn.Linear(2, 1), x, torch.tensor([[True, True, False]]))
    assert seen.abs_mean.tolist() == [4.0, 6.0]  # sums, until all batches are in
    assert seen.abs_max.tolist() == [3.0, 4.0]


def test_means_are_over_all_tokens(tiny_backbone: HFClip, tiny_data: PairData):
    found_target = target(tiny_backbone, f"vision_model.{FC1}.weight")
    batches = list(tiny_data.calibration_dataloader())
    rows = torch.cat(
        [inputs_of(tiny_backbone, found_target.module, "image", b).flatten(0, 1) for b in batches]
    )
    found = collect_inputs(tiny_backbone, batches, [found_target])[found_target.name]
    torch.testing.assert_close(found.abs_mean, rows.abs().mean(dim=0))
    torch.testing.assert_close(found.abs_max, rows.abs().amax(dim=0))


def test_projections_that_read_one_tensor_share_one_statistic(
    tiny_backbone: HFClip, tiny_data: PairData
):
    layer = "vision_model.encoder.layers.0"
    names = [f"{layer}.self_attn.{p}_proj.weight" for p in "qkv"] + [f"{layer}.mlp.fc1.weight"]
    batches = list(tiny_data.calibration_dataloader())
    found = collect_inputs(tiny_backbone, batches, [target(tiny_backbone, n) for n in names])
    q, k, v, up = (found[name] for name in names)
    assert q is k is v
    assert up is not q
    alone = collect_inputs(tiny_backbone, batches, [target(tiny_backbone, names[2])])[names[2]]
    torch.testing.assert_close(v.second_moment, alone.second_moment)
    torch.testing.assert_close(v.abs_mean, alone.abs_mean)


def test_gradients_equal_backward(tiny_backbone: HFClip, tiny_data: PairData):
    found_target = target(tiny_backbone, f"text_model.{FC1}.weight")
    batches = list(tiny_data.calibration_dataloader())
    gradients = []
    for batch in batches:
        pair = [tiny_backbone.encode(m, batch[m]) for m in tiny_backbone.modalities]
        tiny_backbone.zero_grad()
        contrastive_loss(*pair, tiny_backbone.logit_scale).backward()
        gradients.append(tiny_backbone.model.get_parameter(found_target.name).grad)
    stacked = torch.stack([g.clone() for g in gradients])
    tiny_backbone.requires_grad_(False)
    (found,) = collect_gradients(tiny_backbone, batches, [found_target]).values()
    torch.testing.assert_close(found.mean, stacked.mean(dim=0))
    torch.testing.assert_close(found.squared, stacked.square().mean(dim=0))
    assert not any(p.requires_grad for p in tiny_backbone.parameters())


def test_loss_changes_equal_a_slow_loop(tiny_backbone: HFClip, tiny_data: PairData):
    names = [f"{tower}_model.{FC1}.weight" for tower in ("text", "vision")]
    batches = list(tiny_data.calibration_dataloader())
    generator = torch.Generator().manual_seed(7)
    expected = []
    for name in names:
        weight = tiny_backbone.model.get_parameter(name)
        noise, dense = torch.randn(weight.shape, generator=generator), weight.detach().clone()
        changes = []
        for batch in batches:
            losses = []
            for sign in (1, -1):
                weight.data = dense + sign * PERTURBATION * noise
                pair = [tiny_backbone.encode(m, batch[m]) for m in ("image", "text")]
                losses.append(contrastive_loss(*pair, tiny_backbone.logit_scale).item())
            changes.append(abs(losses[0] - losses[1]) / (2 * PERTURBATION))
        weight.data = dense
        expected.append(sum(changes) / len(changes))
    before = {k: v.clone() for k, v in tiny_backbone.state_dict().items()}
    targets = [target(tiny_backbone, name) for name in names]
    found = collect_loss_changes(tiny_backbone, batches, targets, seed=7)
    # a difference of float32 losses over 2ε
    assert list(found.values()) == pytest.approx(expected, abs=1e-3)
    assert min(expected) > 0.01
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_loss_changes_follow_the_gradient(tiny_backbone: HFClip, tiny_data: PairData):
    """To first order the change is |g · z|, whose mean square over z is the gradient's energy."""
    found_target = target(tiny_backbone, f"text_model.{FC1}.weight")
    batches = list(tiny_data.calibration_dataloader())[:1]
    (gradient,) = collect_gradients(tiny_backbone, batches, [found_target]).values()
    draws = [
        collect_loss_changes(tiny_backbone, batches, [found_target], seed=seed)[found_target.name]
        for seed in range(40)
    ]
    rms = (sum(d**2 for d in draws) / len(draws)) ** 0.5
    assert rms == pytest.approx(gradient.mean.norm().item(), rel=0.4)  # 40 draws: ± 11 %


def test_one_factor_serves_the_weights_that_share_a_statistic() -> None:
    """It is made once for q, k and v, and goes when the next statistic asks."""
    layer, x = nn.Linear(4, 4), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    seen, other = input_statistic(layer, x, None), input_statistic(layer, 2 * x, None)
    other.last_factor = seen.last_factor
    factor = seen.inverse_cholesky()
    assert torch.equal(factor, inverse_cholesky(seen.second_moment))
    assert seen.inverse_cholesky() is factor
    assert not torch.equal(seen.inverse_cholesky(damping=0.1), factor)
    again = seen.inverse_cholesky()
    assert torch.equal(again, factor)
    other.inverse_cholesky()
    assert seen.inverse_cholesky() is not again, "only the last one is kept"


def test_a_factor_in_the_order_of_falling_moments() -> None:
    seen = InputStatistic(torch.diag(torch.tensor([1.0, 4.0, 9.0])), *[torch.ones(3)] * 2, 1)
    assert seen.falling_order().tolist() == [2, 1, 0]
    roots = seen.inverse_cholesky(damping=1e-9, act_order=True).diagonal()
    torch.testing.assert_close(roots, torch.tensor([1 / 3, 1 / 2, 1.0]))
    assert seen.inverse_cholesky(damping=1e-9).diagonal().tolist() != roots.tolist()


@pytest.mark.parametrize(("padding", "stride"), [(0, (2, 4, 4)), ((1, 2, 0), (1, 2, 3))])
def test_what_a_convolution_of_videos_reads(padding: Any, stride: tuple[int, ...]) -> None:
    """The second moment of its patches gives the sum of its squared outputs."""
    layer = nn.Conv3d(3, 5, (2, 4, 4), stride=stride, padding=padding, bias=False)
    x = torch.randn(2, 3, 4, 8, 12)
    found = input_statistic(layer, x, None)
    output = layer(x)
    assert found.tokens == output[:, 0].numel()
    weight = layer.weight.detach().flatten(1)
    sums = ((weight @ found.second_moment) * weight).sum(dim=1)
    torch.testing.assert_close(sums, output.detach().square().sum(dim=(0, 2, 3, 4)))

import copy

import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.quantization.activations import (
    Activations,
    smoothing_factors,
)
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import InputStatistic, Statistic
from mmcompress.modules.quantized_input import QuantizedInput, round_tokens


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_have_scales_of_their_own() -> None:
    x = torch.tensor([[[127.0, 3.4, -2.6], [1.27, 0.034, -0.026]], [[0.0, 0.0, 0.0], [1.0, 0, 0]]])
    expected = torch.tensor([[[127, 3, -3], [1.27, 0.03, -0.03]], [[0, 0, 0], [1, 0, 0]]])
    torch.testing.assert_close(round_tokens(x, 8), expected)


def test_gradient_passes_straight_through_and_dtype_is_kept() -> None:
    x = random(2, 5).requires_grad_()
    upstream = random(2, 5, seed=1)
    round_tokens(x, 4).backward(upstream)
    assert torch.equal(x.grad, upstream)
    assert round_tokens(x.detach().bfloat16(), 8).dtype == torch.bfloat16


def test_layer_equals_integer_arithmetic() -> None:
    """What a kernel would compute: int8 codes, int32 sums, then one scale per token and row."""
    layer, x = nn.Linear(16, 5), random(7, 16)
    steps = x.abs().amax(dim=1) / 127
    codes = [[round(v / float(s)) for v in row] for row, s in zip(x.tolist(), steps, strict=True)]
    rows = layer.weight.detach().abs().amax(dim=1) / 127
    weights = (layer.weight.detach() / rows[:, None]).round()
    sums = torch.tensor(codes) @ weights.int().T.long()
    expected = sums * steps[:, None] * rows + layer.bias.detach()
    layer.weight.data = weights * rows[:, None]
    torch.testing.assert_close(QuantizedInput(layer, bits=8)(x), expected, rtol=1e-4, atol=1e-5)


def test_smoothing_factors_of_the_paper() -> None:
    """arXiv:2211.10438, eq. 4, on numbers whose roots are whole."""
    weight = torch.tensor([[1.0, -4.0, 0.5], [-0.25, 1.0, 4.0]])
    assert smoothing_factors(torch.tensor([16.0, 4.0, 1.0]), weight, 0.5).tolist() == [4, 1, 0.5]
    assert smoothing_factors(torch.tensor([16.0, 4.0, 1.0]), weight, 1.0).tolist() == [16, 4, 1]


def test_smoothing_changes_nothing_but_the_rounding() -> None:
    layer, x = nn.Linear(16, 5), random(50, 16)
    x[:, 3] *= 60  # an outlier channel
    exact = layer(x).detach()
    plain = QuantizedInput(copy.deepcopy(layer), bits=8)
    inputs = InputStatistic(x.T @ x, x.abs().mean(dim=0), x.abs().amax(dim=0), len(x))
    decision = {"bits": 8, "smoothing": 0.5}
    smooth = Activations.apply(copy.deepcopy(layer), "weight", decision, Statistic(inputs=inputs))
    torch.testing.assert_close(smooth.linear(x / smooth.smoothing), exact, rtol=1e-4, atol=1e-4)
    assert (smooth(x) - exact).square().mean() < 0.2 * (plain(x) - exact).square().mean()


def test_later_steps_see_the_inner_layer_and_its_inputs(tiny_backbone, tiny_data) -> None:
    """Low rank goes inside; GPTQ's second moment is that of what the weight really reads."""
    recipe = Recipe(
        {
            "activations": Activations(bits=4, smoothing=0.5, role="mlp.*"),
            "lowrank": LowRank(rank_ratio=0.5, role="mlp.up"),
            "gptq": GPTQ(bits=4, role="mlp.*"),
        }
    )
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    plan = compressed.plan
    assert {key.split("mlp.")[1] for key in plan["gptq"]} == {
        "fc1.linear.u.weight",
        "fc1.linear.v.weight",
        "fc2.linear.weight",
    }
    for key in plan["activations"]:
        assert isinstance(
            tiny_backbone.model.get_submodule(key.removesuffix(".weight")), QuantizedInput
        )


def test_open_clip_reads_attributes_of_its_layers(tiny_open_clip) -> None:
    ids = tiny_open_clip.tokenize(["a cat"])
    before = tiny_open_clip.encode("text", ids)
    recipe = Recipe({"activations": Activations(bits=8), "int8": Integer(bits=8)})
    recipe.apply(tiny_open_clip, [])
    after = tiny_open_clip.encode("text", ids)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before, rtol=0, atol=0.05)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"smoothing=1.5 must lie in \[0, 1\]"):
        Activations(bits=8, smoothing=1.5)

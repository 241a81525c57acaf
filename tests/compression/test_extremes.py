"""The maths of single methods on extreme numbers: the right values, not just finite ones."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from mmcompress.compression.base import power_of_two_below
from mmcompress.compression.calibration import collect
from mmcompress.compression.lowrank.svd import LowRank, truncated_svd
from mmcompress.compression.pruning.structured import Structured
from mmcompress.compression.quantization.binary import Binarize, Binary
from mmcompress.compression.quantization.entropy import EntropyQuantize
from mmcompress.compression.quantization.fixed_point import FixedPoint, choose_fraction
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.hqq import half_quadratic
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.codebook import Lookup, rounded_entries
from mmcompress.compression.sharing.dkm import SoftClusters
from mmcompress.compression.sharing.hashed_embedding import alternating_least_squares
from mmcompress.compression.sharing.output_aware import Layer, fit
from mmcompress.compression.statistics import InputStatistic
from mmcompress.functional.hessian import damp
from mmcompress.testing.zoo.family import batch_of
from mmcompress.testing.zoo.hf import build_clip

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("largest", [3e38, 1.0, 0.75, 1e-30, 1e-45])
def test_the_unit_is_a_power_of_two_below_the_largest(largest: float) -> None:
    weight = torch.tensor([largest, -largest / 3, 0.0])
    unit = power_of_two_below([weight])
    assert 1 <= float(weight[0] / unit) < 2
    assert torch.equal(weight / unit * unit, weight)  # exact
    assert power_of_two_below([torch.zeros(3)]) == 1


def test_inputs_that_are_always_zero_weigh_as_the_identity() -> None:
    assert torch.equal(damp(torch.zeros(3, 3)), torch.eye(3).double())
    assert torch.equal(damp(torch.zeros(3)), torch.ones(3).double())
    assert torch.equal(
        damp(torch.diag(torch.tensor([2.0, 0.0])), 0.5).diagonal(), _double(2.5, 0.5)
    )


def _double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_low_rank_of_dead_inputs_is_the_plain_one(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    plain_u, plain_v = truncated_svd(weight, 3)
    for moment in (torch.zeros(shape[1], shape[1]), torch.zeros(shape[1])):
        u, v = truncated_svd(weight, 3, moment)
        torch.testing.assert_close(u @ v, plain_u @ plain_v)


@pytest.mark.parametrize("weighting", ["whiten", "asvd", "fisher"])
@torch.no_grad()
def test_low_rank_of_a_layer_after_a_dead_norm(weighting: str) -> None:
    """It gives what the plain decomposition gives."""
    backbones = [build_clip() for _ in range(2)]
    for backbone, of in zip(backbones, [weighting, "none"], strict=True):
        norm = backbone.model.vision_model.encoder.layers[0].layer_norm2
        norm.weight.zero_()
        norm.bias.zero_()
        step = LowRank(rank_ratio=0.34, weighting=of, modality="image", role="mlp.up")  # type: ignore[arg-type]
        with torch.enable_grad():
            Recipe({"lowrank": step}).apply(backbone, [batch_of(backbone)])
    found, plain = (b.model.vision_model.encoder.layers[0].mlp.fc1 for b in backbones)
    torch.testing.assert_close(found.u.weight @ found.v.weight, plain.u.weight @ plain.v.weight)


@torch.no_grad()
def test_codebooks_hold_what_float16_cannot() -> None:
    """An outlier is an entry of its own, as it is."""
    weight = random(16, 32).mul_(0.1)
    weight[3, 5] = 7e4
    found = Lookup(weight, clusters=16, block_size=1, seed=0)
    assert float(found(weight)[3, 5]) == 7e4
    soft = SoftClusters(weight, clusters=16, block_size=1, seed=0).eval()
    assert float(soft(weight)[3, 5]) == 7e4
    ordinary = random(4, 1)
    assert torch.equal(rounded_entries(ordinary), ordinary.half().float())
    tiny = 1e-12 * random(4, 1)
    assert torch.equal(rounded_entries(tiny), tiny)


def test_one_bit_of_large_weights_is_stored_as_it_is_used() -> None:
    """α ends at float16's largest number; the two levels are twice that apart."""
    weight = torch.full((2, 32), 3e6)
    weight[:, ::2] *= -1
    binary = Binarize(weight, group_size=32, per_tensor=False, trained_scale=False)
    baked = binary(weight)
    assert torch.equal(baked, 65504 * weight.sign())
    encoding = Binary().finalize(binary, baked)
    assert encoding.tensors["scale"].tolist() == [[131008.0], [131008.0]]


@torch.no_grad()
def test_a_wide_step_is_not_infinite() -> None:
    weight = random(8, 8)
    weight[0, 0] = 3e7
    step = float(weight.square().mean().sqrt())  # 3e7 / 8
    fake = EntropyQuantize(weight, step=1.0, per_row=False, rounding=0.5)
    assert float(fake.scale()) == pytest.approx(step, rel=1e-6)
    baked = fake(weight)
    assert float(baked[0, 0]) == pytest.approx(8 * step, rel=1e-6)
    assert not baked.flatten()[1:].any()


def test_fixed_point_of_large_weights() -> None:
    """3e7 / 2^18 is 114.4, of at most 127."""
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[3e7, 0.0, 2.0**18, 1.0], [0.0, 0.0, 0.0, -3e7]])
    n = choose_fraction(layer.weight.detach(), 8)
    assert n == -18
    fake = FixedPoint.apply(layer, "weight", {"bits": 8, "fraction": n})
    found = fake(layer.weight)
    assert torch.equal(found, 2.0**18 * torch.tensor([[114.0, 0, 1, 0], [0, 0, 0, -114]]))


def test_real_zero_points_are_not_infinite() -> None:
    scale, zero = half_quadratic(torch.tensor([[1e12, -1e12] * 16]), Grid(4, 32, symmetric=False))
    assert scale.isfinite().all()
    assert zero.isfinite().all()


@pytest.mark.parametrize("unit", [2.0**60, 2.0**-60])
def test_vector_quantization_knows_no_unit(unit: float) -> None:
    """Weights in other units give the same entries, in these units."""
    weights = [random(16, 8, seed=1), random(8, 8, seed=2)]
    moment = random(8, 8, seed=3)
    moment = moment @ moment.T

    def fitted(factor: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        ones = [(torch.ones(len(w)), torch.ones(len(w), 1).half()) for w in weights]
        inputs = InputStatistic(moment, moment[0], moment[0], 1)
        layers = [Layer(factor * w, inputs, *o) for w, o in zip(weights, ones, strict=True)]
        return fit(layers, clusters=8, block_size=4, seed=0)

    (entries, indices), (other, other_indices) = fitted(1.0), fitted(unit)
    assert all(torch.equal(a, b) for a, b in zip(indices, other_indices, strict=True))
    # Those in small or large units are not rounded to float16.
    torch.testing.assert_close(other / unit, entries, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("unit", [2.0**60, 2.0**-60])
def test_hashed_embeddings_know_no_unit(unit: float) -> None:
    dense, frequency = random(40, 6), torch.ones(40)
    rows = torch.randint(0, 10, (40, 2), generator=torch.Generator().manual_seed(4))
    solve = partial(alternating_least_squares, buckets=10, seed=0)
    (table, importance), (other, other_importance) = (
        solve(factor * dense, rows, frequency) for factor in (1.0, unit)
    )
    assert torch.equal(other / unit, table)
    assert torch.equal(other_importance, importance)


@pytest.mark.parametrize("importance", ["activation", "magnitude", "obs"])
@torch.no_grad()
def test_what_gives_nothing_goes_first(importance: str) -> None:
    """The neurons of an MLP whose output is zero, among all of a tower."""
    backbone = build_clip()
    mlp = backbone.model.vision_model.encoder.layers[0].mlp
    for parameter in mlp.parameters():
        parameter.zero_()
    step = Structured(
        pruning_ratio=0.25,
        importance=importance,  # type: ignore[arg-type]
        scope="modality",
        multiple=1,
        granularity="mlp",
        modality="image",
    )
    Recipe({"neurons": step}).apply(backbone, [batch_of(backbone)])
    layers = backbone.model.vision_model.encoder.layers
    inner = [layer.mlp.fc1.out_features for layer in layers]
    assert inner == [32, 64]  # of 64 each


@torch.no_grad()
def test_statistics_beyond_float32_name_the_weight() -> None:
    """Inputs alike, and gradients."""
    backbone = build_clip()
    state = backbone.model.state_dict()
    state[FC1].mul_(1e22)
    state[FC1.replace("fc1", "fc2")].mul_(1e-22)
    batch = batch_of(backbone)
    targets = [t for t in backbone.targets() if t.modality == "image"]
    with pytest.raises(
        ValueError, match=r"^the inputs of .*\.0\.mlp\.fc2\.weight are beyond float"
    ):
        collect(backbone, [batch], targets, ["inputs"])
    with torch.enable_grad(), pytest.raises(ValueError, match=r"^the gradients of .* are beyond"):
        collect(copy.deepcopy(backbone), [batch], targets, ["gradients"])

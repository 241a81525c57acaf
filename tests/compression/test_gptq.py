from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.base import as_matrix
from mmcompress.compression.calibration import collect
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.quantization.gptq import GPTQ, gptq, output_error
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.scales import choose_scale
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import InputStatistic, Statistic
from mmcompress.functional.hessian import DAMPING


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment_of(inputs: int, tokens: int = 200) -> Tensor:
    """Inputs that are correlated, as those of real layers are."""
    mixed = random(inputs, inputs, seed=1) @ random(inputs, tokens, seed=2)
    return mixed @ mixed.T


def run_gptq(
    weight: Tensor,
    moment: Tensor,
    grid: Grid,
    *,
    act_order: bool = False,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor, Tensor | None]:
    seen = InputStatistic(moment, torch.ones(len(moment)), torch.ones(len(moment)), 1)
    factor = seen.inverse_cholesky(damping=damping, act_order=act_order)
    return gptq(weight, factor, grid, order=seen.falling_order() if act_order else None)


def nearest(weight: Tensor, grid: Grid) -> Tensor:
    return grid.snap(weight, *choose_scale(weight, grid))


def reference(weight: Tensor, moment: Tensor, grid: Grid, order: list[int]) -> Tensor:
    """Optimal Brain Quantization in a given order (arXiv:2210.17323, eq. 2 and 3): the inverse
    Hessian loses one row and column after another, scales fixed beforehand."""
    w = weight.double().clone()
    scale = choose_scale(weight, grid)[0].double()
    ridge = DAMPING * moment.diagonal().double().mean()
    inverse = (moment.double() + ridge * torch.eye(len(moment))).inverse()
    for q in order:
        step = scale[:, q // grid.group_size]
        quantized = (w[:, q] / step).round().clamp(-grid.top, grid.top) * step
        error = w[:, q] - quantized
        w -= error[:, None] / inverse[q, q] * inverse[q]
        w[:, q] = quantized  # it is done; the rows of the inverse that are left are zero here
        inverse -= torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return w


@pytest.mark.parametrize("act_order", [False, True])
def test_equals_column_by_column_elimination(act_order: bool) -> None:
    """160 columns cross the border of a block."""
    weight, moment = random(6, 160), moment_of(160)
    grid = Grid(bits=3, group_size=160)
    order = moment.diagonal().argsort(descending=True).tolist() if act_order else range(160)
    expected = reference(weight, moment, grid, list(order))
    quantized, _, _ = run_gptq(weight, moment, grid, act_order=act_order)
    # float32 here, float64 there: a weight half-way between two levels may fall either way
    assert ((quantized - expected).abs() > 1e-4).double().mean() < 0.01


def test_independent_inputs_leave_nothing_to_make_up_for() -> None:
    """With a diagonal H it is rounding to nearest."""
    weight, moment = random(5, 24), torch.rand(24).diag() + torch.eye(24)
    for grid in [Grid(4, 24), Grid(3, 8), Grid(3, 8, symmetric=False)]:
        assert torch.equal(run_gptq(weight, moment, grid)[0], nearest(weight, grid))


def test_two_equal_inputs_by_hand() -> None:
    """x₁ = x₂ always: only w₁ + w₂ counts, and 0.3 too little on the left goes to the right."""
    weight, moment = torch.tensor([[1.3, 2.3, 7.0]]), torch.eye(3) * 100
    moment[0, 1] = moment[1, 0] = 100.0
    grid = Grid(bits=4, group_size=3)
    assert choose_scale(weight, grid)[0].tolist() == [[1.0]]
    assert run_gptq(weight, moment, grid, damping=1e-6)[0].tolist() == [[1.0, 3.0, 7.0]]


@pytest.mark.parametrize("group_size", [8, 48, 192])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_get_the_scale_that_their_columns_need_when_reached(
    group_size: int, symmetric: bool
) -> None:
    weight, moment = random(6, 192), moment_of(192, tokens=400)
    grid = Grid(3, group_size, symmetric)
    quantized, scale, zero_point = run_gptq(weight, moment, grid)
    assert torch.equal(grid.snap(quantized, scale, zero_point), quantized), "not on its own grid"
    error = output_error(quantized - weight, moment)
    assert error < 0.7 * output_error(nearest(weight, grid) - weight, moment)


@pytest.mark.parametrize("act_order", [False, True])
def test_pruned_weights_stay_zero_and_cost_less_than_rounding(act_order: bool) -> None:
    weight, moment = random(16, 64), moment_of(64)
    weight[random(16, 64, seed=5) < 0] = 0.0
    grid = Grid(3, 16)
    quantized, _, _ = run_gptq(weight, moment, grid, act_order=act_order)
    assert not quantized[weight == 0].any()
    error = output_error(quantized - weight, moment)
    assert error < 0.85 * output_error(nearest(weight, grid) - weight, moment)


@pytest.fixture(scope="module")
def mini() -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Weight and input moment of every layer of the embedded model, from random pictures and
    a few captions: correlations inside the model are what counts here."""
    backbone = HFClip.mini()
    captions = ["red cat", "a woman and a dog", "two green trees", "flag of Peru", "clock"] * 4
    size = backbone.preprocess(torch.zeros(3, 64, 64, dtype=torch.uint8)).shape
    batch = {"image": random(len(captions), *size), "text": backbone.tokenize(captions)}
    layers = [t for t in backbone.targets() if t.granularity in ("linear", "conv")]
    found = collect(backbone, [batch], layers)
    state = backbone.model.state_dict()
    return [(t.name, as_matrix(state[t.name]), found[t.name].inputs.second_moment) for t in layers]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_output_error_is_below_rounding_on_every_layer_of_mini(
    bits: int, mini: list[tuple[str, Tensor, Tensor]]
) -> None:
    assert len(mini) == 63
    for name, weight, moment in mini:
        grid = Grid(bits, weight.shape[1])
        error = output_error(run_gptq(weight, moment, grid)[0] - weight, moment)
        assert error < output_error(nearest(weight, grid) - weight, moment), name


def test_decision_says_where_it_only_rounds() -> None:
    linear = Target("up", "weight", "image", "mlp.up", "linear")
    table = Target("table", "weight", "text", "embed", "embedding")
    weights = {"up.weight": torch.zeros(4, 48), "table.weight": torch.zeros(9, 48)}
    plan = GPTQ(bits=3).plan([linear, table], weights, {})
    assert plan["up.weight"]["rounding"] == "gptq"
    assert plan["table.weight"]["rounding"] == "nearest"


def test_an_embedding_is_rounded_to_nearest() -> None:
    module = nn.Embedding(6, 8)
    decision = {"rounding": "nearest", "grid": Grid(3, 8).decision()}
    counts = torch.ones(6)
    seen = Statistic(inputs=InputStatistic(counts, counts, counts, 6))
    fake = GPTQ.apply(module, "weight", decision, seen)
    weight = module.weight.detach()
    assert torch.equal(fake(weight), nearest(weight, Grid(3, 8)))


def test_the_recipe_starts_from_the_corrected_weights(tiny_backbone, tiny_data) -> None:
    recipe = Recipe({"prune": Magnitude(sparsity=0.5), "gptq": GPTQ(bits=3, role="mlp.*")})
    before = tiny_backbone.model.state_dict()
    dense = {k: v.clone() for k, v in before.items()}
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    for name, applied in compressed.applied["gptq"].items():
        weight = getattr(applied.module, applied.parameter)
        assert torch.equal(weight, applied.original), "it starts on the grid"
        mask = compressed.applied["prune"][name].parametrization.mask
        assert not weight[~mask].any()
        rounded = nearest(dense[name] * mask, Grid(3, dense[name].shape[1]))
        assert not torch.equal(weight, rounded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"bits": 9}, "bits=9"), ({"bits": 4, "damping": 0.0}, "damping=0.0 must be above 0")],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTQ(**settings)

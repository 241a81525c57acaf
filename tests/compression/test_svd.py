import copy

import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import LEFT_DENSE, warn_smallest
from mmcompress.compression.calibration import collect
from mmcompress.compression.lowrank.svd import (
    LowRank,
    block_by_block,
    rank_for_energy,
    singular_values,
    truncated_svd,
    whitening_root,
)
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import GradientStatistic, Statistic, input_statistic
from mmcompress.data.base import PairData
from mmcompress.modules.lowrank import factorize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(granularity: str = "linear") -> Target:
    return Target("layer", "weight", "image", "mlp.up", granularity)


def test_by_hand() -> None:
    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    u, vt = truncated_svd(weight, 1)
    torch.testing.assert_close(u @ vt, torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert u.shape == (2, 1)
    assert vt.shape == (1, 3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_error_is_the_tail_of_the_spectrum(rank: int) -> None:
    """Eckart and Young: the best rank-r error is the energy of the dropped singular values."""
    weight = random(8, 6).double()
    u, vt = truncated_svd(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:].square().sum()
    torch.testing.assert_close((weight - u @ vt).square().sum(), tail)


def test_whitening_root_is_a_root() -> None:
    inputs = random(50, 6).double()
    moment = inputs.T @ inputs
    root = whitening_root(moment)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(root @ root.T, damped)


def test_whitened_beats_plain_on_the_outputs() -> None:
    """Inputs of unequal size: only the whitened factors know which columns matter."""
    weight = random(8, 6)
    inputs = random(200, 6, seed=1) * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    moment = inputs.T @ inputs

    def error(second_moment: torch.Tensor | None) -> float:
        u, vt = truncated_svd(weight, 2, second_moment)
        return (inputs @ (weight - u @ vt).T).square().sum().item()

    assert error(moment) < 0.5 * error(None)
    # The optimum for the damped moment is close to that for the moment itself: within 1 %.
    tail = singular_values(weight, moment)[2:].square().sum().item()
    assert error(moment) <= 1.01 * tail


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("rows", "columns"), [(12, 6), (6, 12)])
def test_whitened_never_loses_to_plain_on_its_calibration_data(
    seed: int, rows: int, columns: int
) -> None:
    """A theorem in spite of the damping; here with fewer samples than inputs too."""
    weight = random(rows, columns, seed=seed).double()
    inputs = random(4 + seed, columns, seed=seed + 100).double()
    moment = inputs.T @ inputs
    for rank in range(1, 6):
        plain, whitened = truncated_svd(weight, rank), truncated_svd(weight, rank, moment)
        errors = [(inputs @ (weight - u @ vt).T).square().sum() for u, vt in (whitened, plain)]
        assert errors[0] <= errors[1] * (1 + 1e-9)


def reference_svd(weight: torch.Tensor, root: torch.Tensor, rank: int) -> torch.Tensor:
    """W' = U_r Σ_r V_rᵀ S⁻¹ of the SVD of W S, by the book (arXiv:2403.07378, algorithm 1)."""
    left, sigma, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    return left[:, :rank] @ torch.diag(sigma[:rank]) @ right[:rank] @ torch.linalg.inv(root)


@pytest.mark.parametrize(("rows", "columns"), [(48, 32), (32, 48), (32, 32)])
@pytest.mark.parametrize("kind", ["plain", "diagonal", "full"])
def test_gram_matrix_gives_the_same_as_an_svd(rows: int, columns: int, kind: str) -> None:
    weight = random(rows, columns) @ torch.diag(torch.logspace(0, -4, columns))
    inputs = random(20, columns, seed=1)
    moment = {
        "plain": None,
        "diagonal": inputs.square().sum(dim=0),
        "full": inputs.T @ inputs,
    }[kind]
    root = torch.eye(columns).double() if moment is None else whitening_root(moment)
    for rank in (1, 8, 31):
        u, vt = truncated_svd(weight, rank, moment)
        expected = reference_svd(weight, root, rank)
        # float32 factors
        torch.testing.assert_close((u @ vt).double(), expected, atol=2e-6, rtol=1e-5)
    expected_sigma = torch.linalg.svdvals(weight.double() @ root)
    torch.testing.assert_close(
        singular_values(weight, moment), expected_sigma, atol=1e-7 * expected_sigma[0], rtol=1e-5
    )


def test_factors_of_a_rank_deficient_weight_are_finite_and_exact() -> None:
    weight = random(10, 2) @ random(2, 8, seed=1)
    for matrix in (weight, torch.zeros(10, 8), torch.zeros(8, 10)):
        u, vt = truncated_svd(matrix, 6)
        torch.testing.assert_close(u @ vt, matrix, atol=1e-5, rtol=1e-4)


def test_asvd_equals_the_paper() -> None:
    """W S = U Σ Vᵀ with S_ii = mean|x_i|^α (arXiv:2312.05821, eq. 6 and 7), S damped as ours."""
    layer = nn.Linear(6, 8)
    inputs = random(60, 6) * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    alpha = 0.5
    squares = torch.tensor([sum(abs(float(x)) for x in column) / 60 for column in inputs.T])
    squares = squares.double() ** (2 * alpha)
    scale = torch.diag((squares + 0.01 * squares.mean()).sqrt())
    decision = {"rank": 3, "weighting": "asvd", "alpha": alpha}
    seen = Statistic(input_statistic(layer, inputs, None))
    seen.inputs.abs_mean /= seen.inputs.tokens
    factored = LowRank.apply(layer, "weight", decision, seen)
    expected = reference_svd(layer.weight.detach(), scale, 3)
    torch.testing.assert_close(factored.weight.detach().double(), expected, atol=1e-5, rtol=1e-4)


def test_fisher_equals_the_paper() -> None:
    """Î W ≈ Î A B with Î_ii² = Σ_j I(w_ij), where z = x W (arXiv:2207.00112, eq. 4 to 6)."""
    layer = nn.Linear(6, 8)
    squared = random(8, 6, seed=1).square() * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    w = layer.weight.detach().double().T  # in out, the paper's orientation
    information = [sum(float(squared[j, i]) for j in range(8)) for i in range(6)]
    mean = sum(information) / 6
    importance = torch.diag(torch.tensor([i + 0.01 * mean for i in information]).double().sqrt())
    left, sigma, right = torch.linalg.svd(importance @ w, full_matrices=False)
    a = torch.linalg.inv(importance) @ left[:, :3] @ torch.diag(sigma[:3])
    statistic = Statistic(gradients=GradientStatistic(torch.zeros(8, 6), squared))
    factored = LowRank.apply(layer, "weight", {"rank": 3, "weighting": "fisher"}, statistic)
    expected = (a @ right[:3]).T
    torch.testing.assert_close(factored.weight.detach().double(), expected, atol=1e-5, rtol=1e-4)


def test_embedding_is_never_weighted() -> None:
    plan = LowRank(rank_ratio=0.25, rank_multiple=1).plan(
        [target("embedding")], {"layer.weight": random(16, 8)}, {}
    )
    assert plan["layer.weight"]["weighting"] == "none"


@pytest.mark.parametrize("weighting", ["none", "whiten", "asvd", "fisher"])
def test_every_weighting_on_a_real_model(
    weighting: str, tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    recipe = Recipe({"lowrank": LowRank(rank_ratio=0.25, weighting=weighting, rank_multiple=4)})
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    plan = compressed.plan
    assert {d["rank"] for d in plan["lowrank"].values()} == {8}
    batch = next(iter(tiny_data.eval_dataloader("test")))
    assert torch.isfinite(tiny_backbone.encode("image", batch["image"])).all()


def test_u_is_the_least_squares_solution_for_its_v() -> None:
    """SVD-LLM's update of U (arXiv:2403.07378, section 3.2) changes nothing after whitening."""
    weight, inputs = random(10, 6).double(), random(40, 6, seed=1).double()
    moment = inputs.T @ inputs
    u, vt = truncated_svd(weight, 3, moment)
    root = whitening_root(moment)
    solved = torch.linalg.lstsq((vt @ root).T, (weight @ root).T).solution.T
    torch.testing.assert_close(u, solved)


def test_block_by_block() -> None:
    def place(name: str, granularity: str = "linear") -> Target:
        return Target(name, "weight", "image", "mlp.up", granularity)

    names = ["a.1.up", "head", "a.0.up", "a.10.up", "b.0.down"]
    targets = [place(name) for name in names] + [place("table", "embedding")]
    turns = [[t.module for t in turn] for turn in block_by_block(targets)]
    assert turns == [["table"], ["a.0.up", "b.0.down"], ["a.1.up"], ["a.10.up"], ["head"]]


def test_sequential_blocks_see_what_the_factorized_ones_give(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    batches = list(tiny_data.calibration_dataloader())
    parallel, prefix = copy.deepcopy(tiny_backbone), copy.deepcopy(tiny_backbone)
    settings = {"rank_ratio": 0.25, "role": ["attn.*", "mlp.*", "patch"], "rank_multiple": 4}
    Recipe({"lowrank": LowRank(**settings)}).apply(parallel, batches)
    Recipe({"lowrank": LowRank(**settings, sequential=True)}).apply(tiny_backbone, batches)
    # What comes before block 1 is what sequential factorization has made of it.
    vision, dense = tiny_backbone.model.vision_model, prefix.model.vision_model
    dense.embeddings = vision.embeddings
    dense.encoder.layers[0] = vision.encoder.layers[0]
    name = "vision_model.encoder.layers.1.self_attn.q_proj.weight"
    query = next(t for t in prefix.targets() if t.name == name)
    seen = collect(prefix, batches, [query])[name].inputs
    u, vt = truncated_svd(dense.encoder.layers[1].self_attn.q_proj.weight, 8, seen.second_moment)
    ours = vision.encoder.layers[1].self_attn.q_proj.weight
    torch.testing.assert_close(ours, u @ vt)
    other = parallel.model.vision_model.encoder.layers[1].self_attn.q_proj.weight
    assert not torch.allclose(ours, other, atol=1e-4)


def test_a_budget_varies_ranks_even_when_the_recipe_goes_by_energy() -> None:
    varied = LowRank(energy=0.9, weighting="asvd", alpha=0.3, role="mlp.*").varied(rank_ratio=0.1)
    assert (varied.rank_ratio, varied.energy, varied.alpha) == (0.1, None, 0.3)
    assert varied.role == ["mlp.*"]


def test_full_rank_gives_the_weight_back() -> None:
    weight = random(5, 7)
    inputs = random(40, 7, seed=1)
    u, vt = truncated_svd(weight, 5, inputs.T @ inputs)
    # float32 factors of a double decomposition
    torch.testing.assert_close(u @ vt, weight, atol=1e-5, rtol=1e-4)


def test_rank_for_energy() -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0])  # energies 9, 4, 1 of 14
    assert rank_for_energy(sigma, 9 / 14) == 1
    assert rank_for_energy(sigma, 0.65) == 2
    assert rank_for_energy(sigma, 1.0) == 3


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(6, 8), random(3, 6)),
        (nn.Linear(6, 8, bias=False), random(3, 6)),
        (nn.Embedding(9, 6), torch.tensor([[0, 8, 3]])),
        (nn.Conv2d(3, 5, 2, stride=2), random(2, 3, 4, 4)),
        (nn.Conv1d(3, 5, 3, stride=2, padding=1), random(2, 3, 9)),
    ],
)
def test_full_rank_module_equals_the_layer(layer: nn.Module, inputs: torch.Tensor) -> None:
    weight = layer.weight
    rank = min(weight.shape[0], weight[0].numel())
    factored = factorize(layer, rank)
    factored.set_factors(*truncated_svd(weight.detach().reshape(len(weight), -1), rank))
    # float32 rounding of two products instead of one
    torch.testing.assert_close(factored(inputs), layer(inputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(factored.weight, weight, atol=1e-5, rtol=1e-4)
    assert factored.weight.shape == weight.shape


def test_plan_keeps_a_layer_that_would_not_shrink() -> None:
    weight = random(16, 16)
    plan = LowRank(rank_ratio=0.5, weighting="none", rank_multiple=1).plan(
        [target()], {"layer.weight": weight}, {}
    )
    assert "rank 8 would not shrink 16x16" in plan["layer.weight"][LEFT_DENSE]
    plan = LowRank(rank_ratio=0.45, weighting="none", rank_multiple=1).plan(
        [target()], {"layer.weight": weight}, {}
    )
    assert plan["layer.weight"]["rank"] == 7


def test_plan_by_energy_gives_each_layer_its_own_rank() -> None:
    flat = torch.eye(16)
    steep = torch.diag(torch.tensor([2.0] + [0.01] * 15))
    lowrank = LowRank(energy=0.9, weighting="none", rank_multiple=1)
    assert lowrank.plan([target()], {"layer.weight": steep}, {})["layer.weight"]["rank"] == 1
    assert LEFT_DENSE in lowrank.plan([target()], {"layer.weight": flat}, {})["layer.weight"]


def test_apply_on_meta_needs_no_weights() -> None:
    layer = nn.Linear(8, 8, device="meta")
    factored = LowRank.apply(layer, "weight", {"rank": 2})
    assert {name: tuple(p.shape) for name, p in factored.named_parameters()} == {
        "v.weight": (2, 8),
        "u.weight": (8, 2),
        "u.bias": (8,),
    }


def test_apply_uses_the_statistic() -> None:
    layer = nn.Linear(6, 8)
    inputs = random(60, 6) * torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1, 0.01])
    seen = input_statistic(layer, inputs, None)
    u, vt = truncated_svd(layer.weight.detach(), 2, seen.second_moment)
    decision = {"rank": 2, "weighting": "whiten"}
    factored = LowRank.apply(layer, "weight", decision, Statistic(seen))
    torch.testing.assert_close(factored.weight.detach(), u @ vt)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_bad_rank_ratio(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"rank_ratio=.* must lie in \(0, 1\]"):
        LowRank(rank_ratio=ratio)


def test_needs_exactly_one_of_ratio_and_energy() -> None:
    with pytest.raises(ValueError, match="either rank_ratio or energy"):
        LowRank()
    with pytest.raises(ValueError, match="either rank_ratio or energy"):
        LowRank(rank_ratio=0.5, energy=0.9)


def test_bad_weighting_and_alpha() -> None:
    with pytest.raises(ValueError, match="weighting='svd' must be one of none, whiten, asvd, fish"):
        LowRank(rank_ratio=0.5, weighting="svd")
    with pytest.raises(ValueError, match="alpha=0 must be positive"):
        LowRank(rank_ratio=0.5, alpha=0)


@pytest.mark.parametrize(("ratio", "said"), [(1e-9, True), (0.5, False)])
def test_less_than_the_smallest_rank_is_said(
    ratio: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_smallest.cache_clear()
    step = LowRank(rank_ratio=ratio, weighting="none")
    layer = Target("a", "weight", "image", "a", "linear")
    plan = step.plan([layer], {"a.weight": torch.randn(64, 64)}, {})
    assert plan["a.weight"].get("rank") == (8 if said else None)  # 32 of 64 would not shrink it
    message = "rank_ratio=1e-09 is less than can be kept of some layers: rank 8 is kept there"
    assert caplog.messages == ([message] if said else [])

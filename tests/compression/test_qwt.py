import copy

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.quantization.qwt import (
    NAME,
    Moments,
    QwT,
    fit,
    split_samples,
)
from mmcompress.compression.recipe import Recipe
from mmcompress.modules.compensation import add_compensation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def errors(backbone: Backbone, dense: Backbone, batch: dict[str, Tensor]) -> dict[str, float]:
    with torch.no_grad():
        return {
            modality: (backbone.encode(modality, x) - dense.encode(modality, x))
            .square()
            .sum()
            .item()
            for modality, x in batch.items()
        }


def test_regression_equals_the_formula_of_the_paper() -> None:
    """W* = (Y − Y_q) X_qᵀ (X_q X_qᵀ)⁻¹ with a row of ones for the bias (arXiv:2411.13918)."""
    x, d = random(60, 5), random(60, 3, seed=1) + 2.0
    ones = torch.cat([x, torch.ones(60, 1)], dim=1).double()
    expected = d.double().T @ ones @ (ones.T @ ones).inverse()
    weight, bias = Moments.of(x, d).regression(damping=0.0)
    torch.testing.assert_close(weight, expected[:, :5])
    torch.testing.assert_close(bias, expected[:, 5])


def test_moments_add_up() -> None:
    x, d = random(40, 4), random(40, 4, seed=1)
    both = Moments.of(x[:10], d[:10]) + Moments.of(x[10:], d[10:])
    whole = Moments.of(x, d)
    for key, value in vars(whole).items():
        torch.testing.assert_close(vars(both)[key], value)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_other_matrix_of_the_rank_fits_better(rank: int) -> None:
    """Against descent from many starts, on the damped error that the closed form minimizes."""
    mixed = random(200, 6) @ random(6, 6, seed=3)
    d = mixed @ random(6, 5, seed=1) + random(200, 5, seed=2)
    x, d = mixed - mixed.mean(0), d - d.mean(0)
    ridge = 0.05
    weight, bias = Moments.of(x, d).regression(ridge, rank)
    assert torch.linalg.matrix_rank(weight) == rank
    assert bias.abs().max() < 1e-5, "both are centered"
    added = ridge * x.square().mean()

    def error(w: Tensor) -> Tensor:
        return (d - x @ w.float().T).square().sum(1).mean() + added * w.square().sum()

    for seed in range(3):
        u = random(5, rank, seed=seed).requires_grad_()
        v = random(rank, 6, seed=seed + 10).requires_grad_()
        optimizer = torch.optim.LBFGS([u, v], max_iter=200)

        def closure(u: Tensor = u, v: Tensor = v, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = error(u @ v)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert error(weight) <= error(u.detach() @ v.detach()) * 1.0001


def test_explained_variance_by_hand() -> None:
    x, d = random(50, 4), random(50, 3, seed=1) + 1.0
    weight, bias = random(3, 4, seed=2).double(), random(3, seed=3).double()
    residual = (d - x @ weight.float().T - bias.float()).square().sum()
    expected = 1 - residual / (d - d.mean(0)).square().sum()
    assert Moments.of(x, d).explained(weight, bias) == pytest.approx(expected.item(), rel=1e-4)
    exact = Moments.of(x, x @ weight.float().T)
    assert exact.explained(weight, torch.zeros(3).double()) == pytest.approx(1.0)
    assert Moments.of(x, torch.zeros(50, 3)).explained(weight, bias) == 0.0


def test_noise_is_not_explained() -> None:
    used, held_out = (
        Moments.of(random(40, 20, seed=s), random(40, 20, seed=s + 9)) for s in (0, 1)
    )
    assert fit(used, held_out, None)[2] < 0


def test_held_out_samples_and_padding() -> None:
    x = torch.arange(7.0).view(7, 1, 1).expand(7, 2, 1)
    valid = torch.ones(7, 2, dtype=torch.bool)
    valid[0, 1] = False
    used, held_out = split_samples(x, x, valid, first=3)
    assert held_out.x.tolist() == [2 * 1.0 + 2 * 6.0], "numbers 4 and 9"
    assert used.count == 13 - 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, hidden: Tensor, mask: Tensor | None = None, *, pair: bool = False):
        output = self.linear(hidden)
        return (output, mask) if pair else output


@pytest.mark.parametrize("rank", [None, 2])
def test_a_block_is_called_as_before(rank: int | None) -> None:
    block, x = Block(), random(2, 3, 12)
    expected = block(x)
    add_compensation(block, 12, rank)
    assert torch.equal(block(x), expected), "it starts at zero"
    nn.init.ones_(block.compensation.bias)
    for output in (block(x), block(hidden=x), block(x, None, pair=True)[0]):
        assert torch.equal(output, expected + 1)
    assert torch.equal(copy.deepcopy(block)(x), expected + 1)
    add_compensation(block, 12, rank)
    assert torch.equal(block(x), expected + 1), "a second time changes nothing"


@pytest.mark.parametrize("rank", [None, 4])
def test_gradients_reach_a_map_that_is_zero(rank: int | None) -> None:
    block = Block()
    add_compensation(block, 12, rank)
    for _ in range(2):  # of a product whose first factor is zero, one factor moves first
        for parameter in block.parameters():
            parameter.grad = None
        block(random(2, 3, 12)).square().sum().backward()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter -= 0.01 * parameter.grad
    assert all(p.grad.any() for p in block.parameters())


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("name", ["tiny_backbone", "tiny_open_clip"])
def test_embeddings_come_closer(
    name: str, rank: int | None, request: pytest.FixtureRequest
) -> None:
    """Blocks alone at 2 bits, on the calibration pairs, in both call conventions."""
    backbone: Backbone = request.getfixturevalue(name)
    colors, things = ("red", "blue", "green", "black"), ("cat", "dog", "tree", "moon", "key")
    captions = [f"{c} {t} {u}" for c in colors for t in things for u in things]
    batch = {"image": random(100, 3, 32, 32), "text": backbone.tokenize(captions)}
    results = []
    for steps in ({}, {"qwt": QwT(rank=rank)}):
        student = copy.deepcopy(backbone)
        recipe = Recipe(steps | {"int2": Integer(bits=2, role=["mlp.*", "attn.*"])})
        recipe.apply(student, [batch])
        results.append(errors(student, backbone, batch))
        if steps:
            blocks = [u for u in student.units() if u.granularity == "block"]
            assert all(NAME in student.model.get_submodule(u.module)._modules for u in blocks)
    for modality in ("image", "text"):
        assert results[1][modality] < results[0][modality]


def test_without_another_step_nothing_changes(tiny_backbone, tiny_data) -> None:
    dense = copy.deepcopy(tiny_backbone)
    batches = list(tiny_data.calibration_dataloader())
    Recipe({"qwt": QwT()}).apply(tiny_backbone, batches)
    assert errors(tiny_backbone, dense, batches[0]) == {"image": 0.0, "text": 0.0}


def test_needs_a_dense_block_for_each(tiny_backbone, tiny_data) -> None:
    batches = list(tiny_data.calibration_dataloader())
    dense = copy.deepcopy(tiny_backbone)
    step = QwT()
    del tiny_backbone.model.vision_model.encoder.layers[1]
    with pytest.raises(
        ValueError, match=r"vision_model\.encoder\.layers has removed or shared some"
    ):
        step.compensate(tiny_backbone, dense, batches)


def test_too_few_pairs_and_bad_settings(tiny_backbone, tiny_data) -> None:
    batches = [{k: v[:3] for k, v in next(iter(tiny_data.calibration_dataloader())).items()}]
    with pytest.raises(
        ValueError, match=r"qwt has 3 calibration pairs .* set data.calibration_size"
    ):
        Recipe({"qwt": QwT()}).apply(tiny_backbone, batches)
    with pytest.raises(ValueError, match="rank=0 must be a positive whole number"):
        QwT(rank=0)

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.base import as_matrix
from mmcompress.compression.calibration import collect
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.pruning.sparsegpt import SparseGPT, sparsegpt
from mmcompress.compression.statistics import Statistic
from mmcompress.functional.hessian import DAMPING, inverse_cholesky


def slow_sparsegpt(
    weight: Tensor, moment: Tensor, sparsity: float, block: int, pattern: tuple[int, int] | None
) -> Tensor:
    """Section 3: H_U is inverted anew for each set U of columns that are not yet done.

    Row by row; in its column j a weight is dropped where M says so, and those on the right are
    corrected by −w_j / [H⁻¹]_jj · [H⁻¹]_j: (Optimal Brain Surgeon).
    """
    w, n = weight.double().clone(), weight.shape[1]
    h = moment.double() + DAMPING * moment.double().diagonal().mean() * torch.eye(n)
    inverse = [h[j:, j:].inverse() for j in range(n)]
    kept = torch.ones_like(w, dtype=torch.bool)
    for j in range(n):
        if pattern is None and j % block == 0:
            columns = range(j, j + block)
            scores = torch.stack([w[:, c] ** 2 / inverse[c][0, 0] for c in columns], dim=1)
            lowest = scores.flatten().argsort()[: round(sparsity * scores.numel())]
            chosen = torch.ones(scores.numel(), dtype=torch.bool)
            chosen[lowest] = False
            kept[:, j : j + block] = chosen.view_as(scores)
        if pattern is not None and j % pattern[1] == 0:
            columns = range(j, j + pattern[1])
            for i in range(len(w)):
                scores = [float(w[i, c] ** 2 / inverse[c][0, 0]) for c in columns]
                order = sorted(columns, key=lambda c: scores[c - j])
                for c in order[: pattern[1] - pattern[0]]:
                    kept[i, c] = False
        for i in range(len(w)):
            if not kept[i, j]:
                w[i, j:] -= w[i, j] / inverse[j][0, 0] * inverse[j][0]
    return (w * kept).float()


def random_layer() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 40, generator=generator).cumsum(dim=0)  # correlated inputs
    return torch.randn(6, 16, generator=generator), x @ x.T


@pytest.mark.parametrize("block", [4, 8, 16])
def test_against_the_paper(block: int):
    weight, moment = random_layer()
    found, mask = sparsegpt(weight, inverse_cholesky(moment), 48, block_size=block)
    expected = slow_sparsegpt(weight, moment, 0.5, block, None)
    # the factor is float32 and the moment badly conditioned
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(mask, expected != 0)


@pytest.mark.parametrize("block", [3, 8, 16])
def test_n_of_m_against_the_paper(block: int):
    weight, moment = random_layer()
    found, mask = sparsegpt(weight, inverse_cholesky(moment), 2, group_size=4, block_size=block)
    torch.testing.assert_close(
        found, slow_sparsegpt(weight, moment, 0.5, block, (2, 4)), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(mask.view(6, 4, 4).sum(dim=-1), torch.full((6, 4), 2))


def test_the_correction_of_one_dropped_column_is_least_squares():
    weight, moment = random_layer()
    weight[:, 0] = 1e-6  # dropped first in every row
    weight[:, 0] *= torch.arange(1, 7)
    found, mask = sparsegpt(weight, inverse_cholesky(moment), 6, block_size=16)
    assert mask.sum(dim=0).tolist() == [0] + [6] * 15
    damped = moment + DAMPING * moment.diagonal().mean() * torch.eye(16)
    gain = torch.linalg.solve(damped[1:, 1:], damped[1:, 0])
    torch.testing.assert_close(found[:, 1:], weight[:, 1:] + weight[:, :1] * gain)


def test_any_sparsity_comes_out_exactly():
    weight, moment = random_layer()
    for pruned in (1, 37, 95):
        _, mask = sparsegpt(weight, inverse_cholesky(moment), pruned, block_size=5)
        assert int((~mask).sum()) == pruned


@pytest.fixture(scope="module")
def calibrated() -> tuple[HFClip, dict[str, Statistic]]:
    backbone = HFClip.mini()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(24, 3, 64, 64, generator=generator)
    words = ("cat", "red car", "woman astronaut", "flag of france", "two dogs", "house")
    texts = [f"{word} {other}" for word in words for other in ("dark skin tone", "moon", "key", "")]
    batch = {"image": backbone.preprocess(pictures), "text": backbone.tokenize(texts)}
    return backbone, collect(backbone, [batch], backbone.targets())


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_below_magnitude_on_every_layer_of_the_mini_backbone(
    calibrated: tuple[HFClip, dict[str, Statistic]], modality: str, pattern: str | None
):
    backbone, statistics = calibrated
    recipes = [
        kind(sparsity=0.5, pattern=pattern, modality=modality) for kind in (SparseGPT, Magnitude)
    ]
    targets = [t for t in recipes[0].select(backbone.targets()) if t.granularity != "embedding"]
    weights = {t.name: backbone.model.get_parameter(t.name).detach() for t in targets}
    plans = [recipe.plan(targets, weights, statistics) for recipe in recipes]
    assert len(targets) > 20
    for target in targets:
        module = backbone.model.get_submodule(target.module)
        moment = statistics[target.name].inputs.second_moment
        errors, kept = [], []
        for recipe, plan in zip(recipes, plans, strict=True):
            mask = recipe.apply(module, "weight", plan[target.name], statistics[target.name])
            start = module.weight.detach() if mask.initial is None else mask.initial
            lost = as_matrix(start * mask.mask - module.weight.detach())
            errors.append(((lost @ moment) * lost).sum().item())
            kept.append(int(mask.mask.sum()))
        assert kept[0] == kept[1]
        assert errors[0] < errors[1], target.name


@pytest.mark.parametrize("setting", ["compare", "schedule", "begin", "end", "updates"])
def test_settings_that_would_do_nothing_are_refused(setting: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{setting}'"):
        SparseGPT(sparsity=0.5, **{setting: None})

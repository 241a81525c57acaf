import pytest
import torch

from mmcompress.compression.pruning.masks import (
    Masked,
    kth_smallest,
    kth_smallest_near,
    lowest_mask,
)
from mmcompress.compression.pruning.schedule import cubic_sparsity


def test_mask_by_hand():
    scores = torch.tensor([[0.5, 0.1, 3.0, 0.2], [4.0, 0.3, 0.4, 0.0]])
    expected = torch.tensor([[True, False, True, False], [True, False, True, False]])
    assert torch.equal(lowest_mask(scores, 4), expected)


@pytest.mark.parametrize("pruned", [0, 1, 17, 63, 64])
def test_mask_drops_exactly_the_smallest(pruned: int):
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    mask = lowest_mask(scores, pruned)
    assert int((~mask).sum()) == pruned
    if 0 < pruned < 64:
        assert scores[~mask].max() <= scores[mask].min()


@pytest.mark.parametrize(("pruned", "group_size"), [(2, 4), (1, 4), (4, 8), (5, 16)])
def test_groups_against_a_loop(pruned: int, group_size: int):
    scores = torch.rand(6, 16, generator=torch.Generator().manual_seed(0))
    mask = lowest_mask(scores, pruned, group_size=group_size)
    for row in range(6):
        for start in range(0, 16, group_size):
            group = scores[row, start : start + group_size].tolist()
            kept = [x in sorted(group)[pruned:] for x in group]
            assert mask[row, start : start + group_size].tolist() == kept


@pytest.mark.parametrize(("pruned", "group_size"), [(0, None), (40, None), (96, None), (9, 16)])
def test_ties_fall_in_memory_order_as_in_a_stable_sort(pruned: int, group_size: int | None):
    scores = torch.randint(0, 3, (6, 16), generator=torch.Generator().manual_seed(0)).float()
    groups = scores.reshape(-1, group_size or 96)
    dropped = groups.argsort(dim=1, stable=True)[:, :pruned]
    expected = torch.ones_like(groups, dtype=torch.bool).scatter(1, dropped, False)
    assert torch.equal(lowest_mask(scores, pruned, group_size=group_size), expected.view(6, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_selected_alike(dtype: torch.dtype):
    scores = torch.randperm(64, generator=torch.Generator().manual_seed(0)).view(8, 8)
    assert torch.equal(lowest_mask(scores.to(dtype), 20), lowest_mask(scores.float(), 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 0.01, -0.01])
@pytest.mark.parametrize("k", [1, 200, 1000])
def test_a_near_guess_finds_the_same(offset: float, k: int, dtype: torch.dtype):
    scores = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = kth_smallest(scores, k)
    found = kth_smallest_near(scores, k, float(expected) * (1 + offset))
    assert found is not None
    assert torch.equal(found, expected)


@pytest.mark.parametrize("guess", [-5.0, 0.0, 1.5, 5.0, -torch.inf])
def test_a_far_guess_finds_nothing(guess: float):
    scores = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    assert kth_smallest_near(scores, 200, guess) is None


def test_masked_against_autograd():
    """The product written out, the scores taken for the mask in the gradient (arXiv:2005.07683)."""
    weight, scores = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    mask, gradient = torch.rand(4, 8) > 0.5, torch.randn(4, 8)
    product = weight * (mask.float() + scores - scores.detach())
    expected = torch.autograd.grad(product, [weight, scores], gradient)
    found = torch.autograd.grad(Masked.apply(weight, mask, scores), [weight, scores], gradient)
    torch.testing.assert_close(found, expected)
    assert torch.equal(Masked.apply(weight, mask, None), weight * mask)
    (alone,) = torch.autograd.grad(Masked.apply(weight, mask, None), weight, gradient)
    torch.testing.assert_close(alone, expected[0])


def test_cubic_schedule_follows_the_paper():
    """Zhu and Gupta, eq. 1 with s_i = 0: s_f (1 − (1 − t/T)³)."""
    for progress in (0.0, 0.1, 0.35, 0.6):
        expected = 1 - (1 - max(progress - 0.1, 0) / 0.5) ** 3
        assert cubic_sparsity(progress, begin=0.1, end=0.6) == pytest.approx(expected)
    assert cubic_sparsity(1.0, begin=0.1, end=0.6) == 1.0

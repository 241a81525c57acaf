import pytest
import torch
from torch import Tensor

from mmcompress.compression.quantization.ternary import Ternarize, Ternary, ternarize


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_twn(row: list[float]) -> list[float]:
    """arXiv:1605.04711, section 2, one row."""
    delta = 0.7 * sum(abs(w) for w in row) / len(row)
    large = [abs(w) for w in row if abs(w) > delta]
    alpha = sum(large) / len(large)
    return [0.0 if abs(w) <= delta else alpha if w > 0 else -alpha for w in row]


def reference_absmean(row: list[float]) -> list[float]:
    """arXiv:2402.17764, eq. 1 to 3, one row."""
    gamma = sum(abs(w) for w in row) / len(row)
    return [gamma * max(-1, min(1, round(w / (gamma + 1e-8)))) for w in row]


@pytest.mark.parametrize(
    ("rule", "reference"), [("twn", reference_twn), ("absmean", reference_absmean)]
)
def test_equals_the_formulas_of_the_paper(rule: str, reference) -> None:
    weight = random(6, 16)
    by_row, _ = ternarize(weight, rule, group_size=16)
    by_group, _ = ternarize(weight, rule, group_size=4)
    by_tensor, _ = ternarize(weight, rule, group_size=16, per_tensor=True)
    expected = torch.tensor([reference(row) for row in weight.tolist()])
    in_groups = torch.tensor([reference(row) for row in weight.reshape(-1, 4).tolist()])
    whole = torch.tensor(reference(weight.flatten().tolist()))
    # α is a float16
    torch.testing.assert_close(by_row, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(by_group.reshape(-1, 4), in_groups, rtol=1e-3, atol=0)
    torch.testing.assert_close(by_tensor.flatten(), whole, rtol=1e-3, atol=0)


def test_threshold_is_close_to_the_best_for_normal_weights() -> None:
    """Section 2.2: 0.7 mean |W| is within a few per cent of the best threshold."""
    weight = random(1, 4096)
    error = (ternarize(weight, "twn", group_size=4096)[0] - weight).square().sum()
    magnitudes, best = weight.abs(), torch.tensor(torch.inf)
    for delta in torch.linspace(0.1, 1.5, 100):
        alpha = magnitudes[magnitudes > delta].mean()
        rounded = weight.sign() * alpha * (magnitudes > delta)
        best = torch.minimum(best, (rounded - weight).square().sum())
    assert best <= error < 1.02 * best


def test_gradient_passes_straight_through() -> None:
    weight = random(3, 8).requires_grad_()
    upstream = random(3, 8, seed=1)
    fake = Ternarize(weight.detach(), rule="twn", group_size=8, per_tensor=False)
    fake(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("rule", ["twn", "absmean"])
def test_pruned_weights_do_not_count(rule: str) -> None:
    weight = random(4, 8)
    padded = torch.cat([weight, torch.zeros(4, 8)], dim=1)
    values, scale = ternarize(padded, rule, group_size=16)
    alone, scale_alone = ternarize(weight, rule, group_size=8)
    assert torch.equal(scale, scale_alone)
    assert torch.equal(values, torch.cat([alone, torch.zeros(4, 8)], dim=1))


@pytest.mark.parametrize("rule", ["twn", "absmean"])
def test_nothing_left(rule: str) -> None:
    values, scale = ternarize(torch.zeros(2, 4), rule, group_size=4)
    assert not values.any()
    assert (scale > 0).all()


def test_stored_scale_is_that_of_the_last_forward() -> None:
    weight = random(4, 8)
    fake = Ternarize(weight, rule="twn", group_size=8, per_tensor=False)
    baked = fake(3 * weight)
    encoding = Ternary().finalize(fake, baked)
    assert torch.equal(encoding.tensors["scale"].float(), baked.abs().amax(dim=1, keepdim=True))


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="rule='mean' must be one of twn, absmean"):
        Ternary(rule="mean")

import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.quantization.binary import CLIP, Binarize, Binary


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def binarize(weight: Tensor, group_size: int, **options: bool) -> Binarize:
    return Binarize(
        weight, group_size=group_size, **{"per_tensor": False, "trained_scale": False} | options
    )


def test_by_hand() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.5, 1.5], [2.0, 2.0, -6.0, 2.0]])
    row = binarize(weight, 4)
    assert row(weight).tolist() == [[1.5, -1.5, 1.5, 1.5], [3.0, 3.0, -3.0, 3.0]]
    assert row.scale.tolist() == [[3.0], [6.0]]
    assert binarize(weight, 2)(weight).tolist() == [[2.0, -2.0, 1.0, 1.0], [2.0, 2.0, -4.0, 4.0]]
    tensor = binarize(weight, 4, per_tensor=True)
    assert tensor(weight).abs().unique().tolist() == [2.25]


def test_no_other_scale_and_signs_are_closer() -> None:
    """arXiv:1603.05279, eq. 6: against all signs and a fine grid of scales, for one short row."""
    weight = random(1, 6)
    error = (binarize(weight, 6)(weight) - weight).square().sum()
    for code in range(2**6):
        signs = torch.tensor([1.0 if code >> i & 1 else -1.0 for i in range(6)])
        for alpha in torch.linspace(0.0, 3.0, 61).tolist():
            assert (alpha * signs - weight).square().sum() >= error - 1e-3  # α is a float16


def test_gradient_of_the_paper() -> None:
    """∂(α sign w_i)/∂w_j = sign(w_i) sign(w_j) / n, and 1 on the diagonal within the clip."""
    weight = torch.tensor([[0.5, -1.0, 8.0, -0.1, 0.1, 0.1, 0.1, 0.1]], requires_grad=True)
    fake = binarize(weight.detach(), 8)
    upstream = random(1, 8)
    fake(weight).backward(upstream)
    w = weight.detach()
    alpha = w.abs().mean()
    through = upstream * (w.abs() <= CLIP * alpha)
    of_alpha = (upstream * w.sign()).sum()
    assert not through[0, 2], "8 lies beyond the clip"
    assert weight.grad is not None
    # α is a float16
    torch.testing.assert_close(weight.grad, through + of_alpha * w.sign() / 8, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("per_tensor", [True, False])
def test_trained_scale(per_tensor: bool) -> None:
    weight = random(3, 8)
    fake = binarize(weight, 4, per_tensor=per_tensor, trained_scale=True)
    untrained = binarize(weight, 4, per_tensor=per_tensor)
    assert torch.equal(fake(weight), untrained(weight))
    assert fake.alpha is not None
    assert fake.alpha.ndim == 1, "or the optimizer lets it decay"
    upstream = random(3, 8, seed=1)
    fake(weight).backward(upstream)
    sums = (upstream * weight.sign()).reshape(3, 2, 4).sum(dim=-1)
    expected = sums.sum()[None] if per_tensor else sums.flatten()
    torch.testing.assert_close(fake.alpha.grad, expected, rtol=1e-5, atol=1e-5)


def test_the_scale_follows_the_weight() -> None:
    weight = random(4, 8)
    fake = binarize(weight, 8)
    assert torch.equal(fake(2 * weight), 2 * fake(weight))


def test_pruned_weights_stay_zero_and_do_not_count() -> None:
    weight = torch.tensor([[1.0, 0.0, -3.0, 0.0]])
    fake = binarize(weight, 4)
    baked = fake(weight)
    assert baked.tolist() == [[2.0, 0.0, -2.0, 0.0]]
    encoding = Binary().finalize(fake, baked)
    assert encoding.mask is not None
    assert encoding.mask.tolist() == [[True, False, True, False]]


def test_one_bit_is_what_is_stored() -> None:
    layer = nn.Linear(8, 4)
    fake = Binary.apply(
        layer, "weight", {"group_size": 8, "per_tensor": False, "trained_scale": False}
    )
    encoding = Binary().finalize(fake, fake(layer.weight.detach()))
    assert encoding.values == {
        "codec": "quantize",
        "bits": 1,
        "group_size": 8,
        "grid": "midrise",
    }
    assert encoding.mask is None


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="group_size=row must be a positive whole number, tensor"):
        Binary(group_size="row")

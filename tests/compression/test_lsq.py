import pytest
import torch
from torch import Tensor

from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.lsq import LSQ, LearnedStep
from mmcompress.compression.quantization.scales import choose_scale


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learned(weight: Tensor, grid: Grid, per_tensor: bool = False, start: str = "mean"):
    return LearnedStep(weight, grid, per_tensor=per_tensor, start=start)


def test_first_step_of_the_paper() -> None:
    """2 mean |W| / √Qp (arXiv:1902.08153, section 2.1)."""
    weight = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    assert learned(weight, Grid(3, 4)).step.tolist() == pytest.approx([2 * 3 / 3**0.5])
    assert learned(weight, Grid(2, 2)).step.tolist() == pytest.approx([2 * 1.5, 2 * 4.5])


def test_first_step_by_search() -> None:
    weight = random(4, 16)
    fake = learned(weight, Grid(3, 8), start="search")
    assert torch.equal(fake.scale(), choose_scale(weight, Grid(3, 8))[0])
    whole = learned(weight, Grid(3, 16), per_tensor=True, start="search")
    assert torch.equal(whole.scale()[:1], choose_scale(weight.reshape(1, -1), Grid(3, 64))[0])


def reference_gradients(
    weight: Tensor, step: float, top: int, upstream: Tensor
) -> tuple[Tensor, float]:
    """arXiv:1902.08153, section 2.1, one weight at a time, the step shared by all."""
    of_weight, of_step = torch.zeros_like(weight), 0.0
    for i, v in enumerate((weight / step).tolist()):
        if v <= -top:
            slope = -top
        elif v >= top:
            slope = top
        else:
            slope = -v + round(v)
            of_weight[i] = upstream[i]
        of_step += slope * float(upstream[i])
    return of_weight, of_step / (len(weight) * top) ** 0.5


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gradients_of_the_paper(bits: int) -> None:
    weight = (3 * random(1, 12)).requires_grad_()
    upstream = random(1, 12, seed=1)
    fake = learned(weight.detach(), Grid(bits, 12))
    fake.step.data.fill_(0.75)  # a float16
    fake(weight).backward(upstream)
    of_weight, of_step = reference_gradients(
        weight.detach()[0], 0.75, 2 ** (bits - 1) - 1, upstream[0]
    )
    assert torch.equal(weight.grad[0], of_weight)
    assert fake.step.grad.item() == pytest.approx(of_step, rel=1e-4)


def test_gradient_of_the_step_is_that_of_the_loss() -> None:
    """With the rounding held fixed (a straight-through estimate has no other derivative to be
    compared with), a finite difference of clipped weights alone."""
    weight = torch.tensor([[9.0, -8.0, 7.5, -12.0]])
    fake = learned(weight, Grid(3, 4))
    fake.step.data.fill_(1.0)
    fake(weight).square().sum().backward()
    # each is ±3 steps: d/ds Σ (3 s)² = 4 · 18 s
    assert fake.step.grad.item() == pytest.approx(72 / (4 * 3) ** 0.5)


def test_the_step_that_is_used_is_the_stored_one() -> None:
    weight = random(4, 8)
    fake = learned(weight, Grid(3, 8))
    fake.step.data.add_(1e-5)  # between two float16
    baked = fake(weight).detach()
    assert torch.equal(Grid(3, 8).snap(baked, fake.scale()), baked)
    encoding = LSQ(bits=3).finalize(fake, baked)
    assert encoding.tensors["scale"].dtype == torch.float16


def test_a_step_that_training_drives_below_zero_stays_finite() -> None:
    weight = random(2, 8)
    fake = learned(weight, Grid(3, 8))
    fake.step.data.fill_(-1.0)
    assert torch.isfinite(fake(weight)).all()


@pytest.mark.parametrize("midrise", [False, True])
def test_training_lowers_the_error(midrise: bool) -> None:
    """The step alone, from a bad start."""
    weight = random(8, 32)
    fake = learned(weight, Grid(2, 32, midrise=midrise))
    fake.step.data.mul_(2.5)
    optimizer = torch.optim.Adam([fake.step], lr=0.05)
    errors = []
    for _ in range(60):
        error = (fake(weight) - weight).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    best = (
        (
            Grid(2, 32, midrise=midrise).snap(
                weight, *choose_scale(weight, Grid(2, 32, midrise=midrise))
            )
            - weight
        )
        .square()
        .mean()
    )
    assert errors[-1] < 0.5 * errors[0]
    assert errors[-1] < 1.1 * best


def test_pruned_weights_stay_zero() -> None:
    weight = random(4, 8)
    weight[:, ::2] = 0.0
    fake = learned(weight, Grid(2, 8, midrise=True))
    baked = fake(weight).detach()
    assert torch.equal(baked != 0, weight != 0)
    assert torch.equal(LSQ(bits=2, midrise=True).finalize(fake, baked).mask, weight != 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"bits": 1}, "bits=1"), ({"bits": 3, "start": "max"}, "start='max' must be one of mean")],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSQ(**settings)

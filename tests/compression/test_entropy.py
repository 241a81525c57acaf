"""Entropy-constrained quantization, against loops and by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.base import Applied
from mmcompress.compression.quantization.entropy import (
    Entropy,
    EntropyQuantize,
    round_with_dead_zone,
    round_with_feedback,
)
from mmcompress.compression.statistics import Statistic, input_statistic
from mmcompress.functional.hessian import inverse_cholesky
from mmcompress.functional.integers import dequantize, quantize


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def information(codes: Tensor) -> float:
    """Bits per code of an ideal coder with a fixed table."""
    counts = codes.unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log2()).sum())


def one_by_one(weight: Tensor, scale: Tensor, moment: Tensor, rounding: float) -> Tensor:
    """arXiv:2210.17323, eq. 2 and 3, with H⁻¹ shrunk by Gaussian elimination after each column."""
    columns = weight.shape[1]
    damped = moment.double() + 0.01 * moment.double().diagonal().mean() * torch.eye(columns)
    inverse = torch.linalg.inv(damped)
    left, result = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for q in range(columns):
        for row in range(len(weight)):
            step = float(scale[row if len(scale) > 1 else 0, 0])
            level = float(left[row, q]) / step
            code = math.copysign(math.floor(abs(level) + rounding), level)
            result[row, q] = code * step
            update = (float(left[row, q]) - code * step) / inverse[q, q] * inverse[q]
            left[row, q + 1 :] -= update[q + 1 :]
        inverse = inverse - torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return result.float()


@pytest.mark.parametrize("rounding", [0.5, 0.35])
@pytest.mark.parametrize("columns", [6, 150], ids=["one block", "two blocks"])
def test_feedback_equals_the_paper(rounding: float, columns: int) -> None:
    inputs = random(400, columns) @ random(columns, columns, seed=1)
    moment, weight = inputs.T @ inputs, random(3, columns, seed=2)
    scale = torch.tensor([[0.5], [0.8], [1.1]])
    found = round_with_feedback(weight, scale, inverse_cholesky(moment), rounding=rounding)
    expected = one_by_one(weight, scale, moment, rounding)
    # A level may fall on the other side of an edge by rounding; then its row differs from there.
    same = (found - expected).abs().amax(dim=1) < 1e-4
    assert same.float().mean() >= 2 / 3


def test_feedback_lowers_the_output_error() -> None:
    inputs = random(500, 40) @ random(40, 40, seed=1)
    moment, weight = inputs.T @ inputs, random(16, 40, seed=2)
    scale = torch.full((1, 1), 1.2)
    with_it = round_with_feedback(weight, scale, inverse_cholesky(moment), rounding=0.5)
    plain = round_with_dead_zone(weight / scale, 0.5) * scale

    def error(rounded: Tensor) -> float:
        return float((inputs @ (weight - rounded).T).square().sum())

    assert error(with_it) < 0.7 * error(plain)


def test_feedback_over_independent_inputs_is_plain_rounding() -> None:
    weight, scale = random(4, 10), torch.full((4, 1), 0.7)
    found = round_with_feedback(weight, scale, inverse_cholesky(torch.eye(10)), rounding=0.5)
    assert torch.equal(found, round_with_dead_zone(weight / scale, 0.5) * scale)


def test_what_pruning_left_stays_zero() -> None:
    inputs = random(100, 12) @ random(12, 12, seed=1)
    weight = random(8, 12, seed=2) * (random(8, 12, seed=3) > 0)
    factor = inverse_cholesky(inputs.T @ inputs)
    found = round_with_feedback(weight, torch.full((1, 1), 0.1), factor, rounding=0.5)
    assert not found[weight == 0].any()


def test_wider_steps_and_wider_zeros_carry_less_information() -> None:
    weight = random(64, 64)
    bits = [information(round_with_dead_zone(weight / s, 0.5)) for s in (0.3, 1.0, 2.0, 3.0)]
    assert bits == sorted(bits, reverse=True)
    assert information(round_with_dead_zone(weight, 0.3)) < information(
        round_with_dead_zone(weight, 0.5)
    )


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("shape", [(8, 6), (4, 3, 2, 2)])
def test_the_parametrization_is_what_decoding_gives(per_row: bool, shape: tuple[int, ...]) -> None:
    weight = random(*shape)
    fake = EntropyQuantize(weight, step=0.9, per_row=per_row, rounding=0.4)
    baked = fake(weight).detach()
    encoding = Entropy(step=0.9).finalize(fake, baked)
    assert encoding.values is not None
    matrix, scale = baked.flatten(1), encoding.tensors["scale"]
    bits, group_size = encoding.values["bits"], encoding.values["group_size"]
    codes = quantize(matrix, scale, None, bits=bits, group_size=group_size)
    assert torch.equal(dequantize(codes, scale, None, group_size=group_size), matrix)


def test_gradient_of_the_step() -> None:
    """∂/∂s of s·round(w/s), straight through: the sum of (round(w/s) − w/s), times s for log s."""
    weight = random(5, 7)
    fake = EntropyQuantize(weight, step=0.8, per_row=False, rounding=0.5)
    fake(weight).sum().backward()
    scale = fake.scale().detach()
    levels = weight / scale
    expected = (levels.round() - levels).sum() * fake.log_step.detach().exp()
    assert fake.log_step.grad is not None
    torch.testing.assert_close(fake.log_step.grad.sum(), expected.sum(), rtol=1e-3, atol=1e-4)


def test_apply_takes_inputs_into_account() -> None:
    layer = nn.Linear(10, 6)
    inputs = random(200, 10) @ random(10, 10, seed=1)
    statistic = Statistic(input_statistic(layer, inputs, None))
    decision = {"step": 1.2, "per_row": False, "rounding": 0.5}
    fake = Entropy.apply(layer, "weight", decision, statistic)
    assert isinstance(fake, EntropyQuantize)
    assert fake.initial is not None
    with torch.no_grad():
        assert torch.equal(fake(fake.initial), fake.initial)
    assert Entropy.apply(layer, "weight", decision).initial is None


def test_the_penalty_is_the_log_of_the_mean_magnitude() -> None:
    step = Entropy(step=1.0, rate=0.5)
    layer = nn.Linear(10, 6)
    fake = EntropyQuantize(layer.weight.detach(), step=1.0, per_row=False, rounding=0.5)
    nn.utils.parametrize.register_parametrization(layer, "weight", fake)
    applied = {"x": Applied(layer, "weight", fake)}
    expected = 0.5 * (applied["x"].original / fake.scale()).abs().mean().log2()
    torch.testing.assert_close(step.penalty(applied), expected, rtol=1e-4, atol=1e-4)
    assert Entropy(step=1.0).penalty(applied) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0.0}, "step=0.0 must be above 0"),
        ({"step": 1.0, "per": "group"}, "per='group' must be tensor or row"),
        ({"step": 1.0, "rounding": 0.6}, r"rounding=0.6 must lie in \(0, 0.5\]"),
        ({"step": 1.0, "rate": -1.0}, "rate=-1.0 must not be negative"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Entropy(**arguments)

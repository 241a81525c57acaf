import torch
from torch import Tensor

from mmcompress.functional.hessian import DAMPING, inverse_cholesky, ridge


def moment_of(inputs: int, tokens: int) -> Tensor:
    x = torch.randn(inputs, tokens, generator=torch.Generator().manual_seed(0))
    return x @ x.T


def damped(moment: Tensor) -> Tensor:
    ridge = DAMPING * moment.diagonal().double().mean()
    return moment.double() + ridge * torch.eye(len(moment), dtype=torch.float64)


def test_factor_of_the_inverse():
    moment = moment_of(12, 40)
    factor = inverse_cholesky(moment)
    assert torch.equal(factor, factor.triu())
    # the factor is rounded to float32
    torch.testing.assert_close(
        factor.double().T @ factor.double(), damped(moment).inverse(), rtol=1e-4, atol=1e-6
    )


def test_diagonal_is_that_of_the_inverse_without_the_columns_before():
    """Optimal Brain Compression removes row and column j from H⁻¹ once column j is done."""
    hessian = damped(moment_of(8, 20))
    factor = inverse_cholesky(moment_of(8, 20))
    for j in range(8):
        remaining = hessian[j:, j:].inverse()[0, 0]
        torch.testing.assert_close(factor[j, j].double().square(), remaining, rtol=1e-4, atol=0)


def test_few_tokens_and_unseen_inputs():
    moment = moment_of(16, 3)
    moment[5], moment[:, 5] = 0.0, 0.0
    factor = inverse_cholesky(moment)
    assert torch.isfinite(factor).all()
    assert (factor[5] != 0).nonzero().tolist() == [[5]]
    assert torch.equal(inverse_cholesky(torch.zeros(3, 3)), torch.eye(3))


def test_damping_rises_until_rounding_errors_are_covered():
    moment = torch.diag(torch.tensor([1.0, 1.0, -0.05]))
    assert torch.isfinite(inverse_cholesky(moment)).all()


def test_the_ridge_is_a_share_of_the_mean_of_the_diagonal():
    moment = torch.tensor([[1.0, 9.0], [9.0, 3.0]])
    assert float(ridge(moment, 0.5)) == 1.0
    assert float(ridge(moment.diagonal(), 0.5)) == 1.0

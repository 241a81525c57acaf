"""The inverse Hessian of a layer's output error, as GPTQ and SparseGPT use it.

The squared output error of a row, (w − ŵ) X Xᵀ (w − ŵ)ᵀ, has the Hessian H = X Xᵀ up to a factor
of 2. "Optimal Brain Compression", Frantar & Alistarh 2022, arXiv:2208.11580, needs H⁻¹ with one row
and column after another removed; "GPTQ", Frantar et al. 2022, arXiv:2210.17323, section 3.3,
reads all of these from one Cholesky factor of H⁻¹.
"""

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to the diagonal (arXiv:2210.17323, section 3.3;
arXiv:2301.00774, section 4)."""


def ridge(moment: Tensor, share: float = DAMPING) -> Tensor:
    """λ, a share of the mean of the diagonal; a scalar.

    Args:
        moment: (in, in), or (in,) for a diagonal one.
        share: of the mean.
    """
    return share * (moment if moment.ndim == 1 else moment.diagonal()).mean()


def damp(moment: Tensor, share: float = DAMPING) -> Tensor:
    """Add a share of the mean eigenvalue to every eigenvalue.

    Args:
        moment: (in, in), or (in,) for a diagonal one.
        share: of the mean.
    Returns:
        The same shape, float64, invertible. A moment of zero, of inputs that are always zero,
        says nothing of them: it becomes the identity.
    """
    moment = moment.double()
    if not moment.any():
        return torch.ones_like(moment) if moment.ndim == 1 else torch.eye(len(moment)).to(moment)
    if moment.ndim == 1:
        return moment + ridge(moment, share)
    damped = moment.clone()
    damped.diagonal().add_(ridge(moment, share))
    return damped


def inverse_cholesky(moment: Tensor, *, damping: float = DAMPING) -> Tensor:
    """Upper triangular U with Uᵀ U = (H + λ1)⁻¹.

    Inputs that calibration never saw need no care of their own: their rows of H are zero, so
    λ alone stands for them, and they are tied to no other column.

    Args:
        moment: H (in, in), symmetric, positive semi-definite up to the rounding of its sum.
        damping: λ as a share of the mean of the diagonal of H; it is raised tenfold for as long as
            rounding leaves a negative eigenvalue.
    Returns:
        (in, in) float32, computed in float64.

    Example:
        >>> inverse_cholesky(torch.diag(torch.tensor([4.0, 0.25])), damping=0.0).diagonal().tolist()
        [0.5, 2.0]
    """
    if not moment.any():
        return torch.eye(len(moment), device=moment.device)
    failed = True
    while failed:
        # With the order of the columns reversed, the lower factor of H is the upper one: H = R Rᵀ.
        lower, info = torch.linalg.cholesky_ex(damp(moment, damping).flip(0, 1))
        failed, damping = bool(info), max(damping, DAMPING) * 10
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True).float()

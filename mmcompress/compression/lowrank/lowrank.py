"""Low rank, W ≈ U Vᵀ: a layer becomes two thin ones.

Truncated SVD keeps the best rank-r approximation of the weight; the whitened variant keeps the best
approximation of the layer's *output* on calibration data: "SVD-LLM: Truncation-aware Singular Value
Decomposition for Large Language Model Compression", Wang et al. 2024, arXiv:2403.07378, section
3.1. Where we differ: the root of the input's second moment is damped, for small calibration sets
leave it singular, and the singular values are split evenly over both factors, so that fine-tuning
sees factors of one size. Embeddings are truncated without whitening: a small calibration sample
never reads most of their rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Compressor, Decision, as_matrix
from mmcompress.compression.lowrank.modules import factorise
from mmcompress.compression.statistics import INPUTS, Statistic

DAMPING = 0.01
"""Share of the mean eigenvalue that is added to every eigenvalue (as GPTQ and SparseGPT do)."""


def whitening_root(second_moment: Tensor) -> Tensor:
    """Lower triangular S with S Sᵀ = second_moment + damping (arXiv:2403.07378, section 3.1).

    Args:
        second_moment: (in, in), symmetric, positive semi-definite.
    Returns:
        (in, in) float64, invertible.
    """
    moment = second_moment.double()
    damping = DAMPING * moment.diagonal().mean()
    return torch.linalg.cholesky(moment + damping * torch.eye(len(moment), dtype=torch.float64))


def singular_values(weight: Tensor, second_moment: Tensor | None = None) -> Tensor:
    """Spectrum of W, or of W S where S whitens the input: squares are energies of the output.

    Args:
        weight: (out, in).
        second_moment: (in, in) or None.
    Returns:
        (min(out, in),) float64, descending.
    """
    matrix = weight.double()
    if second_moment is not None:
        matrix = matrix @ whitening_root(second_moment)
    return torch.linalg.svdvals(matrix)


def truncated_svd(
    weight: Tensor, rank: int, second_moment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rank-`rank` factors that minimise ‖W − U Vᵀ‖, or ‖(W − U Vᵀ) S‖ with a second moment.

    Args:
        weight: (out, in).
        rank: at least 1, at most min(out, in).
        second_moment: (in, in), of the layer's input; None for the plain SVD.
    Returns:
        U (out, rank) and Vᵀ (rank, in), of the dtype of `weight`.

    Example:
        >>> u, vt = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
        >>> (u @ vt).round().tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    matrix = weight.double()
    root = None if second_moment is None else whitening_root(second_moment)
    left, sigma, right = torch.linalg.svd(
        matrix if root is None else matrix @ root, full_matrices=False
    )
    half = sigma[:rank].sqrt()
    u, vt = left[:, :rank] * half, half[:, None] * right[:rank]
    if root is not None:
        vt = torch.linalg.solve_triangular(root, vt, upper=False, left=False)
    return u.to(weight.dtype), vt.to(weight.dtype)


def rank_for_energy(sigma: Tensor, energy: float) -> int:
    """The smallest rank whose squared singular values add up to a share of all of them.

    Example:
        >>> rank_for_energy(torch.tensor([3.0, 1.0, 0.0]), 0.9)
        1
    """
    kept = sigma.square().cumsum(0) / sigma.square().sum()
    return int((kept < energy).sum().item()) + 1


class LowRank(Compressor):
    """Factorise layers; each step after it may target the two factors.

    Args:
        rank_ratio: kept / full rank, in (0, 1].
        energy: instead of `rank_ratio`: the share of spectral energy that each layer keeps, in
            (0, 1]; layers then get ranks of their own.
        whiten: weigh the error by calibration inputs.
        rank_multiple: ranks are rounded to a multiple of it (down, but never to zero), which
            keeps matrix kernels and quantisation groups aligned.
        **selectors: `modality`, `role`, `granularity`.
    """

    stage = "structure"
    granularities = ("linear", "embedding", "conv")
    no_speedup = None

    def __init__(
        self,
        *,
        rank_ratio: float | None = None,
        energy: float | None = None,
        whiten: bool = True,
        rank_multiple: int = 8,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if (rank_ratio is None) == (energy is None):
            raise ValueError("lowrank needs either rank_ratio or energy: set one, the other null")
        for name, value in {"rank_ratio": rank_ratio, "energy": energy}.items():
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value} must lie in (0, 1]: it is the share that is kept")
        if rank_multiple < 1:
            raise ValueError(f"rank_multiple={rank_multiple} must be at least 1")
        self.rank_ratio = rank_ratio
        self.energy = energy
        self.rank_multiple = rank_multiple
        self.whiten = whiten
        self.needs = frozenset({INPUTS} if whiten else {})

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(t, weights[t.name], statistics.get(t.name)) for t in targets}

    def _decide(self, target: Target, weight: Tensor, statistic: Statistic | None) -> Decision:
        matrix = as_matrix(weight)
        rows, columns = matrix.shape
        if self.energy is not None:
            sigma = singular_values(matrix, _moment(target.granularity, statistic))
            wanted = rank_for_energy(sigma, self.energy)
        else:
            assert self.rank_ratio is not None
            wanted = round(self.rank_ratio * min(rows, columns))
        rank = max(wanted // self.rank_multiple, 1) * self.rank_multiple
        if rank * (rows + columns) >= rows * columns:
            limit = rows * columns / (rows + columns)
            return {
                LEFT_DENSE: f"rank {rank} would not shrink {rows}x{columns}; it pays below "
                f"{limit:.0f}"
            }
        return {"rank": rank}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        factored = factorise(module, decision["rank"])
        weight = getattr(module, parameter).detach()
        if not weight.is_meta:
            granularity = "embedding" if isinstance(module, nn.Embedding) else "linear"
            moment = _moment(granularity, statistic)
            factored.set_factors(*truncated_svd(as_matrix(weight), decision["rank"], moment))
        return factored


def _moment(granularity: str, statistic: Statistic | None) -> Tensor | None:
    if statistic is None or statistic.inputs is None or granularity == "embedding":
        return None
    return statistic.inputs.second_moment

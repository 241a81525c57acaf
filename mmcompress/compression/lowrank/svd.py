"""Low rank, W ≈ U Vᵀ: a layer becomes two thin ones.

Truncated SVD keeps the best rank-r approximation of the weight. With a weighting it keeps the best
one of W S, where S says which inputs matter:

* `whiten`: S Sᵀ is the second moment of the input, so that the layer's *output* on calibration
  data is approximated: "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language
  Model Compression", Wang et al. 2024, arXiv:2403.07378, section 3.1.
* `asvd`: S is diagonal, the mean magnitude of each input to the power α: "ASVD: Activation-aware
  Singular Value Decomposition for Compressing Large Language Models", Yuan et al. 2023,
  arXiv:2312.05821, section 3.2.
* `fisher`: S is diagonal, the root of the Fisher information summed over the weights that read an
  input: "Language model compression with weighted low-rank factorization", Hsu et al. 2022,
  arXiv:2207.00112, section 3.2 (the paper's W is our Wᵀ, so its rows are our columns).

Where we differ: S Sᵀ is damped, for small calibration sets leave it singular, and the singular
values are split evenly over both factors, so that fine-tuning sees factors of one size. Embeddings
are truncated without a weighting: a small calibration sample never reads most of their rows.

With `sequential`, blocks are factorized one after another, each with statistics of the inputs that
the factorized blocks before it give (arXiv:2403.07378, section 3.2). The paper then solves for U by
least squares and leaves V; here both are whitened by these inputs, and then U is that solution.
It costs one pass over the calibration data for each block.

The decomposition is that of the smaller Gram matrix, in float64, which is several times faster than
an SVD. Squaring halves the digits: singular values below 1e-8 of the largest are noise. That is
less than the float32 factors can hold.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import (
    LEFT_DENSE,
    Decision,
    as_matrix,
    warn_smallest,
)
from mmcompress.compression.modality_balance import WeighsTokens
from mmcompress.compression.statistics import GRADIENTS, INPUTS, Balance, Statistic
from mmcompress.compression.steps import InTurns, StructureStep
from mmcompress.functional.hessian import damp
from mmcompress.modules.lowrank import factorize

Weighting = Literal["none", "whiten", "asvd", "fisher"]

NEEDS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "whiten": frozenset({INPUTS}),
    "asvd": frozenset({INPUTS}),
    "fisher": frozenset({GRADIENTS}),
}


def input_moment(
    statistic: Statistic | None,
    weighting: Weighting,
    *,
    alpha: float = 0.5,
    balance: Balance = "none",
) -> Tensor | None:
    """S Sᵀ of a weighting.

    Args:
        statistic: of the weight, with what the weighting needs.
        alpha: exponent of `asvd`.
        balance: how much tokens of each modality count.
    Returns:
        (in, in), or (in,) where S is diagonal; None for `none` or without a statistic.
    """
    if statistic is None or weighting == "none":
        return None
    if weighting == "fisher":
        return as_matrix(statistic.needed_gradients.squared).sum(dim=0)
    if weighting == "asvd":
        return statistic.inputs_by(balance).abs_mean.pow(2 * alpha)
    return statistic.inputs_by(balance).second_moment


def whitening_root(moment: Tensor) -> Tensor:
    """Lower triangular S with S Sᵀ = moment + damping (arXiv:2403.07378, section 3.1).

    Args:
        moment: (in, in), symmetric, positive semi-definite; or (in,), the diagonal.
    Returns:
        (in, in) float64, invertible.
    """
    damped = damp(moment)
    return damped.sqrt().diag() if damped.ndim == 1 else torch.linalg.cholesky(damped)


def singular_values(weight: Tensor, moment: Tensor | None = None) -> Tensor:
    """Spectrum of W S: its squares are energies, of the output when S whitens the input.

    Args:
        weight: (out, in).
        moment: S Sᵀ before damping, (in, in) or (in,); None for S = 1.
    Returns:
        (min(out, in),) float64, descending.
    """
    energies = torch.linalg.eigvalsh(_small_gram(weight.double(), moment))
    return energies.clamp(min=0).sqrt().flip(0)


def truncated_svd(weight: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The rank-`rank` factors that minimize ‖(W − U Vᵀ) S‖.

    With S Sᵀ = X Xᵀ + λ1 the output error ‖(W − U Vᵀ) X‖ is never above that of the plain factors:
    the sum of it and λ ‖W − U Vᵀ‖² is smallest here, and the latter term smallest there.

    Args:
        weight: (out, in).
        rank: at least 1, at most min(out, in).
        moment: S Sᵀ before damping, (in, in) or (in,); None for S = 1, the plain SVD.
    Returns:
        U (out, rank) and Vᵀ (rank, in), of the dtype of `weight`.

    Example:
        >>> u, vt = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
        >>> (u @ vt).round().tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    matrix = weight.double()
    rows, columns = matrix.shape
    energies, vectors = torch.linalg.eigh(_small_gram(matrix, moment))  # ascending
    vectors = vectors[:, -rank:].flip(1)
    # The root of a singular value is the fourth root of an energy.
    half = energies[-rank:].flip(0).clamp(min=torch.finfo(torch.float64).tiny).pow(0.25)
    if rows <= columns:
        # U Uᵀ (W S) is the best approximation of W S, so that of W needs no inverse of S.
        u, vt = vectors * half, vectors.T @ matrix / half[:, None]
    else:
        root = None if moment is None else whitening_root(moment)
        u = (matrix if root is None else matrix @ root) @ vectors / half
        vt = half[:, None] * vectors.T
        if root is not None:
            vt = torch.linalg.solve_triangular(root, vt, upper=False, left=False)
    return u.to(weight.dtype), vt.to(weight.dtype)


def _small_gram(matrix: Tensor, moment: Tensor | None) -> Tensor:
    """The smaller of W S Sᵀ Wᵀ and Sᵀ Wᵀ W S: its eigenvalues are the squared singular values."""
    rows, columns = matrix.shape
    if rows <= columns:
        if moment is None:
            return matrix @ matrix.T
        damped = damp(moment)
        return (matrix * damped if damped.ndim == 1 else matrix @ damped) @ matrix.T
    weighted = matrix if moment is None else matrix @ whitening_root(moment)
    return weighted.T @ weighted


def rank_for_energy(sigma: Tensor, energy: float) -> int:
    """The smallest rank whose squared singular values add up to a share of all of them.

    Args:
        sigma: singular values (n,), descending.
        energy: the share, in (0, 1].

    Example:
        >>> rank_for_energy(torch.tensor([3.0, 1.0, 0.0]), 0.9)
        1
    """
    kept = sigma.square().cumsum(0) / sigma.square().sum()
    return int((kept < energy).sum().item()) + 1


def rounded_rank(wanted: float, rows: int, columns: int, *, multiple: int) -> tuple[int, str]:
    """A rank rounded down to a multiple, and never to zero; and why it would not pay.

    Args:
        wanted: the rank before it is rounded.
        rows, columns: of the matrix.
        multiple: what the rank becomes a multiple of, at least 1.
    Returns:
        The rank, and why it would not shrink the matrix; an empty reason when it would.
    """
    rank = max(int(wanted) // multiple, 1) * multiple
    if rank * (rows + columns) < rows * columns:
        return rank, ""
    limit = rows * columns / (rows + columns)
    return rank, f"rank {rank} would not shrink {rows}x{columns}; it pays below {limit:.0f}"


def block_by_block(targets: Sequence[Target]) -> list[list[Target]]:
    """In the order of computation: tables and patches, block 0 of all towers, block 1, …, the rest.

    A block's number is the first one in a path.
    """
    turns: dict[float, list[Target]] = {}
    for target in targets:
        number = re.search(r"\.(\d+)\.", target.name)
        if target.granularity in ("embedding", "conv"):
            turn = -1.0
        else:
            turn = float(number[1]) if number else float("inf")
        turns.setdefault(turn, []).append(target)
    return [turns[turn] for turn in sorted(turns)]


class LowRank(WeighsTokens, StructureStep, InTurns):
    """Layers as two thin ones, W ≈ U Vᵀ; a later step may target the two factors.

    Args:
        rank_ratio: kept / full rank, the same for all layers; null where `energy` says it. Legal:
            number in (0, 1], or null.
        energy: share of the spectral energy that each layer keeps, so that layers get ranks of
            their own; null where `rank_ratio` says it. Legal: number in (0, 1], or null.
        weighting: how calibration data weigh the error. Legal: `none`, `whiten`, `asvd` or
            `fisher`.
        alpha: exponent of `asvd`. Legal: number above 0.
        rank_multiple: ranks are rounded down to a multiple of it, and never to zero; this keeps
            matrix kernels and quantization groups aligned. Legal: whole number of at least 1.
        sequential: weigh each block by the inputs that the compressed blocks before it give. Legal:
            true or false.
        **settings: `modality`, `part`, `role`, `granularity`; and `modality_balance` of
            `WeighsTokens`.
    """

    edit = ("lowrank", 1)
    granularities: ClassVar[tuple[str, ...]] = ("linear", "embedding", "conv")
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "rank_ratio": (0.06, 0.12, 0.18, 0.25, 0.34, 0.45, 0.6)
    }
    no_speedup = None

    def __init__(
        self,
        *,
        rank_ratio: float | None = None,
        energy: float | None = None,
        weighting: Weighting = "whiten",
        alpha: float = 0.5,
        rank_multiple: int = 8,
        sequential: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if (rank_ratio is None) == (energy is None):
            raise ValueError("lowrank needs either rank_ratio or energy: set one, the other null")
        for name, value in {"rank_ratio": rank_ratio, "energy": energy}.items():
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value} must lie in (0, 1]: it is the share that is kept")
        if weighting not in NEEDS:
            raise ValueError(f"weighting={weighting!r} must be one of {', '.join(NEEDS)}")
        if alpha <= 0:
            raise ValueError(f"alpha={alpha} must be positive; weighting=none weighs nothing")
        if rank_multiple < 1:
            raise ValueError(f"rank_multiple={rank_multiple} must be at least 1")
        self.rank_ratio = rank_ratio
        self.energy = energy
        self.weighting: Weighting = weighting
        self.alpha = alpha
        self.rank_multiple = rank_multiple
        self.sequential = sequential
        self.needs = frozenset({self.need}) if INPUTS in NEEDS[weighting] else NEEDS[weighting]

    def varied(self, **changes: Any) -> Self:
        if "rank_ratio" in changes:
            changes["energy"] = None
        return super().varied(**changes)

    def in_turns(self, targets: Sequence[Target]) -> list[list[Target]]:
        return block_by_block(targets) if self.sequential else [list(targets)]

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(t, weights[t.name], statistics.get(t.name)) for t in targets}

    def _decide(self, target: Target, weight: Tensor, statistic: Statistic | None) -> Decision:
        matrix = as_matrix(weight)
        weighting: Weighting = "none" if target.granularity == "embedding" else self.weighting
        moment = input_moment(statistic, weighting, alpha=self.alpha, balance=self.modality_balance)
        rank, reason = self._paying_rank(matrix, moment)
        if reason:
            return {LEFT_DENSE: reason}
        return {"rank": rank, "weighting": weighting, "alpha": self.alpha, **self.decided()}

    def _paying_rank(self, matrix: Tensor, moment: Tensor | None) -> tuple[int, str]:
        """`rounded_rank` of what the settings ask for."""
        wanted = self._wanted_rank(matrix, moment)
        rank, reason = rounded_rank(wanted, *matrix.shape, multiple=self.rank_multiple)
        if wanted < rank and not reason:
            name = "rank_ratio" if self.energy is None else "energy"
            warn_smallest(f"{name}={getattr(self, name)}", f"rank {rank}")
        return rank, reason

    def _wanted_rank(self, matrix: Tensor, moment: Tensor | None) -> int:
        if self.energy is not None:
            return rank_for_energy(singular_values(matrix, moment), self.energy)
        assert self.rank_ratio is not None
        return round(self.rank_ratio * min(matrix.shape))

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        factored = factorize(module, decision["rank"])
        weight = getattr(module, parameter).detach()
        if not weight.is_meta:
            moment = input_moment(
                statistic,
                decision.get("weighting", "none"),
                alpha=decision.get("alpha", 0.5),
                balance=decision.get("modality_balance", "none"),
            )
            factored.set_factors(*truncated_svd(as_matrix(weight), decision["rank"], moment))
        return factored

"""QwT: each compressed block gets a linear map from its input that makes up for its error.

"Quantization without Tears", Fu et al. 2025, arXiv:2411.13918, section 3.2: y = l_q(x) + W x + b
with the least-squares W, b between the inputs of the compressed block and what its output lacks,
in closed form, block after block, each on what the compensated blocks before it give; kept only
where it explains something (R² > 0). Where we differ: the inputs' covariance is damped, by as much
as serves calibration samples best that took no part in the fit, and R² is measured on these too;
and `rank` keeps of W what the fitted outputs vary with most (reduced-rank regression), for a full
matrix can cost more than the codes of its block.

The map hangs on the block as a module named `compensation` whose output a forward hook adds, so
that the block keeps its class, its attributes and the names of its weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import Decision
from mmcompress.compression.calls import Call, block_calls, paired_stacks
from mmcompress.compression.statistics import Statistic, matching
from mmcompress.compression.steps import Compensates, StructureStep
from mmcompress.functional.hessian import ridge
from mmcompress.modules.compensation import NAME, compensate
from mmcompress.modules.lowrank import LowRankLinear
from mmcompress.system.progress import progress

HELD_OUT = 5
"""One in so many samples takes no part in the fit, and judges it."""

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Dampings that are tried, as shares of the mean variance of an input."""


@dataclass
class Moments:
    """Sums over tokens of inputs x and of what the output lacks, d; float64.

    Attributes:
        count: tokens.
        x, d: (in,) and (out,), sums.
        xx: (in, in), sum of x xᵀ.
        dx: (out, in), sum of d xᵀ.
        dd: sum of ‖d‖².
    """

    count: int
    x: Tensor
    d: Tensor
    xx: Tensor
    dx: Tensor
    dd: float

    @classmethod
    def of(cls, inputs: Tensor, lacking: Tensor) -> "Moments":
        """Args: inputs (tokens, in) and lacking (tokens, out)."""
        x, d = inputs.double(), lacking.double()
        return cls(len(x), x.sum(0), d.sum(0), x.T @ x, d.T @ x, float(d.square().sum()))

    def __add__(self, other: "Moments") -> "Moments":
        mine, theirs = vars(self), vars(other)
        return Moments(**{key: mine[key] + theirs[key] for key in mine})

    def regression(self, damping: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """W and b with the least Σ ‖d − W x − b‖² (arXiv:2411.13918, section 3.2), damped.

        Args:
            damping: share of the mean variance of an input that is added to each.
            rank: of W; None for any.
        Returns:
            W (out, in) and b (out,), float64.
        """
        mean_x, mean_d = self.x / self.count, self.d / self.count
        variance = self.xx / self.count - torch.outer(mean_x, mean_x)
        covariance = self.dx / self.count - torch.outer(mean_d, mean_x)
        damped = variance.clone()
        added = ridge(variance, damping).clamp(min=torch.finfo(torch.float64).tiny)
        damped.diagonal().add_(added)
        weight = torch.linalg.solve(damped, covariance.T).T
        if rank is not None:
            _, directions = torch.linalg.eigh(weight @ damped @ weight.T)
            kept = directions[:, -rank:]
            weight = kept @ (kept.T @ weight)
        return weight, mean_d - weight @ mean_x

    def explained(self, weight: Tensor, bias: Tensor) -> float:
        """R² of d ≈ W x + b: 1 for all of the variance, below 0 for worse than the mean."""
        fitted = (weight @ self.xx * weight).sum() + 2 * bias @ weight @ self.x
        crossed = (weight * self.dx).sum() + bias @ self.d
        residual = self.dd - 2 * crossed + fitted + self.count * bias @ bias
        total = self.dd - self.d @ self.d / self.count
        return 1 - float(residual) / float(total) if total > 0 else 0.0


def fit(used: Moments, held_out: Moments, rank: int | None) -> tuple[Tensor, Tensor, float]:
    """W and b over all samples, with the damping that serves the held-out ones best.

    Returns:
        W, b, and R² on the held-out samples of the fit without them.
    """
    scores = {share: held_out.explained(*used.regression(share, rank)) for share in DAMPINGS}
    best = max(scores, key=scores.__getitem__)
    return *(used + held_out).regression(best, rank), scores[best]


class QwT(StructureStep, Compensates):
    """Blocks with a linear map that makes up for what the other steps do to them.

    Args:
        rank: of the map; null for a full matrix, as in the paper. Legal: whole number of at least
            1, or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("compensation", 1)
    granularities = ("block",)
    no_speedup = "each block gets one more map"

    def __init__(self, *, rank: int | None = None, **selectors: Any) -> None:
        super().__init__(**selectors)
        if rank is not None and (not isinstance(rank, int) or rank < 1):
            raise ValueError(f"rank={rank} must be a positive whole number, or null for no bound")
        self.rank = rank

    def check_module(self, target: Target, backbone: Backbone) -> None:
        if target.modality not in backbone.modalities:
            raise ValueError(
                f"qwt follows a tower from block to block, and {target.module} lies behind the "
                f"towers: set modality=[{','.join(backbone.modalities)}]"
            )

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: {"rank": self.rank} for t in targets}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        return compensate(module, rank=decision["rank"])

    @torch.no_grad()
    def compensate(
        self, backbone: Backbone, dense: Backbone, batches: Sequence[dict[str, Tensor]]
    ) -> None:
        samples = sum(len(next(iter(batch.values()))) for batch in batches)
        if samples < HELD_OUT:
            raise ValueError(
                f"qwt has {samples} calibration pairs and judges by one in {HELD_OUT}: set "
                f"data.calibration_size to {HELD_OUT} at the least"
            )
        training = backbone.training
        backbone.eval()
        dense.eval()
        fix = "drop the step that did, or qwt"
        for path, ours, theirs in paired_stacks(backbone, dense, asks="qwt", fix=fix):
            if not any(NAME in block._modules for block in ours):
                continue
            modality = backbone.modality_of(f"{path}.")
            calls = block_calls(backbone, ours, modality, batches)
            dense_calls = block_calls(dense, theirs, modality, batches)
            valid = [backbone.pass_of(modality).valid(batch) for batch in batches]
            blocks = list(zip(ours, theirs, strict=True))
            for block, dense_block in progress(blocks, "compensate"):
                self._settle_block(block, dense_block, calls, dense_calls, valid)
        backbone.train(training)

    def _settle_block(
        self,
        block: nn.Module,
        dense_block: nn.Module,
        calls: Sequence[Call],
        dense_calls: Sequence[Call],
        valid: Sequence[Tensor | None],
    ) -> None:
        """Fit one block's map, and let both lists of calls hold what the next block reads."""
        parts: list[tuple[Moments, Moments]] = []
        first = 0
        with parametrize.cached():
            outputs = [call.run(block) for call in calls]
        for call, dense_call, output, tokens in zip(
            calls, dense_calls, outputs, valid, strict=True
        ):
            dense_call.hidden = dense_call.run(dense_block)
            lacking = dense_call.hidden - output
            parts.append(split_samples(call.hidden, lacking, tokens, first))
            first += len(output)
        if NAME in block._modules:
            used, held_out = (reduce(add, sums) for sums in zip(*parts, strict=True))
            weight, bias, explained = fit(used, held_out, self.rank)
            if explained > 0:
                _fill(block.get_submodule(NAME), weight, bias)
                outputs = [
                    output + block.get_submodule(NAME)(call.hidden)
                    for output, call in zip(outputs, calls, strict=True)
                ]
        for call, output in zip(calls, outputs, strict=True):
            call.hidden = output


def split_samples(
    inputs: Tensor, lacking: Tensor, valid: Tensor | None, first: int = 0
) -> tuple[Moments, Moments]:
    """Moments of the samples that are fitted to, and of those that are held out.

    Args:
        inputs, lacking: (B, T, D), or (T, D) where a tower takes all images as one sequence; each
            of its tokens is then a sample.
        valid: (B, L) bool, which tokens count, see `matching`; all when None.
        first: number of the first sample.
    """
    if inputs.ndim == 2:
        inputs, lacking = inputs[:, None], lacking[:, None]
    numbers = torch.arange(first, first + len(inputs), device=inputs.device)
    held_out = numbers % HELD_OUT == HELD_OUT - 1
    every = torch.ones_like(inputs[..., 0], dtype=torch.bool)
    counts = every if valid is None else matching(valid, every.shape)
    fitted, judging = counts & ~held_out[:, None], counts & held_out[:, None]
    return (
        Moments.of(inputs[fitted], lacking[fitted]),
        Moments.of(inputs[judging], lacking[judging]),
    )


def _fill(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    if isinstance(module, LowRankLinear):
        u, s, vt = torch.linalg.svd(weight)
        rank = module.v.out_features
        root = s[:rank].sqrt()
        module.set_factors(u[:, :rank] * root, root[:, None] * vt[:rank])
    else:
        cast(nn.Linear, module).weight.copy_(weight)
    assert isinstance(module.bias, Tensor)
    module.bias.copy_(bias)

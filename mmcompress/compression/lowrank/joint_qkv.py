"""Low rank of q, k and v as one matrix: [Q; K; V] ≈ [U_q; U_k; U_v] Vᵀ with one shared V.

All three read the same input, so that one subspace of it can serve them. The stacked matrix is
factorized as in `lowrank` (same weightings, same papers). Against three separate factorizations of
rank r, one of rank 3/2 r takes as many bytes where the input is as wide as the output. V is one
module that stands in three places: later steps target it once, and it is stored once. It is
computed three times, for libraries call q, k and v one after another.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Decision
from mmcompress.compression.lowrank.svd import (
    LowRank,
    Weighting,
    input_moment,
    truncated_svd,
)
from mmcompress.compression.statistics import GradientStatistic, Statistic
from mmcompress.modules.anatomy import ATTENTIONS, qkv_of
from mmcompress.modules.lowrank import LowRankLinear, joint_qkv


def projections(attention: str, names: Mapping[str, Any]) -> list[str]:
    """Names of the q, k and v weights of an attention, as far as there are such weights.

    Args:
        attention: path of the attention in the model.
        names: weights that there are, by name.
    """
    for parts in ATTENTIONS:
        found = [f"{attention}.{part}.weight" for part in (parts.q, parts.k, parts.v)]
        if any(name in names for name in found):
            return [name for name in found if name in names]
    return []


class JointQKV(LowRank):
    """Attentions whose q, k and v are factorized together, with one V for the three.

    Args:
        rank_ratio: kept rank / smaller side of the stacked matrix, which is the width of the input;
            null where `energy` says it. Legal: number in (0, 1], or null.
        **settings: the others are those of `LowRank`.
    """

    edit = ("joint_qkv", 1)
    granularities = ("attention",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "rank_ratio": (0.06, 0.12, 0.18, 0.25, 0.34, 0.5, 0.65)
    }

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {
            t.name: self._decide_jointly(
                [weights[name] for name in projections(t.name, weights)],
                self.statistic_for(t, statistics),
            )
            for t in targets
        }

    def _decide_jointly(self, matrices: Sequence[Tensor], statistic: Statistic | None) -> Decision:
        if len(matrices) < 3:
            return {LEFT_DENSE: "its q, k and v are not three linear layers"}
        if len({matrix.shape[1] for matrix in matrices}) > 1:
            return {LEFT_DENSE: "its q, k and v read inputs of different widths"}
        stacked = torch.cat(list(matrices))
        moment = input_moment(statistic, self.weighting, alpha=self.alpha)
        rank, reason = self._paying_rank(stacked, moment)
        if reason:
            return {LEFT_DENSE: reason}
        return {"rank": rank, "weighting": self.weighting, "alpha": self.alpha}

    @classmethod
    def statistic_for(cls, target: Target, statistics: Mapping[str, Statistic]) -> Statistic | None:
        """Of the common input; of the stacked weight."""
        seen = [statistics[name] for name in projections(target.name, statistics)]
        if not seen:
            return None
        gradients = [s.gradients for s in seen if s.gradients is not None]
        stacked = None
        if gradients:
            stacked = GradientStatistic(
                torch.cat([g.mean for g in gradients]), torch.cat([g.squared for g in gradients])
            )
        return Statistic(seen[0].inputs, gradients=stacked)

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        weights = [cast(nn.Linear, layer).weight.detach() for layer in qkv_of(module)]
        joint_qkv(module, rank=decision["rank"])
        if not weights[0].is_meta:
            weighting: Weighting = decision.get("weighting", "none")
            moment = input_moment(statistic, weighting, alpha=decision.get("alpha", 0.5))
            u, vt = truncated_svd(torch.cat(weights), decision["rank"], moment)
            parts = u.split([len(weight) for weight in weights])
            for layer, part in zip(qkv_of(module), parts, strict=True):
                cast(LowRankLinear, layer).set_factors(part, vt)
        return module

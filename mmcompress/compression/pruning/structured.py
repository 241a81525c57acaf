"""Structured pruning: heads, MLP neurons and whole blocks are removed, and the model is smaller.

Three things in three places: `importance` scores the structures, this file selects, `cuts` removes.

`update` lets the columns that stay make up for those that go, by least squares on calibration data:
"Channel Pruning for Accelerating Very Deep Neural Networks", He et al. 2017, arXiv:1707.06168,
section 3.1, with the damping of GPTQ and SparseGPT.

Compared across layers, Taylor importances are taken as they are; the others, which know nothing of
the loss, are divided by their mean in the module.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import LEFT_DENSE, Decision, warn_smallest
from mmcompress.compression.pruning.importance import NEEDS, Importance, chosen, importances
from mmcompress.compression.statistics import INPUTS, Statistic
from mmcompress.compression.steps import StructureStep
from mmcompress.functional.hessian import damp
from mmcompress.modules.anatomy import ATTENTIONS, MLPS, is_stack
from mmcompress.modules.cuts import (
    check_attention,
    check_mlp,
    check_stack,
    check_unshared,
    expand,
    head_dim,
    is_attention,
    keep_structures,
)

TINY = torch.finfo(torch.float32).tiny

Scope = Literal["uniform", "modality", "global"]


def reconstruction_gain(moment: Tensor, kept: Sequence[int]) -> Tensor:
    """The G with which W G, reading the kept inputs, is nearest to W reading all.

    Args:
        moment: second moment of the input, (in, in).
        kept: which inputs stay.
    Returns:
        (in, kept) float64; on the kept rows about the identity, exactly so without correlations.
    """
    damped = damp(moment)
    index = torch.tensor(list(kept), device=moment.device)
    columns = damped.index_select(1, index)
    return torch.linalg.solve(columns.index_select(0, index), columns.T).T


def keep_counts(
    scores: Mapping[str, Tensor], pools: Mapping[str, str], pruning_ratio: float, multiple: int
) -> dict[str, int]:
    """How many structures each module keeps.

    Args:
        scores: (structures,) each, by module.
        pools: by module; those in one pool are compared with each other.
        pruning_ratio: share of the structures in each pool that goes.
        multiple: what is kept is rounded to the nearest multiple of it, and not to zero.
    Returns:
        By module.
    """
    counts: dict[str, int] = {}
    for pool in dict.fromkeys(pools.values()):
        names = [name for name in scores if pools[name] == pool]
        owners = torch.cat([torch.full((len(scores[n]),), i) for i, n in enumerate(names)])
        order = torch.cat([scores[n].cpu() for n in names]).argsort(descending=True, stable=True)
        kept = owners[order[: len(order) - round(pruning_ratio * len(order))]]
        found = torch.bincount(kept, minlength=len(names)).tolist()
        counts |= dict(zip(names, found, strict=True))
    return {
        name: min(max(round(count / multiple), 1) * multiple, len(scores[name]))
        for name, count in counts.items()
    }


class Structured(StructureStep):
    """A model without its least important heads (`attention`), neurons (`mlp`) or blocks (`stack`).

    Args:
        pruning_ratio: share of the structures that is removed. Legal: number in (0, 1).
        importance: what counts as important. Legal: `magnitude`, `taylor`, `activation` or `obs`.
        scope: what is compared with each other: the structures of one module, which takes the same
            share of each (`uniform`); all of one kind in a tower (`modality`); or in all towers
            (`global`). Legal: `uniform`, `modality` or `global`.
        multiple: what a module keeps is rounded to a multiple of it. Legal: whole number of at
            least 1.
        update: let what is left make up for what went, by least squares; blocks have no such
            update. Legal: true or false.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("cut", 1)
    granularities = ("attention", "mlp", "stack")
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "pruning_ratio": (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
    }
    no_speedup = None

    def __init__(
        self,
        *,
        pruning_ratio: float,
        importance: Importance = "taylor",
        scope: Scope = "uniform",
        multiple: int = 1,
        update: bool = False,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if not 0 < pruning_ratio < 1:
            raise ValueError(
                f"pruning_ratio={pruning_ratio} must lie between 0 and 1, both excluded: it is the "
                "share of the structures that is removed"
            )
        if importance not in NEEDS:
            raise ValueError(f"importance={importance!r} must be one of {', '.join(NEEDS)}")
        if scope not in get_args(Scope):
            raise ValueError(f"scope={scope!r} must be one of {', '.join(get_args(Scope))}")
        if multiple < 1:
            raise ValueError(f"multiple={multiple} must be at least 1")
        self.pruning_ratio = pruning_ratio
        self.importance: Importance = importance
        self.scope: Scope = scope
        self.multiple = multiple
        self.update = update
        self.needs = NEEDS[importance] | (frozenset({INPUTS}) if update else frozenset())

    def check_module(self, target: Target, backbone: Backbone) -> None:
        module = backbone.model.get_submodule(target.module)
        if target.granularity == "attention":
            check_attention(module)
        if target.granularity == "mlp":
            check_mlp(module)
        if is_stack(module):
            owner = backbone.model.get_submodule(target.module.rpartition(".")[0])
            for path in check_stack(target.module, module, owner):
                check_unshared(path, backbone.model)
        else:
            check_unshared(target.module, backbone.model)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        scores = {t.name: importances(t, weights, statistics, self.importance) for t in targets}
        if self.importance != "taylor":
            # A module that gives nothing is zero throughout, and goes first.
            scores = {name: s / s.mean().clamp(min=TINY) for name, s in scores.items()}
        pools = {t.name: self._pool(t) for t in targets}
        counts = keep_counts(scores, pools, self.pruning_ratio, self.multiple)
        if round((1 - self.pruning_ratio) * max(map(len, scores.values())) / self.multiple) < 1:
            warn_smallest(f"pruning_ratio={self.pruning_ratio}", f"{self.multiple} of each")
        decisions: dict[str, Decision] = {}
        for target in targets:
            found, count = scores[target.name], counts[target.name]
            if count == len(found):
                decisions[target.name] = self._left_dense(count)
                continue
            indices = chosen(target, weights, statistics, self.importance, found, count)
            update = self.update and target.granularity != "stack"
            decisions[target.name] = {"kept": count, "indices": indices, "update": update}
        return decisions

    def _left_dense(self, count: int) -> Decision:
        return {
            LEFT_DENSE: f"of its {count} structures none goes at "
            f"pruning_ratio={self.pruning_ratio} and multiple={self.multiple}"
        }

    def _pool(self, target: Target) -> str:
        kind = target.granularity
        return {
            "uniform": target.name,
            "modality": f"{kind} of {target.modality}",
            "global": kind,
        }[self.scope]

    @classmethod
    def statistic_for(cls, target: Target, statistics: Mapping[str, Statistic]) -> Statistic | None:
        """That of the layer which reads the structures."""
        outs = [p.out for p in ATTENTIONS] + [p.down for p in MLPS]
        names = [f"{target.name}.{out}{factor}.weight" for out in outs for factor in ("", ".v")]
        return next((statistics[name] for name in names if name in statistics), None)

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        kept, gain = decision["indices"], None
        if decision["update"] and statistic is not None:
            columns = expand(kept, head_dim(module)) if is_attention(module) else kept
            gain = reconstruction_gain(statistic.needed_inputs.second_moment, columns)
        return keep_structures(module, kept, gain=gain)

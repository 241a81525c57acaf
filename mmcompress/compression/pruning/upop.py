"""UPop: one search over both towers for the structures that go, while the model trains.

"UPop: Unified and Progressive Pruning for Compressing Vision-Language Transformers", Shi et al.
2023, arXiv:2301.13741, section 3, in its form for CLIP. Every MLP neuron and every dimension of an
attention's heads, the same one in all heads, has a mask α: the neuron, or q, k and v of that
dimension, are multiplied by it. α is not trained. Its gradient says what the loss would gain if α
shrank: gradients are standardized over all attention masks and over all MLP masks, pooled over
towers and layers, and the highest go until the weights behind them make up the share that is due.
Their α moves from 1 to 0 as that share grows, so that at the end of the search removing them
changes nothing. Training then goes on with what is left.

Where we differ:

* α is put on weights. q and k matter only through their product, so k's rows take α²; its bias,
  which adds the same to all scores of a query, has no say; v's α stands on the columns of the
  output projection, a neuron's on those of the second layer. The function is the same.
* The cost of a mask is the number of weights that go with it; the paper's code takes a constant.
* Gradients are summed over the whole search, those of calibration batches being the first: rankings
  by the gradients of a few steps keep changing, and what was to vanish comes back. A model that is
  never trained is pruned by calibration alone.
* `importance: taylor` ranks by the least Σ g² instead, for a high gradient, of either sign, also
  marks a structure that the loss depends on (Molchanov et al. 2019, arXiv:1906.10771, equation 8,
  of a gate).
* The L1 penalty on α is left out: it adds a constant to the gradients, which standardizing removes.
* A module always keeps one structure.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import Applied, Decision
from mmcompress.compression.pruning.structure_masks import (
    Layers,
    StructureMask,
    cost,
    is_removable,
    unit_of,
    units_of,
)
from mmcompress.compression.statistics import GRADIENTS, Statistic
from mmcompress.compression.steps import CutsWhenBaked, FollowsSchedule, MaskStep
from mmcompress.modules.anatomy import attention_parts
from mmcompress.modules.cuts import (
    check_unshared,
    head_dim_columns,
    keep_head_dims,
    keep_neurons,
)

log = logging.getLogger(__name__)


def due_share(searched: float) -> float:
    """Share of the final pruning that is due (arXiv:2301.13741, equation 7).

    Args:
        searched: share of the search that is done, in [0, 1].

    Example:
        >>> due_share(0.0), due_share(1.0)
        (0.0, 1.0)
    """
    return math.sqrt((1 - math.cos(math.pi * searched)) / 2)


def choose(
    gradients: Sequence[Tensor], kinds: Sequence[str], costs: Sequence[int], share: float
) -> list[Tensor]:
    """Which structures go: those whose masks have the highest standardized gradients.

    Args:
        gradients: one tensor (structures,) per module.
        kinds: of the modules; gradients are standardized within a kind.
        costs: weights behind one structure of each module.
        share: of all weights that are to go, in [0, 1].
    Returns:
        bool (structures,) per module, True = goes; at least one False in each.
    """
    standard = list(gradients)
    for kind in set(kinds):
        pooled = torch.cat([g for g, k in zip(gradients, kinds, strict=True) if k == kind])
        spread = pooled.std(correction=0).clamp(min=torch.finfo(pooled.dtype).tiny)
        for i, gradient in enumerate(gradients):
            if kinds[i] == kind:
                standard[i] = (gradient - pooled.mean()) / spread
    pairs = zip(standard, costs, strict=True)
    prices = torch.cat([torch.full_like(g, cost, dtype=torch.float64) for g, cost in pairs])
    ranked = [g.index_fill(0, g.argmin(), -math.inf) for g in standard]  # one stays in each
    order = torch.cat(ranked).argsort(descending=True, stable=True)
    spent = prices[order].cumsum(0)
    within = spent <= share * prices.sum() + 0.5
    goes = torch.zeros_like(within)
    goes[order] = within & torch.cat(ranked)[order].isfinite()
    return list(goes.split([len(g) for g in gradients]))


class UPop(MaskStep[StructureMask], CutsWhenBaked, FollowsSchedule):
    """A model without the neurons and head dimensions that a search during training empties.

    Roles are those of attentions and MLPs: `attn.*`, `cross.*`, `mlp.*`.

    Args:
        pruning_ratio: share of the weights of attentions and MLPs that is removed. Legal: number in
            (0, 1).
        search: share of training in which masks shrink; in the rest the model recovers. Legal:
            number in (0, 1].
        updates: how often the search chooses anew. Legal: whole number of at least 1.
        importance: `gradient` is the paper's. Legal: `gradient` or `taylor`.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = ("linear",)
    learns_mask = True
    needs = frozenset({GRADIENTS})
    edit = ("cut", 1)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"pruning_ratio": (0.25, 0.5, 0.75)}
    no_speedup = None

    def __init__(
        self,
        *,
        pruning_ratio: float,
        search: float = 0.5,
        updates: int = 50,
        importance: Literal["gradient", "taylor"] = "gradient",
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if not 0 < pruning_ratio < 1:
            raise ValueError(
                f"pruning_ratio={pruning_ratio} must lie between 0 and 1, both excluded: it is the "
                "share of the weights that is removed"
            )
        if not 0 < search <= 1:
            raise ValueError(f"search={search} must lie in (0, 1]: it is a share of training")
        if updates < 1:
            raise ValueError(f"updates={updates} must be at least 1")
        self.pruning_ratio = pruning_ratio
        self.search = search
        if importance not in ("gradient", "taylor"):
            raise ValueError(f"importance={importance!r} must be gradient or taylor")
        self.updates = updates
        self.importance = importance

    @classmethod
    def candidates(cls, backbone: Backbone) -> list[Target]:
        """The weights that masks are put on: k, out and the second layer of each MLP.

        A tower of which nothing can go, such as a language model like Llama, has none: the report
        names it as untouched.
        """
        weights = {t.name: t for t in backbone.targets()}
        units = [u for u in backbone.units() if u.granularity in ("attention", "mlp")]
        modules = {unit: backbone.model.get_submodule(unit.module) for unit in units}
        removable = {unit for unit, module in modules.items() if is_removable(module)}
        towers = {unit.modality for unit in removable}
        found = []
        for unit, module in modules.items():
            if unit.modality in towers:
                check_unshared(unit.module, backbone.model)
                heads = max(unit.heads, 1) if unit in removable else 0
                for name in Layers(unit.module, module).masked:
                    found.append(dataclasses.replace(weights[name], heads=heads))
        return found

    def select(self, targets: Sequence[Target]) -> list[Target]:
        chosen = super().select(targets)
        for kind in ("attn", "cross"):
            if len({f"{kind}.k", f"{kind}.out"} & {t.role for t in chosen}) == 1:
                raise ValueError(
                    f"role={self.role} takes one of {kind}.k and {kind}.out, and the masks of a "
                    f"head lie on both: use {kind}.*, mlp.* or null"
                )
        whole = next((t for t in chosen if not t.heads), None)
        if whole is not None:
            part = "dimensions of heads" if whole.role.endswith((".k", ".out")) else "neurons"
            raise ValueError(
                f"no {part} can go around {whole.name}, for something else there depends on all of "
                "them (a rotation by position, a norm, a gate): leave it out with role or "
                "modality, or choose compression=heads"
            )
        return chosen

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {
            t.name: {
                "unit": unit_of(t),
                "heads": t.heads,
                "rows": t.role.endswith(".k"),
                "squared": self.importance == "taylor",
            }
            for t in targets
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> StructureMask:
        gradients = None if statistic is None else statistic.gradients
        return StructureMask(
            getattr(module, parameter).detach(),
            **decision,
            gradient=None if gradients is None else gradients.mean,
        )

    def on_step(self, applied: Mapping[str, Applied[StructureMask]], progress: float) -> None:
        searched = min(progress / self.search, 1.0)
        update = int(searched * self.updates)
        units = units_of(applied)
        if update == 0 or not units or int(units[0][0].update) == update:
            return
        share = due_share(update / self.updates)
        sign = -1 if self.importance == "taylor" else 1  # the highest go
        goes = choose(
            [sign * torch.stack([mask.gathered for mask in masks]).sum(dim=0) for masks in units],
            ["attention" if len(masks) > 1 else "mlp" for masks in units],
            [cost(masks, applied) for masks in units],
            share * self.pruning_ratio,
        )
        for masks, chosen in zip(units, goes, strict=True):
            for mask in masks:
                mask.set_alpha(torch.where(chosen, 1.0 - share, 1.0).to(mask.alpha), update)

    def finalize(self, parametrization: StructureMask, weight: Tensor) -> Encoding:
        kept = parametrization.alpha.ne(0).repeat(parametrization.heads)
        mask = kept[:, None] if parametrization.rows else kept
        return Encoding(mask=mask.expand_as(weight))

    def cut(
        self,
        backbone: Backbone,
        applied: Mapping[str, Applied[StructureMask]],
        encodings: dict[str, Encoding],
    ) -> dict[str, Decision]:
        cuts: dict[str, Decision] = {}
        for masks in units_of(applied):
            path, kept = masks[-1].unit, masks[-1].alpha.nonzero()[:, 0].tolist()
            module = backbone.model.get_submodule(path)
            layers = Layers(path, module)
            heads = attention_parts(module) is not None
            columns = head_dim_columns(module, kept) if heads else kept
            try:
                encodings |= layers.cut_encodings(encodings, columns)
            except ValueError as reason:
                log.warning("%s keeps its size and its zeros: %s", path, reason)
                continue
            if heads:
                keep_head_dims(module, kept)
                cuts[path] = {"kept": len(kept), "of": "head_dims"}
            else:
                keep_neurons(module, kept)
                cuts[path] = {"kept": len(kept)}
        return cuts

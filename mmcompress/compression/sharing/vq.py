"""Output-aware vector quantization: runs of weights share entries that keep the layer's output.

"GPTVQ: The Blessing of Dimensionality for LLM Quantization", van Baalen et al. 2024,
arXiv:2402.15319, section 3: k-means weighted by the second moment of the input gives a codebook;
the columns are then assigned block by block, and what an assignment misses is made up for in later
columns, as in GPTQ; at last the entries move to where the output error is least. Where we differ:
the distance to an entry is the full quadratic form of the block's part of the inverse Hessian, not
its diagonal; the entries' least squares problem is solved by conjugate gradients instead of
gradient descent; scales are one per row, its root mean square; entries are float16, not int8;
and one codebook may serve several weights. Afterwards entries are trained; the assignment is fixed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    LEFT_DENSE,
    Applied,
    Decision,
    as_matrix,
)
from mmcompress.compression.sharing.codebook import (
    block_in,
    check_codebook_arguments,
    does_not_fit,
    rounded_entries,
    would_not_shrink,
)
from mmcompress.compression.sharing.output_aware import Layer, fit
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import SharesTensors, ValueStep
from mmcompress.functional.float16 import round_to_float16
from mmcompress.functional.lookup import lookup

Scope = Literal["weight", "role", "modality"]
SCOPES = ("weight", "role", "modality")


class VectorLookup(nn.Module):
    """Parametrization W → C[I], or C[I] · scale of the row.

    Args:
        layer: to be quantized.
        clusters, block_size, seed: of the codebook.
        row_scale: whether rows have a scale.
        group: layers of one group will share a codebook; alone when None.
    """

    indices: Tensor
    scale: Tensor | None

    def __init__(
        self,
        layer: Layer,
        *,
        clusters: int,
        block_size: int,
        seed: int,
        row_scale: bool,
        group: str | None,
    ) -> None:
        super().__init__()
        self.group, self.seed = group, seed
        blank = layer.weight.new_zeros(clusters, block_size)
        blocks = layer.weight.numel() // block_size
        self.codebook = nn.Parameter(blank)
        self.register_buffer("indices", torch.zeros(blocks, dtype=torch.int64, device=blank.device))
        self.register_buffer("scale", layer.scale if row_scale else None)
        self.layer: Layer | None = layer
        if group is None:
            fit_together([self])

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        entries = rounded_entries(self.codebook)
        return lookup(self.indices, entries, matrix.shape, self.scale).view_as(weight)


def fit_together(lookups: Sequence[VectorLookup]) -> None:
    """Give all of them one codebook, fitted to all their layers."""
    layers = [p.layer for p in lookups if p.layer is not None]
    first = lookups[0]
    clusters, block_size = first.codebook.shape
    codebook, indices = fit(layers, clusters=clusters, block_size=block_size, seed=first.seed)
    first.codebook.data.copy_(codebook)
    for one, index in zip(lookups, indices, strict=True):
        one.codebook = first.codebook
        one.indices.copy_(index)
        one.layer = None


class VectorQuantizer(ValueStep[VectorLookup], SharesTensors):
    """Runs of weights replaced by codebook entries, chosen by what they do to the layer's output.

    Args:
        clusters: entries of a codebook. Legal: whole number from 2 to 65536.
        block_size: neighbors in a row that form one entry. Where it does not divide the columns of
            a weight, the largest smaller divisor takes its place. Legal: whole number of at least
            1.
        codebook_scope: what shares a codebook: nothing (`weight`), the weights of one `role` in one
            tower, or all weights of a tower (`modality`). Legal: `weight`, `role` or `modality`.
        row_scale: multiply entries by one scale per row. Legal: true or false.
        seed: draws the vectors that k-means starts from. Legal: whole number.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"clusters": (16, 64, 256, 1024)}
    no_speedup = "shared weights are looked up into float32 before they multiply"
    trains_weight = False
    keeps_zeros = False

    def __init__(
        self,
        *,
        clusters: int,
        block_size: int = 4,
        codebook_scope: Scope = "weight",
        row_scale: bool = True,
        seed: int = 0,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        check_codebook_arguments(clusters, block_size)
        if codebook_scope not in SCOPES:
            raise ValueError(
                f"codebook_scope={codebook_scope!r} must be one of {', '.join(SCOPES)}"
            )
        self.clusters, self.block_size, self.seed = clusters, block_size, seed
        self.codebook_scope: Scope = codebook_scope
        self.row_scale = row_scale
        self.needs = frozenset({"inputs"})

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        plan: dict[str, Decision] = {}
        members: dict[tuple[str, int], list[Target]] = {}
        for target in targets:
            weight = weights[target.name]
            reason = does_not_fit(weight, self.block_size)
            if reason:
                plan[target.name] = {LEFT_DENSE: reason}
                continue
            block_size = block_in(weight, self.block_size)
            members.setdefault((self._group(target, block_size), block_size), []).append(target)
        for (group, block_size), sharing in members.items():
            decision = self._decide(group, block_size, [weights[t.name] for t in sharing])
            plan |= {t.name: decision for t in sharing}
        return {t.name: plan[t.name] for t in targets}

    def _group(self, target: Target, block_size: int) -> str:
        by = {
            "weight": target.name,
            "role": f"{target.modality} {target.role}",
            "modality": target.modality,
        }
        return f"{by[self.codebook_scope]} {self.clusters}x{block_size}"

    def _decide(self, group: str, block_size: int, weights: Sequence[Tensor]) -> Decision:
        size = sum(weight.numel() for weight in weights)
        rows = sum(len(weight) for weight in weights)
        reason = would_not_shrink(
            size,
            clusters=self.clusters,
            block_size=block_size,
            extra_bits=rows * 16 * self.row_scale,
        )
        if reason:
            return {LEFT_DENSE: reason}
        return {
            "clusters": self.clusters,
            "block_size": block_size,
            "row_scale": self.row_scale,
            "seed": self.seed,
            "group": None if self.codebook_scope == "weight" else group,
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> VectorLookup:
        weight = as_matrix(getattr(module, parameter).detach())
        layer = Layer.of(weight, statistic, row_scale=decision["row_scale"])
        return VectorLookup(layer, **decision)

    def share(self, applied: Mapping[str, Applied[VectorLookup]]) -> None:
        groups: dict[str, list[VectorLookup]] = {}
        for one in applied.values():
            shared = one.parametrization
            if shared.group is not None and shared.layer is not None:
                groups.setdefault(shared.group, []).append(shared)
        for lookups in groups.values():
            fit_together(lookups)

    def finalize(self, parametrization: VectorLookup, weight: Tensor) -> Encoding:
        # Rounded where it lies, and not copied: what several weights share is stored once.
        codebook = parametrization.codebook.requires_grad_(False)
        codebook.copy_(round_to_float16(codebook))
        tensors = {"indices": parametrization.indices, "codebook": codebook}
        values: dict[str, Any] = {"codec": "codebook"}
        if parametrization.scale is not None:
            tensors["scale"] = parametrization.scale
            values["group_size"] = weight[0].numel()
        return Encoding(values=values, tensors=tensors)

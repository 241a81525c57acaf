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

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    unit_of,
)
from mmcompress.compression.sharing.codebook import (
    block_in,
    check_codebook_arguments,
    does_not_fit,
    rounded_entries,
    would_not_shrink,
)
from mmcompress.compression.statistics import InputStatistic, Statistic
from mmcompress.compression.steps import SharesTensors, ValueStep
from mmcompress.functional.conjugate_gradients import conjugate_gradients
from mmcompress.functional.error_feedback import feed_back_joint_errors
from mmcompress.functional.float16 import round_to_float16
from mmcompress.functional.hessian import ridge
from mmcompress.functional.kmeans import nearest, weighted_kmeans
from mmcompress.functional.lookup import lookup

SAMPLE = 65536
"""Vectors that k-means looks at, at least 64 per entry."""

REFITS = 12
"""Iterations of the conjugate gradients."""

Scope = Literal["weight", "role", "modality"]
SCOPES = ("weight", "role", "modality")


@dataclass
class Layer:
    """One weight that is to be quantized.

    Attributes:
        weight: (rows, columns).
        inputs: of a linear layer or a convolution; None when all columns count the same.
        row_weight: (rows,), how much each row counts.
        scale: (rows, 1) float16, by which entries are multiplied.
    """

    weight: Tensor
    inputs: InputStatistic | None
    row_weight: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, statistic: Statistic | None, *, row_scale: bool) -> "Layer":
        """With what calibration says: of inputs, or for an embedding of rows."""
        inputs, row_weight = None, weight.new_ones(len(weight))
        if statistic is not None and statistic.inputs is not None:
            seen = statistic.inputs.second_moment
            if seen.ndim == 1:  # how often each row of a table was read
                row_weight = smoothed_frequency(seen)
            else:
                inputs = statistic.inputs
        return cls(weight, inputs, row_weight, rms_scale(weight, row_scale))

    @property
    def normalized(self) -> Tensor:
        """The weight in units of its scale."""
        return self.weight / self.scale.float()

    @property
    def moment(self) -> Tensor | None:
        """(columns, columns), of the input."""
        return None if self.inputs is None else self.inputs.second_moment

    @property
    def _ridge(self) -> Tensor:
        assert self.moment is not None
        return ridge(self.moment).clamp(min=1e-14)

    @property
    def importance(self) -> Tensor:
        """How much the square of each entry counts, (rows, columns): the Hessian's diagonal."""
        columns = self.weight.new_ones(self.weight.shape[1])
        if self.moment is not None:
            columns = self.moment.diagonal() + self._ridge
        return self.row_weight[:, None] * self.scale.float().square() * columns

    def times_hessian(self, difference: Tensor) -> Tensor:
        """D H, rows weighted; H is the damped moment.

        Args:
            difference: D (rows, columns), of weights.
        """
        product = difference
        if self.moment is not None:
            product = difference @ self.moment + self._ridge * difference
        return product * self.row_weight[:, None]

    def error(self, quantized: Tensor) -> float:
        """Squared output error tr(D H Dᵀ), D the difference to the weight."""
        difference = self.weight - quantized
        return float((self.times_hessian(difference) * difference).sum())


def smoothed_frequency(counts: Tensor) -> Tensor:
    """How much each row of a table counts: calibration is a sample, and unread rows matter too.

    Args:
        counts: (rows,), how often calibration data read each row.
    Returns:
        (rows,), positive: one more mean reading for each.
    """
    return counts + counts.mean().clamp(min=1e-6)


def rms_scale(weight: Tensor, wanted: bool) -> Tensor:
    """Root mean square of each row, or ones.

    Args:
        weight: (rows, columns).
        wanted: whether rows have a scale; ones otherwise.
    Returns:
        (rows, 1) float16.
    """
    if not wanted:
        return torch.ones(len(weight), 1, dtype=torch.float16, device=weight.device)
    limits = torch.finfo(torch.float16)
    rms = weight.float().square().mean(dim=1, keepdim=True).sqrt()
    return rms.clamp(limits.smallest_normal, limits.max).half()


def assign(layer: Layer, codebook: Tensor) -> Tensor:
    """Entry of each block, with the error fed into later columns (arXiv:2402.15319, algorithm 1).

    Args:
        layer: R rows, C columns.
        codebook: (k, d); d divides C.
    Returns:
        (R · C / d,) int64, row by row.
    """
    size = codebook.shape[1]
    left = layer.normalized
    if layer.inputs is None:
        return nearest(left.reshape(-1, size), codebook)[0]
    chosen = []

    def nearest_entries(start: int, inverse: Tensor) -> Tensor:
        run = left[:, start : start + size]
        indices, _ = nearest(run @ inverse, codebook @ inverse)
        chosen.append(indices)
        return codebook[indices].T

    factor = layer.inputs.inverse_cholesky()
    feed_back_joint_errors(left.T, factor, nearest_entries, size=size)
    return torch.stack(chosen, dim=1).flatten()


def refit(
    codebook: Tensor, layers: Sequence[Layer], indices: Sequence[Tensor], shares: Sequence[float]
) -> Tensor:
    """Entries of less output error at a fixed assignment (arXiv:2402.15319, section 3.3).

    Least squares by conjugate gradients with a diagonal preconditioner; the error never rises.

    Args:
        codebook: (k, d), where to start.
        layers: that read it.
        indices: of each layer.
        shares: how much the error of each layer counts.
    Returns:
        (k, d).
    """
    places = list(zip(layers, indices, shares, strict=True))

    def gather(entries: Tensor, layer: Layer, index: Tensor) -> Tensor:
        return lookup(index, entries, layer.weight.shape) * layer.scale.float()

    def scatter(field: Tensor, index: Tensor) -> Tensor:
        blocks = field.reshape(-1, codebook.shape[1])
        return torch.zeros_like(codebook).index_add_(0, index, blocks)

    def pulled(difference: Tensor, layer: Layer, index: Tensor) -> Tensor:
        return scatter(layer.times_hessian(difference) * layer.scale.float(), index)

    residual, diagonal = torch.zeros_like(codebook), torch.zeros_like(codebook)
    for layer, index, share in places:
        difference = layer.weight - gather(codebook, layer, index)
        residual += share * pulled(difference, layer, index)
        diagonal += share * scatter(layer.importance, index)

    def normal(direction: Tensor) -> Tensor:
        curved = torch.zeros_like(codebook)
        for layer, index, share in places:
            curved += share * pulled(gather(direction, layer, index), layer, index)
        return curved

    return conjugate_gradients(codebook, residual, normal, diagonal, steps=REFITS, tolerance=1e-12)


def fit(
    layers: Sequence[Layer], *, clusters: int, block_size: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """One codebook for all layers, and the entries that each reads.

    Every layer counts by its output error relative to its output energy.

    Args:
        layers: columns divisible by `block_size`.
        clusters: k.
        block_size: d.
        seed: of k-means and of the vectors that it sees.
    Returns:
        codebook (k, d) float32, by `round_to_float16`; indices (rows · columns / d,) of each layer.
    """
    unit = unit_of([layer.weight for layer in layers])
    layers = [dataclasses.replace(layer, weight=layer.weight / unit) for layer in layers]
    shares = [1 / max(layer.error(torch.zeros_like(layer.weight)), 1e-30) for layer in layers]
    generator = torch.Generator().manual_seed(seed)
    wanted = max(SAMPLE, 64 * clusters)
    total = sum(layer.weight.numel() // block_size for layer in layers)
    vectors, importance = [], []
    for layer, share in zip(layers, shares, strict=True):
        blocks = layer.normalized.reshape(-1, block_size)
        weights = (share * layer.importance).reshape(-1, block_size)
        if total > wanted:
            drawn = torch.randperm(len(blocks), generator=generator)
            drawn = drawn[: max(len(blocks) * wanted // total, clusters)].to(blocks.device)
            blocks, weights = blocks[drawn], weights[drawn]
        vectors.append(blocks)
        importance.append(weights)
    codebook = weighted_kmeans(torch.cat(vectors), torch.cat(importance), clusters, seed=seed)
    indices = [assign(layer, codebook) for layer in layers]
    codebook = refit(codebook, layers, indices, shares)
    return round_to_float16(codebook * unit), indices


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
        **selectors: `modality`, `role`, `granularity`.
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

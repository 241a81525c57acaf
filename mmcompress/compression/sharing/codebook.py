"""Parameter sharing, W = W_s[I]: many places of a weight read one entry of a small codebook.

An entry is a run of `block_size` neighbors in a row: a single weight (scalar clusters, "Deep
Compression", Han et al. 2015, arXiv:1510.00149, section 3), a part of a row (product quantization,
Jégou et al. 2011; for networks "And the Bit Goes Down", Stock et al. 2019, arXiv:1907.05686), or
a whole row. The assignment I is fixed by k-means; the entries stay trainable, and the gradient of
an entry is the sum over all places that read it (Deep Compression, eq. 3). Entries are float16, or
float32 where that cannot hold them.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    LEFT_DENSE,
    Decision,
    as_matrix,
    keep_zeros,
    kept_mask,
)
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep
from mmcompress.functional.divisors import largest_divisor
from mmcompress.functional.float16 import round_to_float16
from mmcompress.functional.kmeans import scalar_kmeans, vector_kmeans
from mmcompress.functional.lookup import lookup

log = logging.getLogger(__name__)


def rounded_entries(codebook: Tensor) -> Tensor:
    """Entries as they are stored; the gradient passes straight through.

    Args:
        codebook: (k, d) float32.
    Returns:
        (k, d) float32, by `round_to_float16`.
    """
    # codebook − codebook is exactly zero.
    return round_to_float16(codebook.detach()) + (codebook - codebook.detach())


def check_codebook_arguments(clusters: int, block_size: int | None) -> None:
    """Refuse what no codebook can have.

    Args:
        clusters: entries.
        block_size: weights per entry, None for whole rows.
    """
    if not isinstance(clusters, int) or not 2 <= clusters <= 65536:
        raise ValueError(f"clusters={clusters} must be a whole number from 2 to 65536")
    if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
        raise ValueError(f"block_size={block_size} must be a positive whole number, or null")


def block_in(weight: Tensor, block_size: int | None) -> int:
    """How many columns of a weight form one entry of a codebook.

    All columns where the setting is null. Otherwise the largest divisor of the columns up to the
    setting; that is 1 where no larger one divides them, as with the 49 weights of a kernel and
    blocks of 4.

    Args:
        weight: as a matrix it gives the columns.
        block_size: the setting.
    """
    columns = as_matrix(weight).shape[1]
    if block_size is None:
        return columns
    fitted = largest_divisor(columns, block_size)
    if 1 < fitted < block_size:
        _tell_fitted(block_size, columns, fitted)
    return fitted


@functools.cache
def _tell_fitted(block_size: int, columns: int, fitted: int) -> None:
    log.warning("block_size=%d does not divide %d columns: %d there", block_size, columns, fitted)


def does_not_fit(weight: Tensor, block_size: int | None) -> str:
    """Why a weight has no blocks that are entries of a codebook; empty when it has.

    Args:
        weight: as a matrix it gives the columns.
        block_size: the setting, null for whole rows.
    """
    if block_size in (None, 1) or block_in(weight, block_size) > 1:
        return ""
    columns = as_matrix(weight).shape[1]
    return f"no size from 2 to block_size={block_size} divides its {columns} columns"


def would_not_shrink(size: int, *, clusters: int, block_size: int, extra_bits: int = 0) -> str:
    """Why a codebook would not pay; empty when it would.

    Args:
        size: how many weights read it.
        clusters: entries, float16.
        block_size: weights per entry.
        extra_bits: that come on top of entries and indices.
    """
    blocks = size // block_size
    stored = clusters * block_size * 16 + blocks * (clusters - 1).bit_length() + extra_bits
    if clusters < blocks and stored < size * 32:
        return ""
    return f"{clusters} entries of {block_size} would not shrink its {blocks} blocks"


class Zeros:
    """`keep_zeros`, which costs nothing for a parameter that is not trained and has no zeros."""

    def __init__(self) -> None:
        self._looked_at: int | None = None
        self._some = True

    def keep(self, values: Tensor, weight: Tensor) -> Tensor:
        """As `keep_zeros`."""
        if not isinstance(weight, nn.Parameter):  # an earlier step may change it at any time
            return keep_zeros(values, weight)
        if self._looked_at != weight._version:
            self._looked_at, self._some = weight._version, not bool(kept_mask(weight).all())
        return keep_zeros(values, weight) if self._some else values


class Lookup(nn.Module):
    """Parametrization W → W_s[I], with the zeros of an earlier mask kept.

    Args:
        weight: clustered here.
        clusters: k.
        block_size: neighbors in a row that form one vector; divides the columns.
        seed: of the vector k-means.
    """

    indices: Tensor

    def __init__(self, weight: Tensor, *, clusters: int, block_size: int, seed: int) -> None:
        super().__init__()
        matrix = as_matrix(weight)
        if block_size == 1:
            kept = matrix[kept_mask(matrix)]  # a pruned weight needs no cluster
            centroids, of_kept = scalar_kmeans(kept, clusters)
            indices = torch.zeros(matrix.numel(), dtype=torch.int32, device=weight.device)
            indices[kept_mask(matrix).flatten()] = of_kept.int()
            codebook = centroids[:, None]
        else:
            codebook, indices = vector_kmeans(matrix.reshape(-1, block_size), clusters, seed=seed)
        self.codebook = nn.Parameter(codebook)  # k block_size
        self.register_buffer("indices", indices.int())
        self._zeros = Zeros()

    def forward(self, weight: Tensor) -> Tensor:
        shared = lookup(self.indices, rounded_entries(self.codebook), weight.shape)
        if self.codebook.shape[1] > 1:
            return shared
        return self._zeros.keep(shared, weight)


class Codebook(ValueStep[Lookup]):
    """Weights that look their values up in a small codebook: W = W_s[I], one codebook per weight.

    Args:
        clusters: entries of a codebook. Legal: whole number from 2 to 65536.
        block_size: neighbors in a row that form one entry: 1 for single weights, null for whole
            rows. Where it does not divide the columns of a weight, the largest smaller divisor
            takes its place. Legal: whole number of at least 1, or null.
        seed: draws the vectors that k-means starts from; single weights need none. Legal: whole
            number.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"clusters": (4, 16, 64, 256)}
    no_speedup = "shared weights are looked up into float32 before they multiply"
    trains_weight = False

    def __init__(
        self,
        *,
        clusters: int,
        block_size: int | None = 1,
        seed: int = 0,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        check_codebook_arguments(clusters, block_size)
        self.clusters, self.block_size, self.seed = clusters, block_size, seed
        self.keeps_zeros = block_size == 1

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(weights[t.name]) for t in targets}

    def _decide(self, weight: Tensor) -> Decision:
        block_size = block_in(weight, self.block_size)
        if self.block_size == 1 and not kept_mask(weight).any():
            return {LEFT_DENSE: "all its weights are zero"}
        reason = does_not_fit(weight, self.block_size) or would_not_shrink(
            weight.numel(), clusters=self.clusters, block_size=block_size
        )
        if reason:
            return {LEFT_DENSE: reason}
        return {"clusters": self.clusters, "block_size": block_size, "seed": self.seed}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> Lookup:
        return Lookup(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: Lookup, weight: Tensor) -> Encoding:
        codebook = round_to_float16(parametrization.codebook.detach())
        tensors = {"indices": parametrization.indices, "codebook": codebook}
        kept = kept_mask(weight)
        mask = None if not self.keeps_zeros or kept.all() else kept
        return Encoding(values={"codec": "codebook"}, tensors=tensors, mask=mask)

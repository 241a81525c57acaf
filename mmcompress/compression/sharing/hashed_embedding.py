"""Hashed token embedding: every token mixes a few rows of a small table that all tokens share.

"Hash Embeddings for Efficient Word Representations", Svenstrup et al. 2017, arXiv:1709.03933,
section 2: k hash functions name k rows for each token, and k importance weights of the token mix
them; with one row and no weights it is the hashing of "Compressing Neural Networks with the Hashing
Trick", Chen et al. 2015, arXiv:1504.04788, applied to whole rows. Where we differ: table and
weights are fitted to a trained embedding, by alternating least squares in which a token counts by
how often calibration data reads it, instead of trained from scratch; every token has weights of its
own. Nothing is stored of the hash functions but their seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Decision, power_of_two_below, warn_smallest
from mmcompress.compression.sharing.output_aware import smoothed_frequency
from mmcompress.compression.statistics import INPUTS, Statistic
from mmcompress.compression.steps import StructureStep
from mmcompress.functional.conjugate_gradients import conjugate_gradients
from mmcompress.modules.hashed_embedding import HashedEmbedding

ROUNDS = 20
"""Of the alternating least squares."""

STEPS = 4
"""Conjugate gradients for the table in each round."""

RIDGE = 1e-6
"""Added to the diagonal of a token's normal equations, relative to it: rows may coincide."""


def alternating_least_squares(
    dense: Tensor, rows: Tensor, frequency: Tensor, *, buckets: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Table T and importance p that lower Σ_i f_i ‖e_i − Σ_h p_ih T[rows_ih]‖².

    Args:
        dense: e (n, d).
        rows: (n, k) int64.
        frequency: f (n,), positive.
        buckets: rows of the table.
        seed: draws the signs that p starts from.
    Returns:
        T (buckets, d) and p (n, k).
    """
    unit = power_of_two_below([dense])
    dense = dense / unit
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, rows.shape, generator=generator) * 2 - 1
    importance = signs.to(dense)
    table = dense.new_zeros(buckets, dense.shape[1])
    for _ in range(ROUNDS):
        table = refit_table(table, dense, rows, importance, frequency)
        importance = refit_importance(table, dense, rows)
    return table * unit, importance


def refit_importance(table: Tensor, dense: Tensor, rows: Tensor) -> Tensor:
    """The best weights of each token for a fixed table, by its k × k normal equations.

    Args:
        table: (buckets, d).
        dense: the embedding (n, d) that is approached.
        rows: which rows of the table each token mixes, (n, k) int64.
    Returns:
        (n, k).
    """
    mixed = table[rows]  # n k d
    gram = mixed @ mixed.mT
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    gram = gram + ridge[:, None, None] * torch.eye(rows.shape[1], device=dense.device)
    return torch.linalg.solve(gram, (mixed @ dense[:, :, None])[:, :, 0])


def refit_table(
    table: Tensor, dense: Tensor, rows: Tensor, importance: Tensor, frequency: Tensor
) -> Tensor:
    """A better table for fixed weights: conjugate gradients on the normal equations.

    Args:
        table: (buckets, d), where to start.
        dense: the embedding (n, d) that is approached.
        rows: which rows of the table each token mixes, (n, k) int64.
        importance: with which weights, (n, k).
        frequency: how much each token counts, (n,), positive.
    Returns:
        (buckets, d).
    """
    (n, k), buckets = rows.shape, len(table)
    # e ≈ A T: the normal equations are (Aᵀ F A) T = Aᵀ F e, both matrices sparse.
    tokens = torch.arange(n, device=rows.device)[:, None].expand(n, k)
    weighted = frequency[:, None] * importance
    places = torch.stack([rows.flatten(), tokens.flatten()])
    right = torch.sparse_coo_tensor(places, weighted.flatten(), (buckets, n), check_invariants=True)
    pairs = torch.stack(torch.broadcast_tensors(rows[:, :, None], rows[:, None, :]))
    products = weighted[:, :, None] * importance[:, None, :]
    normal = torch.sparse_coo_tensor(
        pairs.flatten(1), products.flatten(), (buckets, buckets), check_invariants=True
    ).coalesce()
    on_diagonal = normal.indices()[0] == normal.indices()[1]
    diagonal = table.new_zeros(buckets)
    diagonal[normal.indices()[0, on_diagonal]] = normal.values()[on_diagonal]
    residual = right @ dense - normal @ table
    return conjugate_gradients(table, residual, normal.matmul, diagonal[:, None], steps=STEPS)


class HashEmbedding(StructureStep):
    """Embeddings whose tokens mix rows of a small table that all tokens share.

    Args:
        bucket_ratio: rows of the shared table / rows of the embedding. Legal: number in (0, 1).
        hashes: rows that a token mixes. Legal: whole number of at least 1.
        seed: of the hash functions. Legal: whole number.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("hashed_embedding", 1)
    granularities = ("embedding",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "bucket_ratio": (0.05, 0.1, 0.2, 0.35, 0.5)
    }
    no_speedup = "looking a token up takes as long as before"
    needs = frozenset({INPUTS})

    def __init__(
        self, *, bucket_ratio: float, hashes: int = 2, seed: int = 0, **selectors: Any
    ) -> None:
        super().__init__(**selectors)
        if not 0 < bucket_ratio < 1:
            raise ValueError(
                f"bucket_ratio={bucket_ratio} must lie between 0 and 1, both excluded: it is the "
                "size of the shared table relative to the embedding"
            )
        if hashes < 1:
            raise ValueError(f"hashes={hashes} must be at least 1: each token reads some row")
        self.bucket_ratio, self.hashes, self.seed = bucket_ratio, hashes, seed

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {target.name: self._decide(*weights[target.name].shape) for target in targets}

    def _decide(self, rows: int, columns: int) -> Decision:
        buckets = round(self.bucket_ratio * rows)
        if buckets < 1:
            buckets = 1
            warn_smallest(f"bucket_ratio={self.bucket_ratio}", "one bucket")
        if buckets * columns + rows * self.hashes >= rows * columns:
            return {
                LEFT_DENSE: f"{buckets} buckets and {self.hashes} weights per token would not "
                f"shrink {rows}x{columns}"
            }
        return {"buckets": buckets, "hashes": self.hashes, "seed": self.seed}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        layer = cast(nn.Embedding, module)
        hashed = HashedEmbedding(layer, **decision)
        if statistic is not None and statistic.inputs is not None:
            frequency = smoothed_frequency(statistic.inputs.second_moment)
            rows = hashed.rows(torch.arange(hashed.num_embeddings, device=frequency.device))
            fitted = alternating_least_squares(
                layer.weight.detach(),
                rows,
                frequency,
                buckets=hashed.buckets,
                seed=hashed.seed,
            )
            hashed.set_tables(*fitted)
        return hashed

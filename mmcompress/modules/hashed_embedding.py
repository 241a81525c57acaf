"""An embedding whose tokens mix rows of a small table that all tokens share."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PRIME = 2**31 - 1
"""Ids times a factor below it fit into 64 bits."""


def hash_rows(ids: Tensor, *, buckets: int, hashes: int, seed: int) -> Tensor:
    """((a · id + b) mod p) mod buckets, with a and b drawn for each function (Carter & Wegman).

    Args:
        ids: any shape, int64.
        buckets: rows to choose from.
        hashes: k.
        seed: draws the functions.
    Returns:
        (…, k) int64.
    """
    rows = [(a * ids + b) % PRIME % buckets for a, b in hash_functions(hashes, seed)]
    return torch.stack(rows, dim=-1)


@cache
def hash_functions(hashes: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Pairs (a, b): drawn once, for a generator cannot be traced."""
    generator = torch.Generator().manual_seed(seed)
    draws = [
        torch.randint(low, PRIME, (hashes,), generator=generator, device="cpu").tolist()
        for low in (1, 0)
    ]
    return tuple(zip(*draws, strict=True))


class HashedEmbedding(nn.Module):
    """Row i is Σ_h p_ih · table[hash_h(i)].

    Args:
        layer: what it replaces.
        buckets: rows of the table.
        hashes: rows that a token mixes.
        seed: of the hash functions.
    """

    def __init__(self, layer: nn.Embedding, *, buckets: int, hashes: int, seed: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.buckets, self.hashes, self.seed = buckets, hashes, seed
        hash_functions(hashes, seed)
        like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        self.table = nn.Embedding(buckets, layer.embedding_dim, **like)
        self.importance = nn.Embedding(layer.num_embeddings, hashes, **like)

    def rows(self, ids: Tensor) -> Tensor:
        """Which rows of the table each id mixes: (…, k)."""
        return hash_rows(ids, buckets=self.buckets, hashes=self.hashes, seed=self.seed)

    @property
    def weight(self) -> Tensor:
        """All rows (num_embeddings, embedding_dim)."""
        return self(torch.arange(self.num_embeddings, device=self.table.weight.device))

    def forward(self, ids: Tensor) -> Tensor:
        mixed = self.importance(ids).unsqueeze(-1) * self.table(self.rows(ids))  # … k D
        return mixed.sum(dim=-2)

    @torch.no_grad()
    def set_tables(self, table: Tensor, importance: Tensor) -> None:
        """Take over the table (buckets, embedding_dim) and the weights (num_embeddings, k)."""
        self.table.weight.copy_(table)
        self.importance.weight.copy_(importance)

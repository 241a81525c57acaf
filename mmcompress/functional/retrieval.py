"""Cross-modal retrieval: does the right caption come first for an item, and the reverse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mmcompress.functional.score import Score

CHUNK = 1024
"""Queries that are compared with all candidates at once."""


def ranks(similarity: Tensor, positives: Tensor) -> Tensor:
    """Rank of the best-placed positive of each query, 0 = first.

    A candidate that ties with the positive is counted before it, so that a model which gives
    every pair the same score gets the worst rank and not the best.

    Args:
        similarity: (queries, candidates), larger = closer; may be negative.
        positives: (queries, candidates) bool, at least one True per row.
    Returns:
        (queries,) int64.
    Raises:
        ValueError: a query without a positive, or a similarity that is NaN.

    Example:
        >>> ranks(torch.tensor([[0.2, 0.9, 0.2]]), torch.tensor([[True, False, False]]))
        tensor([2])
    """
    if not positives.any(dim=1).all():
        raise ValueError("every query needs at least one positive candidate")
    if similarity.isnan().any():  # compares as False, and would give the best rank
        raise ValueError("a similarity is NaN: check that embeddings are finite")
    best = similarity.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)
    return ((similarity >= best) & ~positives).sum(dim=1)


def recall_at_k(rank: Tensor, k: int) -> float:
    """Share of queries with a positive among the first `k` (the literature's R@k, "hit rate").

    Args:
        rank: of each query's best positive, (queries,), from 0.
        k: at least 1.

    Example:
        >>> recall_at_k(torch.tensor([0, 3, 5, 9]), 5)
        0.5
    """
    return (rank < k).double().mean().item()


@dataclass(frozen=True)
class Pairs:
    """Which of the distinct items belongs to which of the distinct texts.

    Attributes:
        items: (I,) int64, where each distinct item first occurs.
        texts: (T,) int64, where each distinct text first occurs.
        linked: (P, 2) int64: indices of `items` and `texts` that belong together, none twice.
    """

    items: Tensor
    texts: Tensor
    linked: Tensor

    @classmethod
    def of(cls, owner: Tensor, content: Tensor | None, wording: Tensor | None) -> "Pairs":
        """See `retrieval_metrics` for the arguments."""
        count = len(content) if content is not None else int(owner.max()) + 1
        items, item_of = first_of_each(torch.arange(count) if content is None else content)
        texts, text_of = first_of_each(torch.arange(len(owner)) if wording is None else wording)
        linked = torch.stack([item_of[owner], text_of], dim=1).unique(dim=0)
        return cls(items, texts, linked)

    def units(self) -> tuple[Tensor, Tensor]:
        """The unit that each item and each text is in: what is linked to one another, together."""
        links = self.linked.numpy().T
        size = len(self.items) + len(self.texts)
        graph = coo_matrix(
            (np.ones(links.shape[1], bool), (links[0], links[1] + len(self.items))),
            shape=(size, size),
        )
        _, unit = connected_components(graph, directed=False)
        found = torch.from_numpy(unit).long()
        return found[: len(self.items)], found[len(self.items) :]


def first_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values in the order in which they first occur.

    Returns:
        Where each first occurs, and which of them each of `ids` is.

    Example:
        >>> first_of_each(torch.tensor([7, 3, 7]))
        (tensor([0, 1]), tensor([0, 1, 0]))
    """
    values, inverse = ids.unique(return_inverse=True)
    places = torch.arange(len(ids))
    first = torch.full_like(values, len(ids)).scatter_reduce(0, inverse, places, "amin")
    order = first.argsort()
    return first[order], order.argsort()[inverse]


def retrieval_metrics(
    items: Tensor,
    texts: Tensor,
    owner: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    names: tuple[str, str] = ("i2t", "t2i"),
    content: Tensor | None = None,
    wording: Tensor | None = None,
) -> dict[str, float]:
    """`mean_r@1`, the mean of R@1 in both directions; `mean_recall`, that of all R@k (the
    literature's mR); and R@k in both directions.

    An item with several captions is a hit when one of them comes early, as in the literature on
    COCO (Karpathy and Fei-Fei 2015, arXiv:1412.2306). Equal items count as one with the captions of
    all of them, and equal captions as one of all their items: no model can tell them apart, so each
    would count against the other. CLIP_benchmark counts them apart and lets ties fall as they may.

    Args:
        items: (I, D) embeddings of images or sounds, L2-normalized.
        texts: (T, D) embeddings, L2-normalized; several may belong to one item.
        owner: (T,) int64, the item that each text describes.
        names: of the directions from items to texts, and back.
        content: (I,) int64, equal for equal items; all differ when None.
        wording: (T,) int64, equal for equal texts; all differ when None.
    """
    owner = owner.cpu()
    pairs = Pairs.of(owner, content, wording)
    queries = items[pairs.items], texts[pairs.texts]
    forth = _ranks_by_chunks(*queries, pairs.linked, queries_first=True)
    back = _ranks_by_chunks(*queries[::-1], pairs.linked.flip(1), queries_first=False)
    recalls = {f"{names[0]}_r@{k}": recall_at_k(forth, k) for k in ks}
    recalls |= {f"{names[1]}_r@{k}": recall_at_k(back, k) for k in ks}
    facts = {}
    if len(pairs.items) < len(items) or len(pairs.texts) < len(texts):
        facts = {
            "items_apart": len(items),
            "ceiling_apart": ceiling_apart(owner, content, wording),
        }
    mean_r1 = Score(_parts(forth == 0, back == 0, pairs), facts=facts)
    return {"mean_r@1": mean_r1, "mean_recall": sum(recalls.values()) / len(recalls)} | recalls


def ceiling_apart(owner: Tensor, content: Tensor | None, wording: Tensor | None) -> float:
    """The best `mean_r@1` of any model if equal items and equal captions counted apart.

    Of equal items at most one finds a caption of its own first, and only one that no other item
    has; a caption of several equal items finds none, for they tie; of equal captions of different
    items one item's come first.

    Args:
        owner, content, wording: of `retrieval_metrics`.

    Example:
        >>> ceiling_apart(torch.arange(4), torch.tensor([1, 1, 2, 3]), None)  # (3 / 4 + 2 / 4) / 2
        0.625
    """
    pairs = Pairs.of(owner, content, wording)
    count = len(content) if content is not None else int(owner.max()) + 1
    _, item_of = first_of_each(torch.arange(count) if content is None else content)
    _, text_of = first_of_each(torch.arange(len(owner)) if wording is None else wording)
    uses = torch.stack([text_of, owner], dim=1).unique(dim=0)  # which items have which wording
    owners = uses[:, 0].bincount(minlength=len(pairs.texts))
    reached = item_of[owner[owners[text_of] == 1]].unique()
    alone = item_of.bincount()[item_of[owner]] == 1  # T, the item has no equal
    per_pair, times = torch.stack([text_of, owner], dim=1)[alone].unique(dim=0, return_counts=True)
    most = torch.zeros(len(pairs.texts), dtype=torch.int64)
    most.scatter_reduce_(0, per_pair[:, 0], times, "amax")
    return (len(reached) / count + int(most.sum()) / len(owner)) / 2


def _parts(forth: Tensor, back: Tensor, pairs: Pairs) -> Tensor:
    """Hits and queries of each unit, (units, 2, 2): a picture is drawn with all its captions."""
    of_item, of_text = pairs.units()
    parts = torch.zeros(int(of_item.max()) + 1, 2, 2, dtype=torch.float64)
    for term, (unit, hits) in enumerate(((of_item, forth), (of_text, back))):
        counted = torch.stack([hits.cpu().double(), torch.ones(len(hits)).double()], dim=1)
        parts[:, term].index_add_(0, unit, counted)
    return parts


def _ranks_by_chunks(
    queries: Tensor, candidates: Tensor, linked: Tensor, *, queries_first: bool
) -> Tensor:
    """`ranks` of all queries, a few at a time, so that no table of all pairs is ever held.

    Args:
        queries: (Q, D).
        candidates: (C, D).
        linked: (P, 2) int64, queries and the candidates that are right for them.
        queries_first: the order of the factors; it decides how similarities round.
    """
    found = []
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        similarity = chunk @ candidates.T if queries_first else (candidates @ chunk.T).T
        own = linked[(linked[:, 0] >= start) & (linked[:, 0] < start + CHUNK)].to(queries.device)
        positives = torch.zeros_like(similarity, dtype=torch.bool)
        positives[own[:, 0] - start, own[:, 1]] = True
        found.append(ranks(similarity, positives))
    return torch.cat(found)

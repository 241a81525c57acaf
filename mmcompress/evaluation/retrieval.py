"""Cross-modal retrieval: does the right caption come first for an image, and the reverse."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed

log = logging.getLogger(__name__)

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

    Example:
        >>> recall_at_k(torch.tensor([0, 3, 5, 9]), 5)
        0.5
    """
    return (rank < k).double().mean().item()


def retrieval_metrics(
    items: Tensor,
    texts: Tensor,
    owner: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    names: tuple[str, str] = ("i2t", "t2i"),
) -> dict[str, float]:
    """R@k in both directions and `mean_recall`, their mean (the literature's mR).

    An item with several captions is a hit when one of them comes early, as in the literature on
    COCO (Karpathy and Fei-Fei 2015, arXiv:1412.2306).

    Args:
        items: (I, D) embeddings of images or sounds, L2-normalised.
        texts: (T, D) embeddings, L2-normalised; several may belong to one item.
        owner: (T,) int64, the item that each text describes.
        names: of the directions from items to texts, and back.
    """
    own = torch.arange(len(items), device=owner.device)
    forth = _ranks_by_chunks(items, texts, own, owner, queries_first=True)
    back = _ranks_by_chunks(texts, items, owner, own, queries_first=False)
    recalls = {f"{names[0]}_r@{k}": recall_at_k(forth, k) for k in ks}
    recalls |= {f"{names[1]}_r@{k}": recall_at_k(back, k) for k in ks}
    return {"mean_recall": sum(recalls.values()) / len(recalls)} | recalls


def _ranks_by_chunks(
    queries: Tensor, candidates: Tensor, asked: Tensor, owner: Tensor, *, queries_first: bool
) -> Tensor:
    """`ranks` of all queries, a few at a time, so that no table of all pairs is ever held.

    Args:
        queries: (Q, D).
        candidates: (C, D).
        asked, owner: (Q,) and (C,), equal where a candidate is right.
        queries_first: the order of the factors; it decides how similarities round.
    """
    found = []
    for chunk, wanted in zip(queries.split(CHUNK), asked.split(CHUNK), strict=True):
        similarity = chunk @ candidates.T if queries_first else (candidates @ chunk.T).T
        found.append(ranks(similarity, wanted[:, None] == owner[None]))
    return torch.cat(found)


class Retrieval:
    """Yields `retrieval/mean_recall`, `retrieval/i2t_r@1` … over all pairs of a split.

    Right for an item are its own captions, and for a caption the item it is of. With sounds in
    place of images the directions are `a2t` and `t2a`.

    Args:
        ks: how many candidates may come first.
    """

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.ks = list(ks)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"retrieval.ks={self.ks} must hold numbers of at least 1")

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not data.splits[split].captioned:
            log.warning("data %s has no captions in %s: retrieval left out", data.name, split)
            return
        other = next((m for m in data.backbone.modalities if m != "text"), "image")
        embedded = embed(encode, data.eval_dataloader(split), other, "text")
        metrics = retrieval_metrics(
            embedded[other],
            embedded["text"],
            embedded["owner"],
            self.ks,
            names=(f"{other[0]}2t", f"t2{other[0]}"),
        )
        for name, value in metrics.items():
            yield f"retrieval/{name}", value

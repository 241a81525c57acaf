"""Cross-modal retrieval: does the right caption come first for an image, and the reverse."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed


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
        ValueError: a query without a positive.

    Example:
        >>> ranks(torch.tensor([[0.2, 0.9, 0.2]]), torch.tensor([[True, False, False]]))
        tensor([2])
    """
    if not positives.any(dim=1).all():
        raise ValueError("every query needs at least one positive candidate")
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
    images: Tensor, texts: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """R@k in both directions and `mean_recall`, their mean (the literature's mR).

    Args:
        images: (I, D) embeddings, L2-normalised.
        texts: (T, D) embeddings, L2-normalised; several may belong to one image.
        image_of_text: (T,) int64, the image that each text describes.
    """
    similarity = images @ texts.T  # I T
    positives = image_of_text[None, :] == torch.arange(len(images))[:, None]  # I T
    i2t, t2i = ranks(similarity, positives), ranks(similarity.T, positives.T)
    recalls = {f"i2t_r@{k}": recall_at_k(i2t, k) for k in ks}
    recalls |= {f"t2i_r@{k}": recall_at_k(t2i, k) for k in ks}
    return {"mean_recall": sum(recalls.values()) / len(recalls)} | recalls


class Retrieval:
    """Yields `retrieval/mean_recall`, `retrieval/i2t_r@1` … over all pairs of a split.

    Pair i of the split is the one right answer to image i and to caption i.

    Args:
        ks: how many candidates may come first.
    """

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.ks = list(ks)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"retrieval.ks={self.ks} must hold numbers of at least 1")

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        embedded = embed(encode, data.eval_dataloader(split), "image", "text")
        images, texts = embedded["image"], embedded["text"]
        metrics = retrieval_metrics(images, texts, torch.arange(len(texts)), self.ks)
        for name, value in metrics.items():
            yield f"retrieval/{name}", value

"""Zero-shot classification: a class is what the text tower says of its name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.functional.retrieval import CHUNK, ranks, recall_at_k


def class_heads(prompts: Tensor) -> Tensor:
    """One vector per class: the mean of its prompts' embeddings, normalized again.

    The prompt ensemble of CLIP (Radford et al. 2021, arXiv:2103.00020, section 3.1.4).

    Args:
        prompts: (classes, templates, D), L2-normalized.
    Returns:
        (classes, D), L2-normalized.
    """
    return F.normalize(prompts.mean(dim=1), dim=-1)


def zeroshot_ranks(items: Tensor, heads: Tensor, labels: Tensor) -> Tensor:
    """How many other classes each item is at least as close to as to its own; 0 is a hit.

    Args:
        items: (N, D) embeddings, L2-normalized.
        heads: (classes, D), L2-normalized.
        labels: (N,) int64, in [0, classes).
    Returns:
        (N,) int64.
    """
    own = F.one_hot(labels, len(heads)).bool()  # N classes
    return ranks(items @ heads.T, own)


def zeroshot_accuracy(items: Tensor, heads: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of items whose own class is among the `k` closest; a tie counts against it.

    Args:
        items: embeddings (n, d).
        heads: embeddings of the classes (classes, d).
        labels: (n,) int64, the class of each item.
        k: at least 1.

    Example:
        >>> heads = torch.eye(2)
        >>> images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
        >>> zeroshot_accuracy(images, heads, torch.tensor([0, 0, 0, 1]))
        0.75
    """
    return recall_at_k(zeroshot_ranks(items, heads, labels), k)


def zeroshot_hits(
    items: Tensor, heads: Tensor, labels: Tensor, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which items find their own class, as CLIP_benchmark counts it.

    It takes the first k that `torch.topk` lists (of at least five classes the first of five), and
    for per-class recall the `argmax`. Classes of one name tie, and either of these picks one of
    them: so it does here. A tie with a class of another name counts against the model here, so
    that one which gives all classes the same score gets nothing right.

    Args:
        items: (N, D) embeddings, L2-normalized.
        heads: (classes, D), L2-normalized.
        labels: (N,) int64, in [0, classes).
        same: (classes,) int64, equal for classes of one name; all differ when None.
    Returns:
        (N, k) bool: whether the own class is among the first 1 … k, k = 5 of at least five classes,
        else 1; and (N,) bool, whether it is the `argmax`.
    """
    same = torch.arange(len(heads)) if same is None else same
    weights = heads.T.contiguous()  # its layout and its 100: equal columns round alike
    k = 5 if len(heads) >= 5 else 1
    listed, largest = [], []
    for chunk, label in zip(items.split(CHUNK), labels.split(CHUNK), strict=True):
        logits = 100.0 * chunk @ weights  # B classes
        own = logits.gather(1, label[:, None])
        others = same[None] != same[label][:, None]  # B classes
        before = ((logits >= own) & others).sum(dim=1)
        places = (logits.topk(k).indices == label[:, None]).cumsum(dim=1).bool()
        listed.append(places & (before[:, None] < torch.arange(1, k + 1)))
        largest.append((logits.argmax(dim=1) == label) & (before == 0))
    return torch.cat(listed), torch.cat(largest)


def balanced_accuracy(hits: Tensor, labels: Tensor) -> float:
    """Mean per-class recall: over the classes that occur, of the share of items that are hits.

    Args:
        hits: (n,) bool, whether the item's own class was found.
        labels: (n,) int64, the class of each item.

    Example:
        >>> balanced_accuracy(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    per_class = [hits[labels == label].double().mean() for label in labels.unique()]
    return torch.stack(per_class).mean().item()

"""Zero-shot classification: a class is what the text tower says of its name."""

import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.data.base import Classification, PairData
from mmcompress.evaluation.base import Encode, embed
from mmcompress.evaluation.retrieval import ranks, recall_at_k
from mmcompress.finite import NotFiniteError, check_rows

log = logging.getLogger(__name__)


def class_heads(prompts: Tensor) -> Tensor:
    """One vector per class: the mean of its prompts' embeddings, normalised again.

    The prompt ensemble of CLIP (Radford et al. 2021, arXiv:2103.00020, section 3.1.4).

    Args:
        prompts: (classes, templates, D), L2-normalised.
    Returns:
        (classes, D), L2-normalised.
    """
    return F.normalize(prompts.mean(dim=1), dim=-1)


def zeroshot_ranks(items: Tensor, heads: Tensor, labels: Tensor) -> Tensor:
    """How many other classes each item is at least as close to as to its own; 0 is a hit.

    Args:
        items: (N, D) embeddings, L2-normalised.
        heads: (classes, D), L2-normalised.
        labels: (N,) int64, in [0, classes).
    Returns:
        (N,) int64.
    """
    own = F.one_hot(labels, len(heads)).bool()  # N classes
    return ranks(items @ heads.T, own)


def zeroshot_accuracy(items: Tensor, heads: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of items whose own class is among the `k` closest; a tie counts against it.

    Example:
        >>> heads = torch.eye(2)
        >>> images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
        >>> zeroshot_accuracy(images, heads, torch.tensor([0, 0, 0, 1]))
        0.75
    """
    return recall_at_k(zeroshot_ranks(items, heads, labels), k)


def balanced_accuracy(hits: Tensor, labels: Tensor) -> float:
    """Mean per-class recall: over the classes that occur, of the share of items that are hits.

    Example:
        >>> balanced_accuracy(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    per_class = [hits[labels == label].double().mean() for label in labels.unique()]
    return torch.stack(per_class).mean().item()


class ZeroShot:
    """Yields `zeroshot/acc@1`, `zeroshot/acc@5` (of more than five classes) and
    `zeroshot/balanced_acc@1`, the mean per-class recall.

    The heads are built with the text tower that is being scored, so its losses count too.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        labelled = data.classification(split)
        if labelled is None or len(labelled.dataset) == 0:
            log.warning("data %s has no labels in %s: zeroshot left out", data.name, split)
            return
        modality = next((m for m in data.backbone.modalities if m != "text"), "image")
        embedded = embed(encode, data.loader(labelled.dataset), modality)
        labels, classes = embedded["label"], len(labelled.class_names)
        if int(labels.max()) >= classes or int(labels.min()) < 0:
            raise ValueError(
                f"data {data.name}: labels of {split} run from {int(labels.min())} to "
                f"{int(labels.max())} and there are {classes} class names: make them match"
            )
        heads = class_heads(_embed_prompts(encode, data, labelled))
        rank = zeroshot_ranks(embedded[modality], heads, labels)
        yield "zeroshot/acc@1", recall_at_k(rank, 1)
        if classes > 5:
            yield "zeroshot/acc@5", recall_at_k(rank, 5)
        yield "zeroshot/balanced_acc@1", balanced_accuracy(rank == 0, labels)


def _embed_prompts(encode: Encode, data: PairData, labelled: Classification) -> Tensor:
    """(classes, templates, D); encoded class by class, so that memory stays small."""
    embedded = []
    for class_name in labelled.class_names:
        prompts = [template.format(class_name) for template in labelled.templates]
        try:
            rows = encode("text", data.backbone.tokenize(prompts))
            embedded.append(check_rows("text embeddings", rows))
        except NotFiniteError as error:
            message = f"prompts of class {class_name!r}: {error}"
            raise NotFiniteError(message, error.rows) from error
    return torch.stack(embedded)

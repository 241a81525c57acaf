"""Zero-shot classification: a class is what the text tower says of its name."""

import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.data.base import Classification, PairData
from mmcompress.evaluation.base import Encode, batches_of, embed
from mmcompress.evaluation.retrieval import ranks

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


def zeroshot_hits(images: Tensor, heads: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is closest to the head of its own class; a tie is a miss.

    Args:
        images: (N, D) embeddings, L2-normalised.
        heads: (classes, D), L2-normalised.
        labels: (N,) int64, in [0, classes).
    Returns:
        (N,) bool.
    """
    own = F.one_hot(labels, len(heads)).bool()  # N classes
    return ranks(images @ heads.T, own) == 0


def zeroshot_accuracy(images: Tensor, heads: Tensor, labels: Tensor) -> float:
    """Share of images that are closest to the head of their own class; see `zeroshot_hits`.

    Example:
        >>> heads = torch.eye(2)
        >>> images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
        >>> zeroshot_accuracy(images, heads, torch.tensor([0, 0, 0, 1]))
        0.75
    """
    return zeroshot_hits(images, heads, labels).double().mean().item()


def balanced_accuracy(hits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of their images that are hits.

    Example:
        >>> balanced_accuracy(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    per_class = [hits[labels == label].double().mean() for label in labels.unique()]
    return torch.stack(per_class).mean().item()


class ZeroShot:
    """Yields `zeroshot/acc@1` and `zeroshot/balanced_acc@1`.

    The heads are built with the text tower that is being scored, so its losses count too.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        labelled = data.classification(split)
        if labelled is None or len(labelled.labels) == 0:
            log.warning("data %s has no labels in %s: zeroshot left out", data.name, split)
            return
        images = embed(encode, batches_of(data, labelled.dataset), "image")["image"]
        heads = class_heads(_embed_prompts(encode, data, labelled))
        hits = zeroshot_hits(images, heads, labelled.labels)
        yield "zeroshot/acc@1", hits.double().mean().item()
        yield "zeroshot/balanced_acc@1", balanced_accuracy(hits, labelled.labels)


def _embed_prompts(encode: Encode, data: PairData, labelled: Classification) -> Tensor:
    """(classes, templates, D); encoded class by class, so that memory stays small."""
    return torch.stack(
        [
            encode(
                "text",
                data.backbone.tokenize(
                    [template.format(class_name) for template in labelled.templates]
                ),
            )
            for class_name in labelled.class_names
        ]
    )

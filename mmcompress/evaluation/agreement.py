"""How well a compressed model agrees with the dense one: no labels, and one tower is enough."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed
from mmcompress.functional.retrieval import first_of_each, ranks, recall_at_k

log = logging.getLogger(__name__)


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Mean over items of the cosine similarity of their two embeddings.

    Args:
        first, second: (N, D), L2-normalized; row i of both is item i.

    Example:
        >>> mean_cosine(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        0.5
    """
    return (first.double() * second.double()).sum(dim=1).mean().item()


def neighbor_recall(embedded: Tensor, dense: Tensor) -> float:
    """Share of items whose nearest other item is the one that the dense model finds nearest.

    Where dense neighbors tie, any of them is right; where others tie with it, the item is a miss.

    Args:
        embedded: (N, D), L2-normalized, N > 1.
        dense: (N, D'), L2-normalized, of the same items.
    """
    theirs = _similarity_to_others(dense)
    nearest = theirs == theirs.amax(dim=1, keepdim=True)  # N N
    return recall_at_k(ranks(_similarity_to_others(embedded), nearest), 1)


def _similarity_to_others(embedded: Tensor) -> Tensor:
    return (embedded @ embedded.T).fill_diagonal_(-torch.inf)


class Agreement:
    """Yields `agreement/text_cosine` and `agreement/text_neighbour_r@1`, and so for each modality.

    The neighbors are those within the split: see `mean_cosine` and `neighbor_recall`. Equal items
    count as one, for each would be the other's nearest whatever the model.
    """

    def compare(
        self, encode: Encode, dense: Encode, data: PairData, split: str
    ) -> Iterator[tuple[str, float]]:
        for modality in data.backbone.modalities:
            if modality == "text" and not data.splits[split].captioned:
                log.warning("data %s has no captions in %s: text left out", data.name, split)
                continue
            embedded = embed(encode, data.eval_dataloader(split), modality)
            theirs = embed(dense, data.eval_dataloader(split), modality)[modality]
            distinct, _ = first_of_each(embedded["wording" if modality == "text" else "content"])
            ours, theirs = embedded[modality][distinct], theirs[distinct]
            yield f"agreement/{modality}_cosine", mean_cosine(ours, theirs)
            if len(distinct) > 1:
                yield f"agreement/{modality}_neighbour_r@1", neighbor_recall(ours, theirs)
            else:
                log.warning(
                    "data %s: all of %s is one %s: it has no neighbors", data.name, split, modality
                )

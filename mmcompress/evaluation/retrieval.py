"""Cross-modal retrieval: does the right caption come first for an image, and the reverse."""

import logging
from collections.abc import Iterator, Sequence

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed
from mmcompress.functional.retrieval import retrieval_metrics

log = logging.getLogger(__name__)


class Retrieval:
    """Yields `retrieval/mean_r@1`, `retrieval/mean_recall`, `retrieval/i2t_r@1` … over all pairs
    of a split.

    Right for an item are its own captions, and for a caption the item it is of; pixel-equal
    pictures under several names, and equal captions, count as one. With sounds in place of images
    the directions are `a2t` and `t2a`.

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
        if len(embedded["content"].unique()) < 2:
            log.warning(
                "data %s: %s holds one %s alone, which any model finds: retrieval left out",
                data.name,
                split,
                other,
            )
            return
        metrics = retrieval_metrics(
            embedded[other],
            embedded["text"],
            embedded["owner"],
            self.ks,
            names=(f"{other[0]}2t", f"t2{other[0]}"),
            content=embedded["content"],
            wording=embedded["wording"],
        )
        for name, value in metrics.items():
            yield f"retrieval/{name}", value

"""Accuracy of a classifier whose outputs are its classes."""

import logging
from collections.abc import Iterator

import torch

from mmcompress.backbones.capabilities import classifier
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed
from mmcompress.functional.score import Score
from mmcompress.functional.zeroshot import balanced_accuracy

log = logging.getLogger(__name__)


class Accuracy:
    """Yields `accuracy/acc@1` and `accuracy/balanced_acc@1`, the mean per-class recall.

    The class of an item is where its output is largest, and of equals the first.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        labeled = data.classification(split)
        if labeled is None:
            log.warning("data %s has no labels in %s: accuracy left out", data.name, split)
            return
        fix = "set evaluation=classification"
        (modality,) = classifier(data.backbone, "evaluation=accuracy is for", fix).modalities
        embedded = embed(encode, data.loader(labeled.dataset), modality)
        outputs, labels = embedded[modality], embedded["label"]
        if int(labels.max()) >= outputs.shape[1]:
            raise ValueError(
                f"data {data.name}: labels of {split} run to {int(labels.max())} and the model has "
                f"{outputs.shape[1]} classes: set backbone.classes"
            )
        hits = torch.eq(outputs.argmax(dim=1), labels)
        yield "accuracy/acc@1", Score.of_hits(hits)
        yield "accuracy/balanced_acc@1", balanced_accuracy(hits, labels)

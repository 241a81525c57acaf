"""Zero-shot classification: a class is what the text tower says of its name."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmcompress.data.base import Classification, PairData
from mmcompress.data.content import content_id
from mmcompress.evaluation.base import Encode, embed
from mmcompress.functional.finite import check_rows
from mmcompress.functional.not_finite import NotFiniteError
from mmcompress.functional.score import Score
from mmcompress.functional.zeroshot import balanced_accuracy, class_heads, zeroshot_hits

log = logging.getLogger(__name__)


class ZeroShot:
    """Yields `zeroshot/acc@1`, `zeroshot/acc@5` (of more than five classes) and
    `zeroshot/balanced_acc@1`, the mean per-class recall.

    Data with several tasks have `zeroshot/TASK_acc@1` and so on for each. The heads are built with
    the text tower that is being scored, so its losses count too.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        tasks = data.classifications(split)
        if all(len(labeled.dataset) == 0 for labeled in tasks.values()):
            log.warning("data %s has no labels in %s: zeroshot left out", data.name, split)
            return
        for task, labeled in tasks.items():
            if len(labeled.dataset) == 0:
                log.warning("data %s has no %s in %s: left out", data.name, task, split)
                continue
            for name, value in _task(encode, data, split, labeled):
                yield f"zeroshot/{task}{'_' if task else ''}{name}", value


def _task(
    encode: Encode, data: PairData, split: str, labeled: Classification
) -> Iterator[tuple[str, float]]:
    modality = next((m for m in data.backbone.modalities if m != "text"), "image")
    if len(labeled.class_names) < 2:
        log.warning("data %s has one class, which any model finds: zeroshot left out", data.name)
        return
    embedded = embed(encode, data.loader(labeled.dataset), modality)
    labels, classes = embedded["label"], len(labeled.class_names)
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise ValueError(
            f"data {data.name}: labels of {split} run from {int(labels.min())} to "
            f"{int(labels.max())} and there are {classes} class names: make them match"
        )
    heads, same = _embed_classes(encode, data, labeled)
    _tell_equal(data, split, labeled.class_names, same)
    listed, largest = zeroshot_hits(embedded[modality], heads, labels, same)
    yield "acc@1", Score.of_hits(listed[:, 0])
    if classes > 5:
        yield "acc@5", listed[:, 4].double().mean().item()
    yield "balanced_acc@1", balanced_accuracy(largest, labels)


def _embed_classes(
    encode: Encode, data: PairData, labeled: Classification
) -> tuple[Tensor, Tensor]:
    """Heads (classes, D), encoded class by class, so that memory stays small; and (classes,)
    int64, equal for classes whose prompts are one to the text tower."""
    heads, ids = [], []
    for label, class_name in enumerate(labeled.class_names):
        tokens = data.backbone.tokenize(labeled.prompts(label))
        try:
            prompts = check_rows("text embeddings", encode("text", tokens))
        except NotFiniteError as error:
            message = f"prompts of class {class_name!r}: {error}"
            raise NotFiniteError(message, error.rows) from error
        heads.append(class_heads(prompts[None])[0])
        ids.append(content_id(tokens))
    return torch.stack(heads), torch.tensor(ids)


def _tell_equal(data: PairData, split: str, names: Sequence[str], same: Tensor) -> None:
    """Log which class names are one to the text tower."""
    groups: dict[int, list[str]] = {}
    for name, key in zip(names, same.tolist(), strict=True):
        groups.setdefault(key, []).append(name)
    equal = [" = ".join(group) for group in groups.values() if len(group) > 1]
    if equal:
        shown = ", ".join(equal[:5]) + (f" and {len(equal) - 5} more" if len(equal) > 5 else "")
        data.warn_once(
            f"{split}: class names that the model cannot tell apart ({shown}): an image of one of "
            "them is a hit where torch.topk lists its class first, as in CLIP_benchmark"
        )

"""Zero-shot classification: a class is what the text tower says of its name."""

import logging
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.data.base import Classification, PairData
from mmcompress.data.content import content_id
from mmcompress.evaluation.base import Encode, embed
from mmcompress.evaluation.retrieval import CHUNK, ranks, recall_at_k
from mmcompress.evaluation.score import Score
from mmcompress.functional.finite import NotFiniteError, check_rows

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


def zeroshot_hits(
    items: Tensor, heads: Tensor, labels: Tensor, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which items find their own class, as CLIP_benchmark counts it.

    It takes the first k that `torch.topk` lists (of at least five classes the first of five), and
    for per-class recall the `argmax`. Classes of one name tie, and either of these picks one of
    them: so it does here. A tie with a class of another name counts against the model here, so
    that one which gives all classes the same score gets nothing right.

    Args:
        items: (N, D) embeddings, L2-normalised.
        heads: (classes, D), L2-normalised.
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

    Example:
        >>> balanced_accuracy(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    per_class = [hits[labels == label].double().mean() for label in labels.unique()]
    return torch.stack(per_class).mean().item()


class ZeroShot:
    """Yields `zeroshot/acc@1`, `zeroshot/acc@5` (of more than five classes) and
    `zeroshot/balanced_acc@1`, the mean per-class recall.

    Data with several tasks have `zeroshot/TASK_acc@1` and so on for each. The heads are built with
    the text tower that is being scored, so its losses count too.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        tasks = data.classifications(split)
        if all(len(labelled.dataset) == 0 for labelled in tasks.values()):
            log.warning("data %s has no labels in %s: zeroshot left out", data.name, split)
            return
        for task, labelled in tasks.items():
            if len(labelled.dataset) == 0:
                log.warning("data %s has no %s in %s: left out", data.name, task, split)
                continue
            for name, value in _task(encode, data, split, labelled):
                yield f"zeroshot/{task}{'_' if task else ''}{name}", value


def _task(
    encode: Encode, data: PairData, split: str, labelled: Classification
) -> Iterator[tuple[str, float]]:
    modality = next((m for m in data.backbone.modalities if m != "text"), "image")
    if len(labelled.class_names) < 2:
        log.warning("data %s has one class, which any model finds: zeroshot left out", data.name)
        return
    embedded = embed(encode, data.loader(labelled.dataset), modality)
    labels, classes = embedded["label"], len(labelled.class_names)
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise ValueError(
            f"data {data.name}: labels of {split} run from {int(labels.min())} to "
            f"{int(labels.max())} and there are {classes} class names: make them match"
        )
    heads, same = _embed_classes(encode, data, labelled)
    _tell_equal(data, split, labelled.class_names, same)
    listed, largest = zeroshot_hits(embedded[modality], heads, labels, same)
    yield "acc@1", Score.of_hits(listed[:, 0])
    if classes > 5:
        yield "acc@5", listed[:, 4].double().mean().item()
    yield "balanced_acc@1", balanced_accuracy(largest, labels)


def _embed_classes(
    encode: Encode, data: PairData, labelled: Classification
) -> tuple[Tensor, Tensor]:
    """Heads (classes, D), encoded class by class, so that memory stays small; and (classes,)
    int64, equal for classes whose prompts are one to the text tower."""
    heads, ids = [], []
    for label, class_name in enumerate(labelled.class_names):
        tokens = data.backbone.tokenize(labelled.prompts(label))
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

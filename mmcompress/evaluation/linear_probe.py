"""Linear probe: how well classes separate in frozen embeddings, without the text tower."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode, embed
from mmcompress.functional.score import Score
from mmcompress.system.extras import needs_package

log = logging.getLogger(__name__)

NANOSECONDS = 0.1
"""Per item, class, feature and iteration of L-BFGS, on one core; measured at 768 features."""
ITERATIONS = 20
"""About how many a fit takes."""


@needs_package("sklearn", extra="probe")
class LinearProbe:
    """Yields `linear_probe/acc@1`: of logistic regression from embeddings to classes.

    As in CLIP (Radford et al. 2021, arXiv:2103.00020, appendix A.3): fitted on `train` by L-BFGS,
    its L2 strength chosen on `val`, scored on the split.

    Args:
        strengths: inverse L2 strengths C that are tried.
        max_iter: of L-BFGS.
    """

    def __init__(
        self, strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0), max_iter: int = 1000
    ) -> None:
        self.strengths, self.max_iter = list(strengths), max_iter
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"linear_probe.strengths={self.strengths} must hold positive numbers")

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        modality = next((m for m in data.backbone.modalities if m != "text"), "image")
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name in dict.fromkeys(("train", "val", split)):
            labeled = data.classification(name)
            if labeled is None or len(labeled.dataset) == 0:
                log.warning("data %s has no labels in %s: linear probe left out", data.name, name)
                return
            embedded = embed(encode, data.loader(labeled.dataset.plain()), modality)
            seen[name] = embedded[modality], embedded["label"]
        _announce(*seen["train"], fits=len(self.strengths))
        yield "linear_probe/acc@1", probe_accuracy(seen, split, self.strengths, self.max_iter)


def _announce(embedded: Tensor, labels: Tensor, *, fits: int) -> None:
    """Say so where the probe will take minutes, and how to do without."""
    items, features = embedded.shape
    classes = len(labels.unique())
    minutes = NANOSECONDS * 1e-9 * ITERATIONS * fits * items * classes * features / 60
    if minutes >= 1:
        log.warning(
            "linear probe: %d items, %d classes and %d features take about %.0f minutes; "
            "~evaluation.evaluators.linear_probe leaves it out",
            items,
            classes,
            features,
            minutes,
        )


def probe_accuracy(
    seen: dict[str, tuple[Tensor, Tensor]],
    split: str,
    strengths: Sequence[float],
    max_iter: int,
) -> Score:
    """Accuracy on `split` of the classifier that does best on `val`.

    Args:
        seen: split → embeddings (N, D) and labels (N,); holds `train`, `val` and `split`.
        strengths: inverse L2 strengths that are tried; of equals the first is taken.
        max_iter: of L-BFGS.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the linear probe needs scikit-learn: pip install "mmcompress[probe]"'
        ) from error
    best, chosen = -1.0, None
    for strength in strengths:
        classifier = LogisticRegression(C=strength, max_iter=max_iter)
        classifier.fit(*(part.numpy() for part in seen["train"]))
        score = _score(classifier, *seen["val"])
        if score > best:
            best, chosen = score, classifier
    return _score(chosen, *seen[split])


def _score(classifier: object, embedded: Tensor, labels: Tensor) -> Score:
    predicted = torch.from_numpy(classifier.predict(embedded.numpy()))  # type: ignore[attr-defined]
    return Score.of_hits(torch.eq(predicted, labels))

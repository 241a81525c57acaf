"""The loss of a classifier with a fixed list of classes."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import classifier
from mmcompress.functional.distillation import softened_divergence
from mmcompress.objectives.base import Gather, alone, share


class CrossEntropy:
    """Cross entropy of the labels, plus that of the dense model's softened classes.

    "Distilling the Knowledge in a Neural Network", Hinton et al. 2015, arXiv:1503.02531, section 2.

    Args:
        distillation: weight of the Kullback-Leibler divergence from the teacher. Legal: number of
            at least 0.
        temperature: softens both models' outputs; the term is multiplied by its square. Legal:
            number above 0.
    """

    def __init__(self, *, distillation: float = 0.0, temperature: float = 2.0) -> None:
        if distillation < 0 or temperature <= 0:
            raise ValueError(
                f"objective.distillation={distillation} must not be negative and "
                f"objective.temperature={temperature} must be positive"
            )
        self.distillation, self.temperature = distillation, temperature

    @property
    def needs_teacher(self) -> bool:
        return self.distillation > 0

    def __call__(
        self,
        student: Backbone,
        batch: Mapping[str, Tensor],
        *,
        teacher: Backbone | None = None,
        gather: Gather = alone,
    ) -> dict[str, Tensor]:
        """See `Loss`."""
        logits = _logits(student, batch)
        part = share(batch["label"].new_tensor(len(logits)), gather)
        terms = {"cross_entropy": part * F.cross_entropy(logits, batch["label"])}
        if self.needs_teacher:
            assert teacher is not None
            with torch.no_grad():
                theirs = _logits(teacher, batch)
            divergence = softened_divergence(logits, theirs, self.temperature)
            terms["distillation"] = self.distillation * part * divergence
        return terms

    def outputs(self, student: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Loss`."""
        return {"logits": _logits(student, batch), "label": batch["label"]}

    def metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """`acc@1`."""
        hits = torch.eq(outputs["logits"].argmax(dim=1), outputs["label"])
        return {"acc@1": hits.double().mean().item()}


def _logits(backbone: Backbone, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, classes)."""
    fix = "choose objective=contrastive, or another backbone"
    found = classifier(backbone, "objective=cross_entropy needs", fix)
    if "label" not in batch:
        raise ValueError(
            "objective=cross_entropy needs data with labels: choose objective=contrastive, or "
            "other data"
        )
    (modality,) = found.modalities
    return found.class_logits(batch[modality])

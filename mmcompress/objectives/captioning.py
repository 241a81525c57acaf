"""The loss of a model that writes captions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import generator
from mmcompress.functional.distillation import softened_divergence
from mmcompress.functional.tokens import IGNORED, perplexity, token_losses
from mmcompress.objectives.base import Gather, alone, share


class Captioning:
    """Cross entropy of each token of a caption, plus that of the dense model's expectations.

    Word-level distillation of "Sequence-Level Knowledge Distillation", Kim and Rush 2016,
    arXiv:1606.07947, section 3.1.

    Args:
        distillation: weight of the Kullback-Leibler divergence from the teacher. Legal: number of
            at least 0.
        temperature: softens both models' outputs; the term is multiplied by its square. Legal:
            number above 0.
    """

    def __init__(self, *, distillation: float = 0.0, temperature: float = 1.0) -> None:
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
        """See `Loss`; both terms are means over the tokens."""
        logits, targets = _logits(student, batch)
        valid = targets != IGNORED
        part = share(valid.sum(), gather)
        terms = {"captioning": part * F.cross_entropy(logits[valid], targets[valid])}
        if self.needs_teacher:
            assert teacher is not None
            with torch.no_grad():
                theirs, _ = _logits(teacher, batch)
            divergence = softened_divergence(logits[valid], theirs[valid], self.temperature)
            terms["distillation"] = self.distillation * part * divergence
        return terms

    def outputs(self, student: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Loss`."""
        losses, tokens = token_losses(*_logits(student, batch))
        return {"loss": losses, "tokens": tokens}

    def metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """`perplexity`."""
        return {"perplexity": perplexity(outputs["loss"], outputs["tokens"])}


def _logits(backbone: Backbone, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """See `Generator.answer_logits`."""
    fix = "choose backbone=llava, or objective=contrastive"
    return generator(backbone, "objective=captioning needs", fix).answer_logits(batch)
